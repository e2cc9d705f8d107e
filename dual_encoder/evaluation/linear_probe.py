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
      predict: vectors float [m, dim] -> probability float64 [m, classes].
      strength: the C of scikit-learn that was best on validation.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    strength: float


def linear_probe(train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray],
                 score: Callable[[np.ndarray, np.ndarray], float], single: bool,
                 strengths: Sequence[float] = STRENGTHS) -> LinearProbe:
    """Fits logistic regression on `train` for each strength, and keeps the one that is best on `validation`.

    Vectors are standardised with mean and deviation of `train`. With `single`, the classes exclude each other
    (multinomial); otherwise each class has a regression of its own. A class with one value in all of `train` keeps
    that value as its probability.

    Args:
      train, validation: vectors float [n, dim], and labels 0 or 1 [n, classes].
      score: (labels, probability) -> number, higher is better; of equal ones, the strongest penalty wins.
      single: one class per image.
      strengths: values of C to try, each more than 0.
    """
    mean, std = train[0].mean(axis=0, dtype=np.float64), train[0].std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-12, std, 1.0)
    known, labels = (train[0] - mean) / std, train[1]
    best: tuple[float, float, Callable[[np.ndarray], np.ndarray]] | None = None
    for strength in sorted(strengths):
        with _unfinished_fits():
            predict = _fit(known, labels, single, strength)
        reached = score(validation[1], predict((validation[0] - mean) / std))
        if best is None or reached > best[0]:
            best = reached, strength, predict
    assert best is not None  # there is a strength at least
    chosen = best[2]
    return LinearProbe(lambda queries: chosen((queries - mean) / std), best[1])


def _fit(vectors: np.ndarray, labels: np.ndarray, single: bool, strength: float
         ) -> Callable[[np.ndarray], np.ndarray]:
    """Returns vectors [m, dim] -> probability [m, classes]."""
    classes = labels.shape[1]
    if single:
        present = np.flatnonzero(labels.any(axis=0))
        if len(present) == 1:
            return lambda queries: np.tile(labels[0].astype(np.float64), (len(queries), 1))
        model = _regression(strength).fit(vectors, labels.argmax(axis=1))

        def multinomial(queries: np.ndarray) -> np.ndarray:
            probability = np.zeros((len(queries), classes))
            probability[:, model.classes_] = model.predict_proba(queries)
            return probability

        return multinomial
    models = [_regression(strength).fit(vectors, labels[:, i]) if len(np.unique(labels[:, i])) > 1 else None
              for i in range(classes)]
    return lambda queries: np.stack(
        [np.full(len(queries), float(labels[0, i])) if model is None else model.predict_proba(queries)[:, 1]
         for i, model in enumerate(models)], axis=1)


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression  # here: it takes a second to import

    return LogisticRegression(C=strength, max_iter=_ITERATIONS)


@contextlib.contextmanager
def _unfinished_fits() -> Iterator[None]:
    """Accepts a fit that ends before it converges, as with a weak penalty: validation decides whether it is chosen."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
