"""Intervals, permutations and verdicts: coverage by simulation, exact small cases, equal models."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from dual_encoder.evaluation import comparison
from dual_encoder.evaluation.comparison import Interval, Scored, compare, holm, interval, verdict
from dual_encoder.evaluation.per_image import image_score

pytestmark = pytest.mark.quick


def accuracy(values, weights):
    sums = weights @ values
    return sums[:, 0] / sums[:, 1]


def scored(sums):
    """A model of places with one image each, [seeds, places, 2]."""
    return Scored(sums, np.arange(sums.shape[1]), accuracy)


def rate(sums):
    return sums[0, :, 0].sum() / sums[0, :, 1].sum()


def right(rng, rates):
    """Addends of accuracy [seeds, places, 2] of images of places with these rates, 20 images each."""
    hits = rng.binomial(20, rates)
    return np.stack([hits, np.full_like(hits, 20)], axis=-1).astype(np.float64)


def test_the_value_is_the_score_of_all_images_not_the_mean_of_places():
    assert interval(scored(np.array([[[1.0, 2.0], [90.0, 100.0]]]))).value == pytest.approx(91 / 102)


def test_images_of_a_place_are_drawn_together():
    once = right(np.random.default_rng(0), np.full((2, 25), 0.7))
    places = np.random.default_rng(1).permutation(np.repeat(np.arange(25), 4))
    alone, together = interval(scored(once)), interval(Scored(once[:, places], places, accuracy))
    assert (together.value, together.places) == (pytest.approx(alone.value), 25)
    assert together.low == pytest.approx(alone.low)
    assert interval(scored(once[:, places])).variance_of_places < 0.4 * together.variance_of_places


def test_a_place_with_most_images_leaves_few_effective_places():
    places = np.r_[np.zeros(90, int), np.arange(1, 11)]
    found = interval(Scored(right(np.random.default_rng(0), np.full((1, 100), 0.7)), places, accuracy))
    assert found.places == pytest.approx(100**2 / (90**2 + 10))


def test_the_interval_of_a_mean_is_that_of_the_textbook():
    from scipy.stats import t

    values = np.random.default_rng(0).normal(0.5, 0.1, 40)
    sums = np.stack([values, np.ones(40)], axis=-1)[None]
    found = interval(scored(sums))
    half = t.ppf(0.975, 39) * values.std(ddof=1) / np.sqrt(40)
    # The bootstrap's variance of 2,000 draws has a relative deviation of sqrt(2 / 2000), its root half of it.
    assert found.high - found.value == pytest.approx(half, rel=5 * 0.5 * np.sqrt(2 / 2000))
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_intervals_cover_as_often_as_they_say(monkeypatch):
    monkeypatch.setattr(comparison, "_DRAWS", 300)
    rng, covered, runs = np.random.default_rng(1), 0, 300
    for number in range(runs):
        of_place = np.clip(rng.normal(0.6, 0.15, 30), 0.02, 0.98)  # places differ, seeds as well
        of_seed = rng.normal(0, 0.03, (4, 1))
        found = interval(scored(right(rng, np.clip(of_place + of_seed, 0.01, 0.99))), seed=number)
        covered += found.low <= 0.6 <= found.high
    assert covered / runs > 0.95 - 4 * np.sqrt(0.05 * 0.95 / runs)


def test_few_seeds_make_the_interval_wider_not_narrower():
    sums = np.repeat(right(np.random.default_rng(0), np.full((1, 20), 0.7)), 3, axis=0)
    calm = interval(scored(sums))
    sums[1, :, 0] += 3
    assert calm.variance_of_seeds == 0
    lively = interval(scored(sums))
    assert lively.high - lively.low > 2 * (calm.high - calm.low)


def test_the_p_value_is_that_of_all_permutations():
    rng = np.random.default_rng(3)
    one, other = right(rng, np.full((1, 8), 0.8)), right(rng, np.full((1, 8), 0.6))
    observed = abs(rate(one) - rate(other))
    as_large = []
    for signs in itertools.product([False, True], repeat=8):
        pick = np.array(signs)[None, :, None]
        a, b = np.where(pick, other, one), np.where(pick, one, other)
        as_large.append(abs(rate(a) - rate(b)) >= observed - 1e-12)
    exact = np.mean(as_large)
    assert compare(scored(one), scored(other)).p_value == pytest.approx(exact, abs=5 * np.sqrt(exact / 2000) + 1 / 2000)


def test_equal_models_are_rarely_called_different(monkeypatch):
    monkeypatch.setattr(comparison, "_DRAWS", 400)
    rng, wrong = np.random.default_rng(5), 0
    for number in range(100):
        rates = np.clip(rng.normal(0.6, 0.15, (1, 40)) + rng.normal(0, 0.02, (10, 1)), 0.01, 0.99)
        one, other = right(rng, rates[:5]), right(rng, rates[5:])
        found = compare(scored(one), scored(other), seed=number)
        word, _ = verdict(found.difference, found.p_value, margin=0.005)
        wrong += word in ("gain", "loss")
    assert wrong <= 5


def test_a_true_difference_is_found():
    rng = np.random.default_rng(6)
    rates = np.clip(rng.normal(0.6, 0.1, (5, 40)), 0.05, 0.9)
    better, worse = scored(right(rng, np.clip(rates + 0.08, 0, 1))), scored(right(rng, rates))
    found = compare(better, worse)
    assert verdict(found.difference, found.p_value, 0.01)[0] == "gain" and found.p_value < 0.01
    assert verdict(found.difference, 0.06, 0.01)[0] == "can't tell", "one of many comparisons"
    lost = compare(worse, better)
    assert verdict(lost.difference, lost.p_value, 0.01)[0] == "loss"
    same = compare(worse, worse)
    assert verdict(same.difference, same.p_value, 0.01)[0] == "no difference that matters" and same.p_value == 1.0


def test_rankings_are_compared_as_counts_are():
    """Mean average precision has no sums over images; it is found with the images of both models and their weights."""
    rng = np.random.default_rng(2)
    label = rng.integers(0, 2, (60, 2))
    label[0], label[1] = 1, 0
    good, bad = (np.concatenate([label, np.clip(label * signal + rng.random((60, 2)) * 0.5, 0, 1)], axis=1)[None]
                 for signal in (0.5, 0.02))
    models = [Scored(values, np.arange(60), image_score("probabilities", ("a", "b"), "map")) for values in (good, bad)]
    found = compare(*models)
    assert verdict(found.difference, found.p_value, 0.01)[0] == "gain"
    assert found.difference.value == pytest.approx(
        average_precision_score(label, good[0, :, 2:]) - average_precision_score(label, bad[0, :, 2:]), abs=1e-9)


def test_the_verdict_says_what_would_tell():
    noisy = Interval(0.02, -0.02, 0.06, places=50, seeds=3, variance_of_places=1e-6, variance_of_seeds=1e-4)
    assert "more seeds would tell" in verdict(noisy, 1.0, 0.01)[1]
    small = Interval(0.02, -0.02, 0.06, places=10, seeds=3, variance_of_places=4e-4, variance_of_seeds=1e-7)
    assert "more independent places would tell" in verdict(small, 1.0, 0.01)[1]
    both = Interval(0.02, -0.02, 0.06, places=10, seeds=3, variance_of_places=3e-4, variance_of_seeds=3e-4)
    assert "more seeds and" in verdict(both, 1.0, 0.01)[1] and "more independent places would tell" in verdict(
        both, 1.0, 0.01)[1]
    single = interval(scored(np.ones((2, 1, 2))))
    assert verdict(single, 1.0, 0.01)[0] == "can't tell" and "no interval with 1 place" in verdict(single, 1.0, 0.01)[1]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
