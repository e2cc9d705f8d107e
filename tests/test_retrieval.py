"""Retrieval scores against a slow reference, with ties, chunks and broken embeddings."""

import numpy as np
import pytest

from dual_encoder.errors import UserError
from dual_encoder.evaluation import retrieval
from dual_encoder.evaluation.embedded import EmbeddedSplit
from dual_encoder.evaluation.retrieval import (
    evaluate_retrieval,
    one_per_location,
    retrieval_gallery,
    retrieval_scores,
    retrieval_table,
    top_matches,
)
from dual_encoder.evaluation.table import scores as scores_of
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick


def slow_ranks(query, gallery):
    """Rank of row i's partner, in float64 and Python loops."""
    def cosine(a, b):
        return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))

    ranks = []
    for i, q in enumerate(query.astype(np.float64)):
        similarity = [cosine(q, g) for g in gallery.astype(np.float64)]
        ranks.append(1 + sum(s >= similarity[i] for j, s in enumerate(similarity) if j != i))
    return ranks


def noisy_pairs(count, noise, seed=0):
    rng = np.random.default_rng(seed)
    gallery = rng.standard_normal((count, 16)).astype(np.float32)
    return (3 * gallery + noise * rng.standard_normal((count, 16))).astype(np.float32), gallery


@pytest.mark.parametrize("chunk", [1, 7 * 61, 1 << 24])
def test_scores_equal_the_slow_reference_for_any_chunk(monkeypatch, chunk):
    monkeypatch.setattr(retrieval, "_CHUNK_VALUES", chunk)
    query, gallery = noisy_pairs(61, noise=6)
    ranks = slow_ranks(query, gallery)
    assert 1 < np.median(ranks) < 30, "the case should be neither trivial nor hopeless"
    assert retrieval_scores(query, gallery) == pytest.approx({
        **{f"recall@{k}": sum(r <= k for r in ranks) / 61 for k in (1, 5, 10)}, "median_rank": float(np.median(ranks)),
        "mean_reciprocal_rank": sum(1 / r for r in ranks) / 61, "gallery_size": 61})


def test_both_directions_differ():
    query, gallery = noisy_pairs(40, noise=4)
    gallery[:, 0] += 3
    assert retrieval_scores(query, gallery) != retrieval_scores(gallery, query)


def test_collapsed_embeddings_score_nothing():
    rng = np.random.default_rng(0)
    lengths = rng.uniform(0.1, 10, (333, 1)).astype(np.float32)  # one direction, but for float32's rounding
    collapsed = lengths * rng.standard_normal(128).astype(np.float32)
    scores = retrieval_scores(collapsed, collapsed)
    assert scores["recall@10"] == 0 and scores["median_rank"] == 333
    zero = np.zeros((20, 4), np.float32)
    assert retrieval_scores(zero, zero)["median_rank"] == 20


def test_a_twin_of_the_partner_counts_against_us():
    query, gallery = noisy_pairs(12, noise=0)
    assert retrieval_scores(query, gallery)["recall@1"] == 1
    gallery[7] = 2 * gallery[3]  # the same direction
    query[7] = query[3]
    scores = retrieval_scores(query, gallery)
    assert scores["recall@1"] == pytest.approx(10 / 12) and scores["recall@5"] == 1


def test_recall_beyond_the_gallery_is_left_open():
    query, gallery = noisy_pairs(7, noise=0)
    scores = retrieval_scores(query, gallery)
    assert scores["recall@10"] is None and scores["recall@5"] == 1 and scores["gallery_size"] == 7


@pytest.mark.parametrize(("value", "name"), [(np.nan, "query"), (np.inf, "gallery")])
def test_embeddings_that_are_not_finite_are_refused(value, name):
    query, gallery = noisy_pairs(9, noise=1)
    {"query": query, "gallery": gallery}[name][4, 2] = value
    with pytest.raises(UserError, match=f"1 of 9 {name} embeddings are not finite \\(first: row 4\\)"):
        retrieval_scores(query, gallery)
    with pytest.raises(UserError, match="not finite"):
        top_matches(query, gallery, 3)


def test_shapes_that_do_not_pair_are_refused():
    query, gallery = noisy_pairs(9, noise=1)
    with pytest.raises(UserError, match=r"shape \[9, 16\], gallery embeddings \[8, 16\]"):
        retrieval_scores(query, gallery[:8])
    with pytest.raises(UserError, match=r"\[0, 16\]"):
        retrieval_scores(query[:0], gallery[:0])
    with pytest.raises(UserError, match="16 dimensions, gallery embeddings 15"):
        top_matches(query, gallery[:, :15], 2)


