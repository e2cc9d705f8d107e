"""Intervals, permutations and verdicts: coverage by simulation, exact small cases, equal models."""

import itertools

import numpy as np
import pytest

from dual_encoder.evaluation import comparison
from dual_encoder.evaluation.comparison import Interval, by_place, compare, holm, interval, verdict

pytestmark = pytest.mark.quick


def iou(sums):
    return sums[..., 0] / sums[..., 1]


def accuracy(sums):
    return sums[..., 0] / sums[..., 1]


def right(rng, rates):
    """Addends of accuracy [seeds, places, 2] of images of places with these rates, 20 images each."""
    hits = rng.binomial(20, rates)
    return np.stack([hits, np.full_like(hits, 20)], axis=-1).astype(np.float64)


def test_addends_are_summed_over_the_images_of_a_place():
    addends = np.arange(2 * 5 * 3).reshape(2, 5, 3)
    places = np.array([7, 3, 7, 7, 3])
    sums = by_place(addends, places)
    np.testing.assert_array_equal(sums[:, 1], addends[:, [0, 2, 3]].sum(axis=1))
    np.testing.assert_array_equal(sums[:, 0], addends[:, [1, 4]].sum(axis=1))


def test_the_value_is_the_score_of_all_images_not_the_mean_of_places():
    sums = np.array([[[1.0, 2.0], [90.0, 100.0]]])
    assert interval(sums, iou).value == pytest.approx(91 / 102)


def test_the_interval_of_a_mean_is_that_of_the_textbook():
    from scipy.stats import t

    values = np.random.default_rng(0).normal(0.5, 0.1, 40)
    sums = np.stack([values, np.ones(40)], axis=-1)[None]
    found = interval(sums, accuracy)
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
        found = interval(right(rng, np.clip(of_place + of_seed, 0.01, 0.99)), accuracy, seed=number)
        covered += found.low <= 0.6 <= found.high
    assert covered / runs > 0.95 - 4 * np.sqrt(0.05 * 0.95 / runs)


def test_few_seeds_make_the_interval_wider_not_narrower():
    sums = np.repeat(right(np.random.default_rng(0), np.full((1, 20), 0.7)), 3, axis=0)
    calm = interval(sums, accuracy)
    sums[1, :, 0] += 3
    assert calm.variance_of_seeds == 0
    lively = interval(sums, accuracy)
    assert lively.high - lively.low > 2 * (calm.high - calm.low)


def test_the_p_value_is_that_of_all_permutations():
    rng = np.random.default_rng(3)
    one, other = right(rng, np.full((1, 8), 0.8)), right(rng, np.full((1, 8), 0.6))
    observed = abs(accuracy(one.sum(axis=1)) - accuracy(other.sum(axis=1)))[0]
    as_large = []
    for signs in itertools.product([False, True], repeat=8):
        pick = np.array(signs)[None, :, None]
        a, b = np.where(pick, other, one), np.where(pick, one, other)
        as_large.append(abs(accuracy(a.sum(axis=1)) - accuracy(b.sum(axis=1)))[0] >= observed - 1e-12)
    exact = np.mean(as_large)
    assert compare(one, other, accuracy).p_value == pytest.approx(exact, abs=5 * np.sqrt(exact / 2000) + 1 / 2000)


def test_equal_models_are_rarely_called_different(monkeypatch):
    monkeypatch.setattr(comparison, "_DRAWS", 400)
    rng, wrong = np.random.default_rng(5), 0
    for number in range(100):
        rates = np.clip(rng.normal(0.6, 0.15, (1, 40)) + rng.normal(0, 0.02, (10, 1)), 0.01, 0.99)
        one, other = right(rng, rates[:5]), right(rng, rates[5:])
        word, _ = verdict(compare(one, other, accuracy, seed=number).difference, margin=0.005)
        wrong += word in ("gain", "loss")
    assert wrong <= 5


def test_a_true_difference_is_found():
    rng = np.random.default_rng(6)
    rates = np.clip(rng.normal(0.6, 0.1, (5, 40)), 0.05, 0.9)
    better, worse = right(rng, np.clip(rates + 0.08, 0, 1)), right(rng, rates)
    found = compare(better, worse, accuracy)
    assert verdict(found.difference, 0.01)[0] == "gain" and found.p_value < 0.01
    assert verdict(compare(worse, better, accuracy).difference, 0.01)[0] == "loss"
    same = compare(worse, worse, accuracy)
    assert verdict(same.difference, 0.01)[0] == "no difference that matters" and same.p_value == 1.0


def test_the_verdict_says_what_would_tell():
    noisy = Interval(0.02, -0.02, 0.06, places=50, seeds=3, variance_of_places=1e-6, variance_of_seeds=1e-4)
    assert "more seeds would tell" in verdict(noisy, 0.01)[1]
    small = Interval(0.02, -0.02, 0.06, places=10, seeds=3, variance_of_places=4e-4, variance_of_seeds=1e-7)
    assert "more places would tell" in verdict(small, 0.01)[1]
    single = interval(np.ones((2, 1, 2)), accuracy)
    assert verdict(single, 0.01)[0] == "cannot tell" and "no interval with 1 place" in verdict(single, 0.01)[1]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
