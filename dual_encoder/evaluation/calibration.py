"""Are probabilities frequencies? Temperature scaling, the calibration error, and the bins of a reliability diagram.

Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks: logits / T with one T > 0 that
minimises the negative log-likelihood (section 4.2), and the expected calibration error of 15 bins (equations 2 and 3).
"""

import dataclasses

import numpy as np

BINS = 15
LIMITS = 0.05, 20.0  # of the temperature


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How sure a model is, and how often it is right, of the pixels in each of 15 bins of equal width.

    The confidence of a pixel is the largest of its probabilities. Bin i holds confidences in (i / 15, (i + 1) / 15].

    Attributes:
      counts: pixels in each bin.
      confidence, accuracy: means over the pixels of each bin, in [0, 1]; 0 for an empty bin.
      nll: mean negative log-likelihood of the labels, in nats per pixel.
    """

    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    nll: float

    @property
    def error(self) -> float:
        """The expected calibration error, in [0, 1]: the mean of |accuracy - confidence|, weighted by the counts."""
        gaps = np.abs(np.subtract(self.accuracy, self.confidence))
        return float(np.dot(self.counts, gaps) / max(1, sum(self.counts)))


def temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """Returns the T in `LIMITS` with the smallest mean negative log-likelihood of logits / T.

    It is a convex function of 1 / T: a sum of log-sum-exps of linear functions, less a linear one.

    Args:
      logits: float [pixels, classes].
      label: integer [pixels], classes.
    """
    from scipy import optimize  # here: it takes a third of a second to import

    low, high = (1 / limit for limit in reversed(LIMITS))
    found = optimize.minimize_scalar(lambda inverse: _nll(logits * np.float32(inverse), label), bounds=(low, high),
                                     method="bounded", options={"xatol": 1e-5})
    return float(1 / found.x)


def reliability(logits: np.ndarray, label: np.ndarray) -> Reliability:
    """Returns the bins of the softmax of logits.

    Args:
      logits: float [pixels, classes], already divided by the temperature.
      label: integer [pixels], classes.
    """
    right = logits.argmax(axis=1) == label
    confidence = np.exp(logits.max(axis=1) - _log_sum_exp(logits)).astype(np.float64)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = np.maximum(counts, 1)
    return Reliability(tuple(counts.tolist()),
                       tuple((np.bincount(bins, confidence, BINS) / filled).tolist()),
                       tuple((np.bincount(bins, right, BINS) / filled).tolist()), _nll(logits, label))


def _log_sum_exp(logits: np.ndarray) -> np.ndarray:
    """Returns log sum exp of each row, [pixels]."""
    from scipy import special  # here: it takes a quarter of a second to import

    return special.logsumexp(logits, axis=1)


def _nll(logits: np.ndarray, label: np.ndarray) -> float:
    """Returns the mean negative log-likelihood of the labels, summed in float64."""
    of_label = np.take_along_axis(logits, label[:, None].astype(np.intp), axis=1)[:, 0]
    return float(np.mean(_log_sum_exp(logits) - of_label, dtype=np.float64))
