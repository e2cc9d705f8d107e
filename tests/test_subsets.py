"""Fractions and folds by place: nested, stratified, the same in any order, and mistakes in one line."""

import numpy as np
import pytest

from dual_encoder.config import parse
from dual_encoder.data.batches import in_order
from dual_encoder.data.records import Records
from dual_encoder.data.selection import select
from dual_encoder.data.subsets import WHOLE, SubsetConfig, fold_rows, fraction_rows, groups_of, validation_rows
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick


def places_and_classes(count=200, images=3, seed=0):
    """Places with some images each; class 2 is rare."""
    rng = np.random.default_rng(seed)
    places = [f"place{i}" for i in range(count) for _ in range(images)]
    classes = rng.random((len(places), 3)) < (0.6, 0.3, 0.01)
    return places, classes


def test_smaller_fractions_are_within_larger_ones_and_places_stay_whole():
    places, classes = places_and_classes()
    before: set[int] = set()
    for fraction in (0.1, 0.25, 0.5, 1.0):
        rows = fraction_rows(places, classes, fraction, seed=0)
        assert len(rows) == 3 * round(fraction * 200)
        assert {places[row] for row in rows} == {places[row] for row in rows if row % 3 == 0}
        assert before <= set(rows)
        before = set(rows)


def test_the_order_of_the_records_changes_nothing_and_the_seed_does():
    places, classes = places_and_classes()
    chosen = {places[row] for row in fraction_rows(places, classes, 0.2, seed=0)}
    order = np.random.default_rng(1).permutation(len(places))
    shuffled = [places[at] for at in order]
    assert {shuffled[row] for row in fraction_rows(shuffled, classes[order], 0.2, seed=0)} == chosen
    assert {places[row] for row in fraction_rows(places, classes, 0.2, seed=1)} != chosen


def test_classes_keep_their_share_of_the_places():
    places = [f"p{i}" for i in range(1000)]
    classes = np.zeros((1000, 3), bool)
    classes[:700, 0] = classes[700:950, 1] = classes[950:, 2] = True
    rows = fraction_rows(places, classes, 0.1, seed=3)
    np.testing.assert_allclose(classes[rows].sum(axis=0), [70, 25, 5], atol=1)


def test_a_fraction_without_a_place_of_a_class_is_one_line():
    places = [f"p{i}" for i in range(100)]
    classes = np.ones((100, 2), bool)
    classes[1:, 1] = False
    with pytest.raises(UserError, match=r"a fraction of 0.01 is 1 of 100 places; none of them holds class 1, which 1"):
        for seed in range(3):
            fraction_rows(places, classes, 0.01, seed)
    assert len(fraction_rows(places, np.zeros((100, 0), bool), 0.001, 0)) == 1


def test_folds_divide_the_rows_by_group_and_are_of_similar_size():
    rng = np.random.default_rng(0)
    groups = [f"g{i}" for i in range(23) for _ in range(rng.integers(1, 9))]
    places, held = [f"p{i}" for i in range(len(groups))], []
    for fold in range(5):
        learnt, rows = fold_rows(places, groups, 5, fold)
        assert not {groups[row] for row in learnt} & {groups[row] for row in rows}
        assert sorted([*learnt, *rows]) == list(range(len(groups)))
        held += rows.tolist()
        assert abs(len(rows) - len(groups) / 5) <= 8
    assert sorted(held) == list(range(len(groups)))
    with pytest.raises(UserError, match=r"5 folds of 2 groups \('a', ...\); use at most 2 folds"):
        fold_rows(["1", "2", "3"], ["a", "a", "b"], 5, 0)


def test_images_per_place_do_not_change_the_folds():
    rng = np.random.default_rng(0)
    places = [f"p{i}" for i in range(60)]
    groups = [f"g{i * i % 17}" for i in range(60)]
    repeats = rng.integers(1, 5, 60)
    for fold in range(3):
        once = {places[row] for row in fold_rows(places, groups, 3, fold)[1]}
        many = fold_rows(np.repeat(places, repeats).tolist(), np.repeat(groups, repeats).tolist(), 3, fold)[1]
        assert {np.repeat(places, repeats)[row] for row in many} == once


