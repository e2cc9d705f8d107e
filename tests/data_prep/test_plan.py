"""The plan: splits by author or by area, nothing twice, filters before pixels, shards that cover every entry once."""

import json

import pytest

from data_prep.build import plan
from data_prep.build.selection import Filters
from data_prep.importers import Entry, Reject
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick


def make(folder, entries, split_by="source", shards=lambda count: 1, **options):
    return plan.make(folder, iter(entries), {"raw": "r"}, split_by=split_by, count_shards=shards,
                     block_degrees=options.pop("block_degrees", None), filters=options.pop("filters", Filters()))


def ids(made):
    found = {}
    for task in made.tasks():
        found.setdefault(task.split, []).append([entry.id for entry in made.read(task)])
    return found


def entry(name, place="", split="", **facts):
    return Entry(name, place or name, split, {"file": f"{name}.tif", "row": 3}, **facts)


def test_entries_come_back_as_they_were_in_order(tmp_path):
    entries = [entry(f"ä{i}", lat=1.5, lon=-2.25, times={"s1": 7 * i}, cloud=float(i)) for i in range(10)]
    made = make(tmp_path, entries, shards=lambda count: 3)
    tasks = made.tasks()
    assert len({task.split for task in tasks}) == 1  # one cell
    assert [task.stop - task.start for task in tasks] == [3, 3, 4] and {task.shards for task in tasks} == {3}
    assert [item for task in tasks for item in made.read(task)] == entries
    again = plan.load(tmp_path)
    assert again.tasks() == tasks and [item for task in tasks for item in again.read(task)] == entries


def test_places_and_areas_are_never_split(tmp_path):
    dates = [entry(f"{place}_{date}", f"place {place}", "train" if date else "test")
             for place in range(200) for date in range(4)]
    found = ids(make(tmp_path, dates, "area"))
    assert list(found) == ["train", "validation", "test"] and sum(len(group[0]) for group in found.values()) == 800
    places = [{name.split("_")[0] for name in group[0]} for group in found.values()]
    assert not places[0] & places[1] and not places[0] & places[2] and not places[1] & places[2]
    cells = [entry(f"{i}", lat=i % 40 + 0.5 + i * 1e-4, lon=20.5) for i in range(400)]
    found = ids(make(tmp_path, cells, "area"))
    areas = [{int(name) % 40 for name in group[0]} for group in found.values()]
    assert sum(map(len, areas)) == 40 == len(set().union(*areas))


def test_splits_of_the_authors_and_their_gaps(tmp_path, capsys):
    made = make(tmp_path, [entry("b", split="bolivia"), entry("a", split="train"), entry("c")])
    assert ids(made) == {"train": [["a"]], "bolivia": [["b"]]}
    assert "left out 1 of 3 entries that are in no split" in capsys.readouterr().out
    unlabelled = [entry(f"{i}") for i in range(40)]
    found = ids(make(tmp_path, unlabelled))
    assert "no splits: split by area instead" in capsys.readouterr().out
    assert found == ids(make(tmp_path, unlabelled, "area"))


def test_what_is_turned_away_is_named(tmp_path, capsys):
    made = make(tmp_path, [entry("a"), Reject("lost", "no partner"), entry("a", "elsewhere"),
                           entry("late", times={"s1": 0, "s2": 10 * 86400}), entry("cloudy", cloud=80.0)],
                filters=Filters(max_gap_days=5, max_cloud=50))
    assert sum(ids(made).values(), []) == [["a"]] and made.faults == 2
    rows = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(row["id"], row["kind"]) for row in rows] == [
        ("lost", "fault"), ("a", "fault"), ("late", "filter"), ("cloudy", "filter")]
    assert "occurs twice" in rows[1]["reason"] and "10.00 days" in rows[2]["reason"]
    assert "listed 1 entries" in (out := capsys.readouterr().out) and "2 turned away by fault, 2 turned away by" in out
    assert [item.location_id for item in made.read(made.tasks()[0])] == ["a"]  # the first of the two


def test_nothing_left_says_why(tmp_path):
    with pytest.raises(UserError, match="gives no record: it holds no entry; check --raw"):
        make(tmp_path, [])
    with pytest.raises(UserError, match="all 1 entries were turned away, first 'x': broken"):
        make(tmp_path, [Reject("x", "broken")])


def test_a_filtered_entry_does_not_take_the_id(tmp_path):
    made = make(tmp_path, [entry("a", "late", times={"s1": 0, "s2": 10 * 86400}),
                           entry("a", "good", times={"s1": 0, "s2": 0})],
                filters=Filters(max_gap_days=5))
    assert [item.location_id for item in made.read(made.tasks()[0])] == ["good"] and made.faults == 0


def test_a_plan_of_an_older_version_is_refused(tmp_path):
    folder = tmp_path / "incomplete.1.0.0" / "plan"
    folder.mkdir(parents=True)
    make(folder, [entry("a", times={"s1": 5})])
    values = json.loads((folder / "plan.json").read_text())
    values.pop("format")
    (folder / "plan.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="incomplete.1.0.0' is a build that an older version began .*; delete"):
        plan.load(folder)
    (folder / "plan.json").unlink()
    assert plan.load(folder) is None


def test_the_rule_that_was_used_is_told(tmp_path):
    here = {"lat": 1.0, "lon": 2.0}
    assert make(tmp_path, [entry("a", split="train")]).split_by == "source"
    assert make(tmp_path, [entry("a", **here)]).split_by == "area: blocks of 1 degrees"
    assert make(tmp_path, [entry("a")]).split_by.startswith("area: the place or scene of each entry")
    mixed = make(tmp_path, [entry("a", **here), entry("b")], block_degrees=0.5)
    assert mixed.split_by == "area: blocks of 0.5 degrees; 1 of 2 entries, without coordinates, by place"


def test_blocks_are_as_large_as_three_splits_allow(tmp_path, capsys):
    near = [entry(f"{row}_{column}", lat=40.01 + row / 50, lon=7.01 + column / 50)
            for row in range(30) for column in range(30)]
    made = make(tmp_path, near)
    assert made.split_by == "area: blocks of 0.2 degrees" and set(made.entries) == {"train", "validation", "test"}
    assert "a split with less than two places: blocks of 0.2 instead (--block-degrees=0.2" in capsys.readouterr().out
    found = [{tuple(int(part) // 10 for part in name.split("_")) for name in group[0]} for group in ids(made).values()]
    assert sum(map(len, found)) == 9 == len(set().union(*found))  # 3 x 3 blocks of 10 x 10 images, each in one split
    assert ids(make(tmp_path, near, "area", block_degrees=0.2)) == ids(made)
    assert make(tmp_path, near, block_degrees=1.0).split_by == "area: blocks of 1 degrees"
    far = [entry(str(number), lat=number % 40 + 0.5, lon=number + 0.5) for number in range(80)]
    assert make(tmp_path, far).split_by == "area: blocks of 1 degrees"
    assert make(tmp_path, near[:4]).split_by == "area: blocks of 1 degrees"  # no side gives three splits of four places


def test_an_unreadable_raw_folder_is_not_blamed_on_the_output(tmp_path):
    def broken():
        yield entry("a")
        raise PermissionError(13, "Permission denied", "raw/s1")

    with pytest.raises(UserError, match="'raw/s1' cannot be read .Permission denied.; mend it"):
        make(tmp_path, broken())


def test_an_interrupted_listing_leaves_no_plan(tmp_path):
    def broken():
        yield entry("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, broken())
    assert plan.load(tmp_path) is None and list(tmp_path.iterdir()) == []
