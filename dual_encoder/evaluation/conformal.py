"""Intervals of the share of a class in an area, from the errors that a model makes on labelled images.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018, section 2.2): the interval of a new area is its predicted
share, plus or minus a quantile of the errors on areas that the model has not learnt from. It holds at the stated level
on average over new places, whatever the model and the distribution, if new places are drawn as those of the errors.

Areas of one place are alike, so places are what is exchangeable. Lee, Barber and Willett (2023), Distribution-free
inference with hierarchical data, give each of K places the weight 1 / (K + 1), split over its areas, and infinity the
rest. With an area per place it is the quantile of rank ceil((K + 1) level) of split conformal prediction.

Errors are divided by `spread`: a large error is more likely where about half of an area is of the class.
"""

import math
from collections.abc import Sequence

import numpy as np

FLOOR = 0.1  # of the spread: an area without a pixel of the class in the map may still hold some
_SLACK = 1e-9  # of sums of weights


def spread(share: np.ndarray) -> np.ndarray:
    """Returns sqrt(c (1 - c)) + 0.1 of predicted shares c in [0, 1]."""
    return np.sqrt(share * (1 - share)) + FLOOR


def scores(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Returns the errors |c - y| / spread(c) of predicted shares c and true shares y, any shape."""
    return np.abs(predicted - true) / spread(predicted)


def radius(values: np.ndarray, places: Sequence[str], level: float) -> float:
    """Returns the weighted quantile of errors; infinity if there are too few places.

    Args:
      values: float [areas], errors as of `scores`.
      places: of each area.
      level: share of new areas, each of a new place, whose error is at most the result; in (0, 1).
    """
    names, number, areas = np.unique(np.asarray(places, str), return_inverse=True, return_counts=True)
    if not len(names):
        return math.inf
    order = np.argsort(values, kind="stable")
    weight = np.cumsum(1 / (areas[number][order] * (len(names) + 1)))
    reached = weight >= level - _SLACK
    return float(values[order][np.argmax(reached)]) if reached[-1] else math.inf


def places_needed(level: float) -> int:
    """Returns the smallest number of places with which `radius` is finite: K / (K + 1) >= level.

    >>> [places_needed(level) for level in (0.8, 0.9, 0.95)]
    [4, 9, 19]
    """
    return math.ceil(level / (1 - level) - _SLACK)


def interval(share: float, radius: float) -> tuple[float, float]:
    """Returns the lowest and the highest true share for a predicted share in [0, 1], both in [0, 1]."""
    half = radius * float(spread(np.asarray(share)))
    return max(0.0, share - half), min(1.0, share + half)
