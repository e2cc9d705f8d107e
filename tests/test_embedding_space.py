"""Rank, uniformity, alignment and modality gap against slow references and known cases."""

import math

import numpy as np
import pytest

from dual_encoder.errors import UserError
from dual_encoder.evaluation import embedding_space
from dual_encoder.evaluation.embedded import EmbeddedSplit
from dual_encoder.evaluation.embedding_space import (
    alignment,
    effective_rank,
    evaluate_embedding_space,
    modality_gap,
    uniformity,
)
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick


def unit(count, dim, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def split(**vectors):
    count = len(next(iter(vectors.values())))
    return EmbeddedSplit(vectors, {view: SENSORS["s1_grd"] for view in vectors}, dict.fromkeys(vectors, "s1"),
                         np.arange(count), lambda row: {})


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_uniformity_equals_the_loop_over_pairs(monkeypatch, chunk):
    monkeypatch.setattr(embedding_space, "_CHUNK", chunk)
    vectors = unit(23, 5)
    kernel = [math.exp(-2 * sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))
              for i, a in enumerate(vectors) for j, b in enumerate(vectors) if i != j]
    assert uniformity(vectors) == pytest.approx(math.log(sum(kernel) / len(kernel)), abs=1e-6)


def test_the_rank_counts_the_directions_in_use():
    assert effective_rank(np.eye(12, dtype=np.float32)) == pytest.approx(12, rel=1e-4)
    assert effective_rank(np.tile(unit(1, 12), (50, 1))) == pytest.approx(1, abs=1e-3)
    weights = np.array([0.5, 0.25, 0.25])
    expected = math.exp(-sum(w * math.log(w) for w in weights))
    assert effective_rank(np.diag(weights)) == pytest.approx(expected, rel=1e-4)


def test_alignment_and_gap_of_known_vectors():
    one, other = np.array([[1, 0], [0, 1]], np.float32), np.array([[1, 0], [0, -1]], np.float32)
    assert alignment(one, other) == pytest.approx(2.0)
    assert modality_gap(one, other) == pytest.approx(1.0)


def test_lengths_do_not_count_and_every_number_is_a_score():
    one, other = unit(40, 8), unit(40, 8, seed=1)
    scores = evaluate_embedding_space(split(s1=one * 3, s2=other)).scores()["space"]
    assert scores["s1"] == pytest.approx({"rank": effective_rank(one), "uniformity": uniformity(one)}, rel=1e-5)
    assert scores["s1_and_s2"] == pytest.approx(
        {"alignment": alignment(one, other), "modality_gap": modality_gap(one, other)}, rel=1e-5)


def test_a_large_split_is_measured_on_evenly_spaced_records(monkeypatch):
    monkeypatch.setattr(embedding_space, "_MOST_ROWS", 20)
    one = unit(400, 6)
    scores = evaluate_embedding_space(split(s1=one, s1_turned=one)).scores()["space"]
    kept = one[np.linspace(0, 399, 20).astype(int)]
    assert scores["s1"]["uniformity"] == pytest.approx(uniformity(kept), rel=1e-5)
    assert scores["s1_and_s1_turned"]["alignment"] == 0


def test_one_record_has_no_uniformity_and_broken_embeddings_are_named():
    assert evaluate_embedding_space(split(s1=unit(1, 4), s2=unit(1, 4))).scores()["space"]["s1"]["uniformity"] is None
    broken = unit(5, 4)
    broken[3] = np.nan
    with pytest.raises(UserError, match="1 of 5 s2 embeddings are not finite"):
        evaluate_embedding_space(split(s1=unit(5, 4), s2=broken))
