"""Are two trained models different? Intervals over places and seeds, permutation p-values, and a verdict in words.

Scores of images of one place depend on one another, so places are drawn, never images. A score such as IoU is a
function of sums over images (intersection, union), so each image brings its addends, and a draw of places sums them
anew.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

Statistic = Callable[[np.ndarray], np.ndarray]  # addends summed, float64 [..., k] -> score [...]
Verdict = Literal["gain", "loss", "no difference that matters", "cannot tell"]
_DRAWS = 2000
_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval.

    Attributes:
      value: of all places, the mean over seeds.
      low, high: ends of the interval; NaN if it cannot be computed (one place, or no seed to compare with).
      places, seeds: how many there are.
      variance_of_places, variance_of_seeds: parts of the variance of `value`.
    """

    value: float
    low: float
    high: float
    places: int
    seeds: int
    variance_of_places: float
    variance_of_seeds: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The paired difference of two models on the same images.

    Attributes:
      difference: of the first minus the second, with its interval.
      p_value: two-sided, by permutation; of one comparison, not corrected.
    """

    difference: Interval
    p_value: float


def by_place(addends: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Sums addends over the images of each place.

    Args:
      addends: [seeds, images, k].
      places: [images], equal for images of one place.

    Returns:
      float64 [seeds, places, k].
    """
    _, number = np.unique(places, return_inverse=True)
    sums = np.zeros((addends.shape[0], number.max() + 1, addends.shape[2]))
    for seed, rows in enumerate(addends):
        np.add.at(sums[seed], number, rows)
    return sums


def interval(sums: np.ndarray, statistic: Statistic, seed: int = 0) -> Interval:
    """Returns the score of a model with its interval over places and seeds.

    The variance has two parts: of the places, by bootstrap with the mean over seeds as the score (Efron and Tibshirani
    1993, chapter 6), and of the seeds, the sample variance of their scores divided by their number. The interval is
    that of Student's t with the degrees of freedom of the sum (Satterthwaite 1946). A bootstrap of a few seeds would be
    too narrow.

    Args:
      sums: float64 [seeds, places, k], as of `by_place`.
      statistic: addends summed [..., k] -> score [...].
      seed: of the draws.
    """
    def score(weights: np.ndarray) -> np.ndarray:
        return statistic(np.einsum("dp,spk->dsk", weights, sums))

    return _interval(score, sums.shape[1], sums.shape[0], seed)


def compare(one: np.ndarray, other: np.ndarray, statistic: Statistic, seed: int = 0) -> Comparison:
    """Compares two models that were scored on the same images, seed by seed.

    The p-value is the share of permutations with at least this difference. A permutation exchanges the models at each
    place with probability 1/2, the same for all seeds (Good 2005, section 3.2). So it speaks of these trained models;
    the interval also speaks of other seeds.

    Args:
      one, other: float64 [seeds, places, k] of the same places in the same order, as of `by_place`. Models of one seed
        are a pair, for example by the same order of the data.
      statistic: addends summed [..., k] -> score [...].
      seed: of the draws.
    """
    def difference(weights: np.ndarray) -> np.ndarray:
        first, second = (statistic(np.einsum("dp,spk->dsk", weights, sums)) for sums in (one, other))
        return first - second

    found = _interval(difference, one.shape[1], one.shape[0], seed)
    exchange = np.random.default_rng([seed, 1]).integers(0, 2, (_DRAWS, one.shape[1])).astype(np.float64)
    shift = np.einsum("dp,spk->dsk", exchange, other - one)
    permuted = (statistic(one.sum(axis=1)[None] + shift) - statistic(other.sum(axis=1)[None] - shift)).mean(axis=1)
    # Sums of another order differ in the last bits; they are no smaller difference.
    as_large = np.count_nonzero(np.abs(permuted) >= abs(found.value) - 1e-12)
    return Comparison(found, (1 + as_large) / (1 + _DRAWS))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number, in their order (Holm 1979): each in [0, 1]."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[int(at)] = largest
    return corrected


def verdict(difference: Interval, margin: float) -> tuple[Verdict, str]:
    """Returns a verdict on a difference, and a sentence.

    Args:
      difference: of two models; more is better.
      margin: a smaller difference does not matter, in the unit of the score; more than 0.
    """
    low, high, value = difference.low, difference.high, difference.value
    if math.isnan(low):
        return "cannot tell", f"there is no interval with {difference.places} place; add places"
    if -margin < low and high < margin:
        return "no difference that matters", f"the whole interval is within {margin:g}"
    if low > 0:
        return "gain", "the whole interval is above 0"
    if high < 0:
        return "loss", "the whole interval is below 0"
    return "cannot tell", _needed(difference, max(abs(value), margin))


def _interval(score: Callable[[np.ndarray], np.ndarray], places: int, seeds: int, seed: int) -> Interval:
    """Returns the interval of a score of weighted places; `score`: weights [draws, places] -> [draws, seeds]."""
    of_seeds = score(np.ones((1, places)))[0]
    value = float(of_seeds.mean())
    if places < 2:
        return Interval(value, math.nan, math.nan, places, seeds, math.nan, math.nan)
    draws = np.random.default_rng([seed, 0]).multinomial(places, np.full(places, 1 / places), _DRAWS)
    # The bootstrap divides by n where an unbiased variance divides by n - 1.
    of_places = float(score(draws.astype(np.float64)).mean(axis=1).var(ddof=1)) * places / (places - 1)
    among_seeds = float(of_seeds.var(ddof=1)) / seeds if seeds > 1 else 0.0
    half = _half_width(of_places, places, among_seeds, seeds)
    return Interval(value, value - half, value + half, places, seeds, of_places, among_seeds)


def _half_width(of_places: float, places: int, of_seeds: float, seeds: int) -> float:
    """Returns half the width of a 95 % interval of a sum of two independent parts."""
    from scipy.stats import t  # here: it takes half a second to import

    total = of_places + of_seeds
    if total == 0:
        return 0.0
    freedom = total**2 / (of_places**2 / (places - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0))
    return float(t.ppf(0.5 + _LEVEL / 2, freedom) * math.sqrt(total))


def _needed(difference: Interval, goal: float) -> str:
    """Says how many seeds or places would give an interval of half the width `goal`, if the variances stay."""
    per_place = difference.variance_of_places * difference.places
    per_seed = difference.variance_of_seeds * difference.seeds
    for factor in range(2, 101):
        seeds, places = difference.seeds * factor, difference.places * factor
        with_seeds = _half_width(difference.variance_of_places, difference.places, per_seed / seeds, seeds)
        if difference.seeds > 1 and with_seeds <= goal:
            return f"about {seeds - difference.seeds} more seeds would tell"
        if _half_width(per_place / places, places, difference.variance_of_seeds, difference.seeds) <= goal:
            return f"about {places - difference.places} more places would tell"
    return "more than 100 times the places would be needed"
