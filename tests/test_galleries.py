"""Galleries of a stated size and of other groups, against all galleries that can be drawn."""

import itertools

import numpy as np
import pytest

from dual_encoder.evaluation import galleries
from dual_encoder.evaluation.embedded import EmbeddedSplit
from dual_encoder.evaluation.galleries import Ranks, expected_recall, gallery_tables
from dual_encoder.evaluation.retrieval import evaluate_retrieval, partner_ranks
from dual_encoder.evaluation.table import scores as scores_of
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick


def vectors(count, noise, seed=0):
    rng = np.random.default_rng(seed)
    gallery = rng.standard_normal((count, 6))
    return gallery + noise * rng.standard_normal((count, 6)), gallery


def found_in_every_gallery(query, gallery, row, candidates, size, k):
    """Share of the galleries of `size` in which the partner of a query is among the k best, by listing them all."""
    def cosine(other):
        return query[row] @ other / (np.linalg.norm(query[row]) * np.linalg.norm(other))

    similarity = {other: cosine(gallery[other]) for other in candidates}
    own = cosine(gallery[row])
    drawn = list(itertools.combinations(candidates, size - 1))
    return sum(sum(similarity[other] >= own for other in others) < k for others in drawn) / len(drawn)


@pytest.mark.parametrize("size, k", [(2, 1), (4, 1), (6, 5), (9, 1), (9, 5)])
def test_recall_is_the_mean_over_all_galleries(size, k):
    query, gallery = vectors(9, noise=2)
    rank = partner_ranks(query, gallery).all
    assert len(set(rank)) > 3, "the case should be neither trivial nor hopeless"
    expected = [found_in_every_gallery(query, gallery, row, [n for n in range(9) if n != row], size, k)
                for row in range(9)]
    np.testing.assert_allclose(expected_recall(rank - 1, np.full(9, 8), size, k), expected, atol=1e-12)


def test_places_of_the_querys_group_do_not_compete_and_groups_count_the_same(monkeypatch):
    """Groups of 1, 2 and 5 places; every figure against a listing of the galleries."""
    monkeypatch.setattr(galleries, "_SIZES", (3, 100))
    groups = np.array([4, 4, 4, 7, 7, 4, 9, 4])
    query, gallery = vectors(8, noise=1)
    gallery[1] = gallery[0] + 0.01  # a near neighbour of the same group
    ranks = {"s1_to_s2": partner_ranks(query, gallery, groups)}
    figures = scores_of(gallery_tables(ranks, groups))["groups"]
    assert set(figures) == {"s1_to_s2_of_3", "s1_to_s2_of_largest"}
    assert figures["s1_to_s2_of_largest"]["gallery_size"] == 4, "each of the 5 places has 3 of other groups"
    for label, size in (("3", 3), ("largest", 4)):
        means = []
        for group in (4, 7, 9):
            rows = np.flatnonzero(groups == group)
            others = [int(n) for n in np.flatnonzero(groups != group)]
            means.append(np.mean([found_in_every_gallery(query, gallery, row, others, size, 1) for row in rows]))
        found = figures[f"s1_to_s2_of_{label}"]
        assert found["recall@1"] == pytest.approx(np.mean(means), abs=1e-12) and found["recall@5"] is None
        assert found["times_chance"] == pytest.approx(size * np.mean(means), abs=1e-12)
    alone = partner_ranks(query, gallery, np.arange(8))
    np.testing.assert_array_equal(alone.other_groups, partner_ranks(query, gallery).all)


@pytest.mark.parametrize("chunk", [1, 30])
def test_ranks_among_other_groups_do_not_depend_on_the_chunk(monkeypatch, chunk):
    query, gallery = vectors(23, noise=2)
    groups = np.arange(23) % 4
    whole = partner_ranks(query, gallery, groups)
    monkeypatch.setattr("dual_encoder.evaluation.retrieval._CHUNK_VALUES", chunk)
    np.testing.assert_array_equal(partner_ranks(query, gallery, groups), whole)
    assert (whole.other_groups < whole.all).any()


def test_large_galleries_are_exact_at_both_ends():
    """A partner that nothing beats, one that everything beats, and one that half of a million beat."""
    count = 1_000_000
    recall = expected_recall(np.array([0, count, count // 2]), np.full(3, count), 10_000, 10)
    np.testing.assert_allclose(recall, [1, 0, 0], atol=1e-8)
    # One of a million beats the partner: it is not drawn with the probability 1 - 9,999 / 1,000,000.
    assert expected_recall(np.array([1]), np.array([count]), 10_000, 1)[0] == pytest.approx(1 - 0.009999, abs=1e-8)


def test_random_embeddings_are_at_chance_in_every_table():
    rng = np.random.default_rng(0)
    query, gallery = rng.standard_normal((2, 1500, 16))
    groups = rng.integers(0, 40, 1500)
    tables = gallery_tables({"a_to_b": partner_ranks(query, gallery, groups)}, groups)
    assert [[row.values[-1] for row in table.rows][:2] for table in tables] == [[100, 1000]] * 2
    for table in tables:
        for row, chance in zip(table.rows, table.references, strict=True):
            # 1,500 queries: the share p of a gallery has a deviation of sqrt(p / 1500) at most.
            for seen, expected in zip(row.values[:3], chance.values[:3], strict=True):
                assert abs(seen - expected) < 4 * np.sqrt(expected / 1500)
            assert chance.values[3] == 1 and row.values[3] == pytest.approx(row.values[0] * row.values[-1])


def test_few_places_and_a_single_group_have_no_table():
    rank = np.arange(1, 101)
    assert gallery_tables({"a_to_b": Ranks(rank, rank)}, None) == []
    assert gallery_tables({"a_to_b": Ranks(rank, np.ones(100, int))}, np.zeros(100, int)) == []
    assert len(gallery_tables({"a_to_b": Ranks(np.arange(1, 102), rank)}, None)) == 1


def test_the_evaluation_takes_the_groups_of_the_places_that_are_kept():
    query, gallery = vectors(6, noise=0)
    split = EmbeddedSplit(
        vectors={"s1": query, "s2": gallery}, sensors={"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]},
        features={"s1": "s1", "s2": "s2"}, places=np.array([4, 4, 7, 9, 7, 9]), groups=np.array([0, 0, 1, 1, 1, 1]),
        record=lambda row: {"s1": np.zeros((8, 8, 2), np.int16), "s2": np.ones((8, 8, 12), np.uint16)})
    scores = evaluate_retrieval(split).scores()
    assert scores["groups"]["s1_to_s2_of_largest"] == {
        "recall@1": 1.0, "recall@5": None, "recall@10": None, "times_chance": 2.0, "gallery_size": 2}
    assert "galleries" not in scores and scores["s1_to_s2"]["gallery_size"] == 3