def test_top_matches_are_the_most_similar_in_order(monkeypatch):
    monkeypatch.setattr(retrieval, "_CHUNK_VALUES", 100)
    query, gallery = noisy_pairs(30, noise=6)
    unit = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (query[:11], gallery))
    similarity = np.matmul(next(unit), next(unit).T)
    matches = top_matches(query[:11], gallery, 4)
    assert matches.shape == (11, 4)
    for row, found in zip(similarity, matches, strict=True):
        assert list(found) == sorted(range(30), key=lambda j: -row[j])[:4]
    assert top_matches(query[:2], gallery[:3], 5).shape == (2, 3)


def test_first_record_of_each_place_is_kept():
    assert list(one_per_location(["b", "a", "b", "c", "a", "c", "d"])) == [0, 1, 3, 6]


def test_gallery_frames_the_query_and_the_right_answer(real_data):
    with np.load(real_data / "bigearthnet" / "pairs.npz") as pairs:
        s1, s2 = (np.moveaxis(pairs[key][:6], 1, -1) for key in ("s1_cdb", "s2"))
    assert s1.shape == (6, 120, 120, 2) and s2.shape == (6, 120, 120, 12)
    picture = np.asarray(retrieval_gallery(s1[:2], SENSORS["s1_grd"], [s2[:5], s2[1:6]], SENSORS["s2_l2a"],
                                           [[True] + 4 * [False], 5 * [False]]))
    tile, top, legend = 112 + 4, 21, 190  # below the titles; the legend is to the right
    assert picture.shape == (top + 2 * tile + 4, 6 * tile + 4 + legend, 3)
    corner = [[tuple(picture[top + 4 + row * tile, 4 + column * tile].tolist()) for column in range(6)]
              for row in range(2)]
    assert corner[0][1] == (20, 170, 60) and {corner[0][0], corner[1][0]} == {(70, 70, 70)}
    assert (20, 170, 60) not in corner[0][2:] + corner[1]


def test_the_table_holds_the_scores_and_what_chance_gives():
    query, gallery = noisy_pairs(12, noise=4)
    scores = {"s1_to_s2": retrieval_scores(query, gallery), "s2_to_s1": retrieval_scores(gallery, query)}
    table = retrieval_table(scores)
    assert scores_of([table]) == scores and [*scores_of([table])["s1_to_s2"]] == [*scores["s1_to_s2"]]
    assert [row.title for row in table.rows] == ["S1 → S2", "S2 → S1"]
    assert [line.title for line in table.headlines] == [f"recall@1 {row.title}, gallery of 12" for row in table.rows]
    chance, = table.references  # one, as the galleries have one size
    assert chance.values == pytest.approx((1 / 12, 5 / 12, 10 / 12, 6.5, sum(1 / r for r in range(1, 13)) / 12, 12))


def test_chance_is_what_random_embeddings_score():
    rng = np.random.default_rng(1)
    trials = [retrieval_scores(*rng.standard_normal((2, 20, 8)).astype(np.float32)) for _ in range(400)]
    chance = retrieval_table({"a_to_b": trials[0]}).references[0].values
    for column, expected in zip(trials[0], chance, strict=True):
        assert np.mean([trial[column] for trial in trials]) == pytest.approx(expected, rel=0.1), column


def test_evaluation_takes_the_first_record_of_each_place():
    query, gallery = noisy_pairs(6, noise=0)
    first = [0, 2, 3]
    gallery[[1, 4, 5]] *= -1  # wrong, but later records of places that were seen
    drawn = set()

    def record(row):
        drawn.add(row)
        return {"s1": np.full((8, 8, 2), 100 * row, np.int16), "s2": np.full((8, 8, 12), row, np.uint16)}

    split = EmbeddedSplit(
        vectors={"s1": query, "s2": gallery}, sensors={"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]},
        features={"s1": "s1", "s2": "s2"}, places=np.array([4, 4, 7, 9, 7, 9], np.int32), record=record)
    evaluation = evaluate_retrieval(split)
    assert evaluation.scores()["s1_to_s2"]["recall@1"] == 1 and evaluation.scores()["s2_to_s1"]["gallery_size"] == 3
    assert set(evaluation.images) == {picture.name for picture in evaluation.tables[0].pictures}
    assert evaluation.images["retrieval_s1_to_s2"].height == 21 + 3 * (112 + 4) + 4 and drawn == set(first)
    assert split.image("s1", 3)[0, 0, 0] == 300
