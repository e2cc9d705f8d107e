"""Are two trained models different? Intervals over places and seeds, permutation p-values, and a verdict in words.

Scores of images of one place depend on one another, and so do those of places of one scene. So whole places (or other
groups of images) are drawn, never images. A score such as IoU is a function of all images; it is computed anew for each
draw, with the weight of each image: `per_image.ImageScore`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from dual_encoder.evaluation.per_image import ImageScore

Verdict = Literal["gain", "loss", "no difference that matters", "can't tell"]
_DRAWS = 2000
_LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Scored:
    """What one model adds to a score, image by image, for several seeds.

    Attributes:
      values: [seeds, images, k], as of `PerImage`.
      places: [images], equal for images that are drawn together.
      score: of weighted images.
    """

    values: np.ndarray
    places: np.ndarray
    score: ImageScore

    def of_places(self, weights: np.ndarray) -> np.ndarray:
        """Returns the score of each draw and seed, [draws, seeds]; `weights` of the places: [draws, places]."""
        _, number = np.unique(self.places, return_inverse=True)
        return np.stack([self.score(rows, weights[:, number]) for rows in self.values], axis=1)

    def place_sizes(self) -> np.ndarray:
        """Returns the number of images of each place."""
        return np.unique(self.places, return_counts=True)[1]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval.

    Attributes:
      value: of all places, the mean over seeds.
      low, high: ends of the interval; NaN if it cannot be computed (one place, or no seed to compare with).
      places: how many there are. Of places of unequal size their effective number, (sum of n)^2 / sum of n^2 (Kish
        1965, section 8.2).
      seeds: how many there are.
      variance_of_places, variance_of_seeds: parts of the variance of `value`.
    """

    value: float
    low: float
    high: float
    places: float
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


def interval(model: Scored, seed: int = 0) -> Interval:
    """Returns the score of a model with its interval over places and seeds.

    The variance has two parts: of the places, by bootstrap with the mean over seeds as the score (Efron and Tibshirani
    1993, chapter 6), and of the seeds, the sample variance of their scores divided by their number. The interval is
    that of Student's t with the degrees of freedom of the sum (Satterthwaite 1946). A bootstrap of a few seeds would be
    too narrow.

    Args:
      model: its images.
      seed: of the draws.
    """
    return _interval(model.of_places, model.place_sizes(), len(model.values), seed)


def compare(one: Scored, other: Scored, seed: int = 0) -> Comparison:
    """Compares two models that were scored on the same images, seed by seed.

    The p-value is the share of permutations with at least this difference. A permutation exchanges the models at each
    place with probability 1/2, the same for all seeds (Good 2005, section 3.2). So it speaks of these trained models;
    the interval also speaks of other seeds.

    Args:
      one, other: of the same images in the same order. Models of one seed are a pair, for example by the same order
        of the data.
      seed: of the draws.
    """
    found = _interval(lambda weights: one.of_places(weights) - other.of_places(weights), one.place_sizes(),
                      len(one.values), seed)
    kept = np.random.default_rng([seed, 1]).integers(0, 2, (_DRAWS, len(one.place_sizes()))).astype(np.float64)
    # A model that is exchanged at some places is scored on the images of both, one of which has the weight 0.
    both = Scored(np.concatenate([one.values, other.values], axis=1),
                  np.concatenate([_numbers(one.places), _numbers(one.places) + len(one.place_sizes())]), one.score)
    permuted = (both.of_places(np.concatenate([kept, 1 - kept], axis=1))
                - both.of_places(np.concatenate([1 - kept, kept], axis=1))).mean(axis=1)
    # Sums of another order differ in the last bits; they are no smaller difference.
    as_large = np.count_nonzero(np.abs(permuted) >= abs(found.value) - 1e-12)
    return Comparison(found, (1 + as_large) / (1 + _DRAWS))


def _numbers(places: np.ndarray) -> np.ndarray:
    return np.unique(places, return_inverse=True)[1]


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number, in their order (Holm 1979): each in [0, 1]."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[int(at)] = largest
    return corrected


def verdict(difference: Interval, p_value: float, margin: float) -> tuple[Verdict, str]:
    """Returns a verdict on a difference, and a sentence.

    A gain or a loss needs both: an interval that excludes 0, and a p-value of at most 0.05.

    Args:
      difference: of two models; more is better.
      p_value: corrected for the number of comparisons, as of `holm`.
      margin: a smaller difference does not matter, in the unit of the score; more than 0.
    """
    low, high, value = difference.low, difference.high, difference.value
    if math.isnan(low):
        return "can't tell", f"there is no interval with {difference.places:.0f} place; add places"
    if -margin < low and high < margin:
        return "no difference that matters", f"the whole interval is within ±{margin:g}"
    if low > 0 and p_value <= 1 - _LEVEL:
        return "gain", "the whole interval is above 0"
    if high < 0 and p_value <= 1 - _LEVEL:
        return "loss", "the whole interval is below 0"
    return "can't tell", _needed(difference, max(abs(value), margin))


def _interval(score: Callable[[np.ndarray], np.ndarray], sizes: np.ndarray, seeds: int, seed: int) -> Interval:
    """Returns the interval of a score of weighted places; `score`: weights [draws, places] -> [draws, seeds]."""
    places, effective = len(sizes), float(sizes.sum() ** 2 / (sizes**2).sum())
    of_seeds = score(np.ones((1, places)))[0]
    value = float(of_seeds.mean())
    if places < 2:
        return Interval(value, math.nan, math.nan, effective, seeds, math.nan, math.nan)
    draws = np.random.default_rng([seed, 0]).multinomial(places, np.full(places, 1 / places), _DRAWS)
    # The bootstrap divides by n where an unbiased variance divides by n - 1. A draw without a class has no score.
    drawn = score(draws.astype(np.float64)).mean(axis=1)
    of_places = float(np.nanvar(drawn, ddof=1)) * effective / (effective - 1)
    among_seeds = float(of_seeds.var(ddof=1)) / seeds if seeds > 1 else 0.0
    half = _half_width(of_places, effective, among_seeds, seeds)
    return Interval(value, value - half, value + half, effective, seeds, of_places, among_seeds)


def _half_width(of_places: float, places: float, of_seeds: float, seeds: int) -> float:
    """Returns half the width of a 95 % interval of a sum of two independent parts."""
    from scipy.stats import t  # here: it takes half a second to import

    total = of_places + of_seeds
    if total == 0:
        return 0.0
    freedom = total**2 / (of_places**2 / (places - 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0))
    return float(t.ppf(0.5 + _LEVEL / 2, freedom) * math.sqrt(total))


def _needed(difference: Interval, goal: float) -> str:
    """Says how many seeds or places would give an interval of half the width `goal`, if the variances stay."""
    def half(seeds: int, places: float) -> float:
        return _half_width(difference.variance_of_places * difference.places / places, places,
                           difference.variance_of_seeds * difference.seeds / seeds, seeds)

    seeds, places, factors = difference.seeds, difference.places, range(2, 101)
    for factor in factors:
        if seeds > 1 and half(seeds * factor, places) <= goal:
            return f"about {seeds * (factor - 1)} more seeds would tell"
        if half(seeds, places * factor) <= goal:
            return f"about {round(places * (factor - 1))} more independent places would tell"
    for factor in factors:
        if seeds > 1 and half(seeds * factor, places * factor) <= goal:
            return (f"about {seeds * (factor - 1)} more seeds and {round(places * (factor - 1))} more independent "
                    "places would tell")
    return "more than 100 times the places would be needed"