def test_groups_by_event_and_by_file(tmp_path):
    assert groups_of(["Ghana_1", "Ghana_2", "Spain_7"], "event") == ["Ghana", "Ghana", "Spain"]
    table = tmp_path / "groups.csv"
    table.write_text("location_id,group\na,x\nb,y\n")
    assert groups_of(["b", "a", "b"], str(table)) == ["y", "x", "y"]
    with pytest.raises(UserError, match="has no group of 1 of 2 places, first 'c'"):
        groups_of(["a", "c"], str(table))
    with pytest.raises(UserError, match="groups is 'nowhere'; expected place, event, or a CSV file"):
        groups_of(["a"], "nowhere")
    table.write_text("site,scene\n1,2\n")
    with pytest.raises(UserError, match=r"has the columns \['site', 'scene'\]; expected location_id and group"):
        groups_of(["a"], str(table))


@pytest.mark.parametrize("change, message", [
    ({"fraction": 0.0}, r"fraction is 0.0; expected a share in \(0, 1\]"), ({"folds": 1}, "folds is 1; expected 0, or"),
    ({"folds": 3, "fold": 3}, "fold is 3; expected 0 to 2"), ({"fold": 1}, "fold is 1; expected 0 to 0"),
])
def test_a_mistake_names_the_key(change, message):
    with pytest.raises(UserError, match=message):
        parse(SubsetConfig, WHOLE | change)


def places_of(records):
    return [records.record(number)["location_id"] for number in range(len(records))]


def subset(**changes):
    return parse(SubsetConfig, WHOLE | changes)


@pytest.fixture(scope="module")
def folder(write_dataset):
    return write_dataset(train=40, test=8, places=10, labels="image_class")


def test_folds_of_a_data_set_hold_every_record_once(folder):
    records, held = Records(folder, "train", ("s1", "label")), []
    for fold in range(3):
        learnt, part = select(records, subset(folds=3, fold=fold))
        assert not set(places_of(learnt)) & set(places_of(part)) and len(learnt) + len(part) == 40
        held += [part.record(number)["id"] for number in range(len(part))]
    assert sorted(held) == sorted(records.record(number)["id"] for number in range(40))


def test_settings_are_chosen_without_the_fold(folder):
    records = Records(folder, "train", ("s1", "label"))
    for folds in (0, 3):
        fold = set(places_of(select(records, subset(folds=3))[1])) if folds else set()
        learnt, chosen_on = (set(places_of(part)) for part in select(records, subset(folds=folds, validate=True)))
        assert learnt and chosen_on and not learnt & chosen_on
        assert learnt | chosen_on == set(places_of(records)) - fold
    with pytest.raises(UserError, match=r"1 group to learn from \('a'\), and none is left to choose settings on"):
        validation_rows(["1", "2"], ["a", "a"])


def test_a_part_reads_the_records_that_it_names(folder):
    records = Records(folder, "train", ("s1", "label"))
    part = records.only(np.array([3, 17, 39]))
    assert len(part) == 3
    for number, row in enumerate((3, 17, 39)):
        assert part.record(number)["id"] == records.record(row)["id"]
        np.testing.assert_array_equal(part[number]["s1"], records[row]["s1"])
        assert part[number]["location"] == records[row]["location"]
    (batch, valid), = in_order(part, 4)
    assert valid == 3 and batch["record"].tolist()[:3] == [0, 1, 2]
    np.testing.assert_array_equal(batch["s1"][1], records[17]["s1"])
    assert part.only(np.array([0, 2])).record(1)["id"] == records.record(39)["id"]


def test_a_mixture_keeps_its_shares_in_a_part(folder, write_dataset):
    records = Records(f"{folder},{write_dataset(train=20, seed=4)}", "train", ("s1",), weights=(0.5, 0.5))
    part = records.only(np.array([0, 1, 2, 40, 41, 42, 43, 44]))
    order = part.order(seed=0, batch_size=4)
    rows = np.concatenate([order.numbers(step) for step in range(40)])
    assert part.record(3)["id"] == records.record(40)["id"]
    assert (rows < 3).mean() == 0.5 and set(rows) == set(range(8))


def test_the_whole_reads_nothing(folder, monkeypatch):
    records = Records(folder, "train", ("s1", "label"))
    monkeypatch.setattr(Records, "read_into", None)
    assert select(records, subset()) == (records, None)


def test_a_run_learns_from_the_fraction_and_scores_the_fold(folder):
    from dual_encoder.runtime import mesh
    from dual_encoder.tasks.build import build
    from tests import runs

    config = runs.configure(folder, "land_cover_small", data__subset={"folds": 5, "fold": 1, "fraction": 0.5})
    built = build(config, mesh.make())
    learnt, scored = set(places_of(built.records)), set(places_of(built.eval_records))
    assert (len(learnt), len(scored)) == (4, 2) and not learnt & scored
