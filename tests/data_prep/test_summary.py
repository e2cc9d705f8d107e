"""The content of each split: counted while shards are written, merged, printed with warnings, kept in the manifest."""

import json

import numpy as np
import pytest

from data_prep.build import shards, summary
from data_prep.record import Pair, Tile
from dual_encoder.data.labels import LabelSpec
from dual_encoder.data.manifest import load_info

LAND = LabelSpec("pixel_classes", ("dry", "wet", "snow"))


def tile(place, label):
    images = {"s1": np.zeros((2, 2, 2), np.int16)}
    return Tile(id=place, images=images, times={}, location_id=place, lat=0.0, lon=0.0, source="", s2_offset_removed=0,
                split="", label=np.array(label))


def content(*tiles, spec=LAND):
    counted = summary.Content(spec)
    for one in tiles:
        counted.add(one)
    return counted


def test_records_places_and_pixels_are_counted():
    one = content(tile("p", [[0, 0], [1, 255]]), tile("p", [[0, 1], [255, 255]]))
    other = content(tile("p", [[2, 2], [2, 2]]), tile("q", [[0, 0], [0, 0]]))
    assert (one.records, len(one.places), one.counts.tolist()) == (2, 1, [3, 2, 0])
    again = summary.Content.from_json(json.loads(json.dumps(one.to_json())))
    again.merge(summary.Content.from_json(other.to_json()))
    assert (again.records, len(again.places), again.counts.tolist()) == (4, 2, [7, 2, 4])


@pytest.mark.parametrize("kind, labels, counts", [
    ("image_class", [2, 0, 2], [1, 0, 2]), ("image_classes", [[1, 0, 1], [0, 0, 1]], [1, 0, 2])])
def test_labels_of_images_are_counted_by_record(kind, labels, counts):
    spec = LabelSpec(kind, LAND.classes)
    counted = content(*(tile("p", np.array(label, spec.dtype)) for label in labels), spec=spec)
    assert counted.counts.tolist() == counts
    assert f"dry {1 / len(labels):.2%}" in summary.text({"train": counted}, spec)


def test_labels_that_are_numbers_and_pairs_have_no_classes():
    spec = LabelSpec("number", unit="t/ha")
    assert content(tile("p", np.float32(3)), spec=spec).counts.tolist() == []
    pair = Pair(**{name: getattr(tile("p", 0), name) for name in Pair.__dataclass_fields__})
    assert summary.text({"train": content(pair, spec=None)}, None) == "train 1 records, 1 places"


def test_troubles_of_splits_are_warned_of():
    splits = {"train": content(tile("a", [[0, 2]]), tile("b", [[1, 1]])), "test": content(tile("b", [[0, 1]]))}
    lines = list(summary.lines(splits, LAND))
    assert lines[:2] == ["split train  2 records, 2 places", "split test   1 records, 1 places"]
    assert "  snow                25.00%       0.00%" in lines
    warned = [line for line in lines if line.startswith("warning")]
    assert len(warned) == 3 and "split 'validation' is empty" in warned[0]
    assert "1 places are in split 'train' and in 'test'" in warned[1]
    assert "split 'test' has no snow, other splits have" in warned[2]
    sound = {split: content(tile(split, [[0, 1, 2]])) for split in ("train", "validation", "test")}
    assert not list(summary.warnings(sound, LAND))


def test_shards_of_an_older_version_are_said_not_to_be_counted():
    note = json.loads(shards.Note(5, 2, "ab", np.zeros(0, shards.INDEX_DTYPE), shards.GapHistogram(), [], {},
                                  content(tile("p", [[0, 1]]))).to_json())
    assert shards.Note.from_json(json.dumps(note)).content.records == 1
    del note["content"]
    old = shards.Note.from_json(json.dumps(note))
    assert old.content is None
    joined = summary.join([("train", content(tile("p", [[0]]))), ("test", old.content)], LAND)
    assert summary.text(joined, LAND) == ""
    assert list(summary.lines(joined, LAND)) == [
        "places and classes were not counted: an older version wrote some of the shards"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Three arrays as `npz` takes them, with labels: one has a class, one lacks any labelled pixel."""
    folder = tmp_path_factory.mktemp("raw")
    random = np.random.default_rng(0)
    label = np.full((3, 8, 8), 255, np.uint8)
    label[0], label[1, 0] = 1, 0
    np.savez(folder / "tiles.npz", id=np.array(["a", "b", "c"]), label=label, classes=np.array(["dry", "wet"]),
             s1_bands=np.array(["VV", "VH"]), split=np.array(["train", "test", "train"]),
             s1_cdb=random.integers(-2000, -500, (3, 2, 8, 8), np.int16))
    return folder


def test_a_build_prints_and_keeps_the_content_and_leaves_out_unlabelled_tiles(raw, cli, tmp_path):
    command = "build", "--importer=npz", "--kind=tiles", f"--raw={raw}", f"--data_dir={tmp_path}"
    process = cli(*command)
    assert process.returncode == 0, process.stderr
    assert "split train  1 records, 1 places" in process.stdout
    assert "warning: split 'validation' is empty" in process.stdout
    assert "warning: split 'test' has no wet, other splits have" in process.stdout
    folder = next(tmp_path.glob("s1s2_tiles/*/1.0.0"))
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [(row["id"], row["kind"]) for row in rejected] == [("c", "filter")]
    text = "train 1 records, 1 places, dry 0.00%, wet 100.00%; test 1 records, 1 places, dry 100.00%, wet 0.00%"
    assert load_info(folder).source["content"] == text
    assert f"content      {text}" in cli("inspect", folder).stdout
    process = cli(*command, "--keep-unlabelled")
    assert process.returncode == 2 and "filters None, not keep_unlabelled=1" in process.stderr
    process = cli(*command, "--keep-unlabelled", "--name=all")
    assert process.returncode == 0 and "built 3 records (train 2, test 1)" in process.stdout, process.stderr
