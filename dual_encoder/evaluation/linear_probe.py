"""Logistic regression on frozen vectors, with its regularisation chosen on other images than those that are scored."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

STRENGTHS = tuple(10.0**power for power in range(-4, 5))  # of C, the inverse of the weight of the penalty
_ITERATIONS = 1000


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A fitted linear probe.

    Attributes:
      weights: float64 [dim, classes].
      bias: float64 [classes]; plus or minus infinity for a class with one value in all that was learnt from.
      single: one class per image: softmax; otherwise a sigmoid per class.
      strength: the C of scikit-learn that was best on validation.
    """

    weights: np.ndarray
    bias: np.ndarray
    single: bool
    strength: float

    def predict(self, queries: np.ndarray) -> np.ndarray:
        """Returns the probability of vectors float [m, dim], float64 [m, classes]."""
        return self.probability(queries @ self.weights + self.bias)

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """Returns the probability of logits [m, classes]."""
        if self.single:
            shares = np.exp(logits - logits.max(axis=1, keepdims=True))
            return shares / shares.sum(axis=1, keepdims=True)
        return 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow


def linear_probe(train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray],
                 score: Callable[[np.ndarray, np.ndarray], float], single: bool,
                 strengths: Sequence[float] = STRENGTHS, balanced: bool = False) -> LinearProbe:
    """Fits logistic regression on `train` for each strength, and keeps the one that is best on `validation`.

    Vectors are standardised with mean and deviation of `train`. With `single`, the classes exclude each other
    (multinomial); otherwise each class has a regression of its own. A class with one value in all of `train` keeps
    that value as its probability.

    Args:
      train, validation: vectors float [n, dim], and labels 0 or 1 [n, classes].
      score: (labels, probability) -> number, higher is better; of equal ones, the strongest penalty wins.
      single: one class per image.
      strengths: values of C to try, each more than 0.
      balanced: each class counts as much as any other, whatever its share: a label of a class that c of n labels have
        weighs n / (classes c).
    """
    mean, std = train[0].mean(axis=0, dtype=np.float64), train[0].std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-12, std, 1.0)
    known, labels = ((train[0] - mean) / std).astype(np.float32), train[1]
    best: tuple[float, LinearProbe] | None = None
    for strength in sorted(strengths):
        with _unfinished_fits():
            weights, bias = _fit(known, labels, single, strength, balanced)
        weights = weights / std[:, None]  # of vectors that are not standardised
        fitted = LinearProbe(weights, bias - mean @ weights, single, strength)
        reached = score(validation[1], fitted.predict(validation[0]))
        if best is None or reached > best[0]:
            best = reached, fitted
    assert best is not None  # there is a strength at least
    return best[1]


def _fit(vectors: np.ndarray, labels: np.ndarray, single: bool, strength: float, balanced: bool
         ) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights [dim, classes] and bias [classes]."""
    classes = labels.shape[1]
    weights = np.zeros((vectors.shape[1], classes))
    if single:
        present = np.flatnonzero(labels.any(axis=0))
        bias = np.full(classes, -np.inf)
        bias[present] = 0.0
        if len(present) > 1:
            model = _regression(strength, balanced).fit(vectors, labels.argmax(axis=1))
            # Of two classes scikit-learn keeps the difference.
            kept = present[1:] if len(present) == 2 else present
            weights[:, kept], bias[kept] = model.coef_.T, model.intercept_
        return weights, bias
    bias = np.where(labels[0] > 0, np.inf, -np.inf)
    for at in range(classes):
        if len(np.unique(labels[:, at])) > 1:
            model = _regression(strength, balanced).fit(vectors, labels[:, at])
            weights[:, at], bias[at] = model.coef_[0], model.intercept_[0]
    return weights, bias


def _regression(strength: float, balanced: bool) -> Any:
    from sklearn.linear_model import LogisticRegression  # here: it takes a second to import

    return LogisticRegression(C=strength, max_iter=_ITERATIONS, class_weight="balanced" if balanced else None)


@contextlib.contextmanager
def _unfinished_fits() -> Iterator[None]:
    """Accepts a fit that ends before it converges, as with a weak penalty: validation decides whether it is chosen."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
