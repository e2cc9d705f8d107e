"""The audit for leaks: the command, its files, and the counts that training prints next to its scores."""

import json

import numpy as np
import pytest
from PIL import Image

from data_prep.look import footprints
from dual_encoder.data import overlap as stored
from dual_encoder.data.manifest import load_info
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from tests.data_prep.test_sides import scene
from tests.data_prep.test_sides import tiles as cut_tiles
from tests.data_prep.test_spots import planted, texture

ACCEPT = "--accept=offset_present"  # textures are bright in every band


def write_raw(folder, images, ids, **arrays):
    """A raw folder of the importer npz with optical tiles: images uint16 [size, size, 12] in the order of L2A."""
    folder.mkdir(parents=True)
    size = images[0].shape[0]
    np.savez(folder / "tiles.npz", id=np.array(ids), s2=np.moveaxis(np.array(images), -1, 1),
             s2_bands=np.array("B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12".split()),
             label=np.ones((len(ids), size, size), np.uint8), classes=np.array(["dry", "wet"]), **arrays)
    return folder


def optical(image):
    """Twelve bands of an image of any number of bands."""
    return np.ascontiguousarray(image[..., np.arange(12) % image.shape[-1]]).astype(np.uint16)


@pytest.fixture(scope="module")
def build(cli, tmp_path_factory):
    """Returns a function: raw folder, options -> folder of the data set and the process."""
    def run(raw, *options):
        data_dir = tmp_path_factory.mktemp("data")
        process = cli("build", "--importer=npz", "--kind=tiles", f"--raw={raw}", f"--data_dir={data_dir}", ACCEPT,
                      *options)
        assert process.returncode == 0, process.stderr
        return next(data_dir.glob("s1s2_tiles/*/1.0.0")), process
    return run


@pytest.fixture(scope="module")
def training(build, tmp_path_factory):
    """Twelve distinct tiles: places are known of the first six, a kilometre apart."""
    images = [optical(texture(seed)) for seed in range(12)]
    lat = np.where(np.arange(12) < 6, 50 + np.arange(12) * 0.02, np.nan)
    raw = write_raw(tmp_path_factory.mktemp("raw") / "a", images, [f"a{at}" for at in range(12)], lat=lat,
                    lon=np.where(np.isnan(lat), np.nan, 8.0), split=np.array(["train"] * 12))
    return build(raw)[0]


@pytest.fixture(scope="module")
def evaluation(build, tmp_path_factory):
    """Six tiles: two planted copies, one that shares ground with a3, one of a scene next to nothing, two others."""
    random = np.random.default_rng(0)
    copies = [optical(planted(texture(seed), random).astype(np.uint16) * 20 + 1) for seed in (4, 9)]
    images = [*copies, *(optical(texture(seed)) for seed in range(100, 104))]
    half = 480 / footprints.METRES
    raw = write_raw(tmp_path_factory.mktemp("raw") / "b", images, [f"b{at}" for at in range(6)],
                    lat=np.array([np.nan, np.nan, 50.06 + half, 10, 11, 12]),
                    lon=np.array([np.nan, np.nan, 8, 8, 8, 8]),
                    split=np.array(["test"] * 4 + ["validation"] * 2))
    return build(raw)[0]


def test_copies_and_common_ground_are_found(cli, training, evaluation, tmp_path):
    process = cli("overlap", training, evaluation, f"--out={tmp_path / 'pairs.jsonl'}", "--workers=1")
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert {(row["kind"], row["a"]["id"], row["b"]["id"]) for row in rows} == {
        ("duplicate", "a4", "b0"), ("duplicate", "a9", "b1"), ("footprint", "a3", "b2")}
    assert {(row["a"]["split"], row["b"]["split"]) for row in rows} == {("train", "test")}
    assert next(row["metres"] for row in rows if row["kind"] == "footprint") == pytest.approx(480, abs=5)
    assert "6 of 12 records of s1s2_tiles/npz/1.0.0 have no place" in process.stdout
    assert "  a3 (train), b2 (test): 480 m apart" in process.stdout
    assert "test: 3 of 4 records overlap train (1 footprint, 2 duplicate)" in process.stdout
    assert "validation: 0 of 2 records overlap train" in process.stdout
    with Image.open(tmp_path / "pairs.png") as picture:
        assert picture.format == "PNG"
    audit, = stored.load(evaluation)
    assert audit["b"]["fingerprint"] == load_info(evaluation).fingerprint
    assert audit["records"]["test"]["overlap"]["train"] == {
        "footprint": 1, "duplicate": 2, "neighbour": 0, "scene": 0, "any": 3}


def test_the_splits_of_a_data_set_are_compared(cli, build, tmp_path):
    places = cut_tiles(scene(0, 384), 96)
    ids = [f"r{row}c{column}" for row, column in places]
    splits = ["test" if column == 3 else "train" for _, column in places]
    folder, _ = build(write_raw(tmp_path / "raw", [optical(image) for image in places.values()], ids,
                                split=np.array(splits)))
    process = cli("overlap", folder, "--workers=1")
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line) for line in (folder / "overlap.jsonl").read_text().splitlines()]
    assert {tuple(sorted((row["a"]["id"], row["b"]["id"]))) for row in rows} == {
        (f"r{row}c2", f"r{row}c3") for row in range(4)}
    assert {row["kind"] for row in rows} == {"neighbour"}
    assert "test: 4 of 4 records overlap train (4 neighbour, 4 scene)" in process.stdout
    assert "train: 12 of 12 records overlap test (4 neighbour, 12 scene)" in process.stdout


@pytest.mark.parametrize("arguments, message", [
    (["{a}/nothing"], "data folder '{a}/nothing' does not exist"),
    (["{a}"], "'{a}' has one split, train; name another data set to compare it with"),
    (["{a}", "gs://bucket/b"], "gs://bucket/b"),
    (["{a}", "{b}", "--out=/nowhere/x.jsonl"], "cannot write to the folder '/nowhere'; name a folder that exists"),
    (["{a}", "{b}", "--workers=0"], "--workers=0 must be at least 1"),
])
def test_mistakes_end_with_one_line(cli, training, evaluation, arguments, message):
    names = {"a": training, "b": evaluation}
    process = cli("overlap", *(argument.format(**names) for argument in arguments))
    assert process.returncode == 2 and process.stderr.count("\n") == 1, process.stderr
    assert message.format(**names) in process.stderr


def test_data_sets_without_a_common_band_are_named(cli, training, tiny):
    from data_prep.look import views
    ours, both = load_info(training).sensors, load_info(tiny[0]).sensors
    with pytest.raises(UserError, match=r"no band in common \(s2 B01 .* B12; s1 VV VH\)"):
        views.shared(ours, {"s1": both["s1"]})
    assert [view.bands for view in views.shared(both, both)] == [("B08", "B03", "B04"), ("VV", "VH")]


# build --exclude

def test_a_build_leaves_out_what_overlaps_another_data_set(cli, build, training, evaluation, tmp_path):
    images = [optical(texture(seed)) for seed in range(12)]
    lat = np.where(np.arange(12) < 6, 50 + np.arange(12) * 0.02, np.nan)
    raw = write_raw(tmp_path / "raw", images, [f"a{at}" for at in range(12)], lat=lat,
                    lon=np.where(np.isnan(lat), np.nan, 8.0), split=np.array(["train"] * 12))
    folder, process = build(raw, f"--exclude={evaluation}", "--num-shards=2")
    rows = {row["id"]: row for row in map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())}
    assert set(rows) == {"a3", "a4", "a9"} and {row["kind"] for row in rows.values()} == {"filter"}
    name = load_info(evaluation).name + "/npz/1.0.0"
    assert rows["a4"]["reason"] == f"shows the same as 'b0' of {name}, split test (--exclude)"
    assert rows["a3"]["reason"] == f"shares ground with 'b2' of {name}, split test (--exclude)"
    assert "built 9 records" in process.stdout
    info = load_info(folder)
    assert info.source["exclude"] == f"{name} {load_info(evaluation).fingerprint[:16]}"
    alone, _ = build(raw, f"--exclude={evaluation}", "--num-shards=2", "--workers=1")
    assert load_info(alone).fingerprint == info.fingerprint != load_info(training).fingerprint
    process = cli("build", "--importer=npz", "--kind=tiles", f"--raw={raw}", f"--data_dir={folder.parents[2]}", ACCEPT)
    assert process.returncode == 2 and f"exclude {name}" in process.stderr and ", not None" in process.stderr
    process = cli("overlap", folder, evaluation, f"--out={tmp_path / 'pairs.jsonl'}")
    assert "test: 0 of 4 records overlap train" in process.stdout, process.stderr


def test_neighbours_of_an_excluded_scene_are_left_out(build, tmp_path):
    places = cut_tiles(scene(0, 288), 96)
    raws = {}
    for name, chosen in (("held", lambda row, column: column == 2), ("rest", lambda row, column: column != 2)):
        kept = {f"r{row}c{column}": optical(image) for (row, column), image in places.items() if chosen(row, column)}
        raws[name] = write_raw(tmp_path / name, list(kept.values()), list(kept), split=np.array(["train"] * len(kept)))
    held, _ = build(raws["held"])
    folder, _ = build(raws["rest"], f"--exclude={held}")
    rows = {row["id"]: row["reason"] for row in map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())}
    assert set(rows) == {"r0c1", "r1c1", "r2c1"}
    assert all(f"is a neighbour of 'r{row}c2'" in rows[f"r{row}c1"] for row in range(3))


@pytest.mark.parametrize("options, message", [
    (["--exclude=nowhere"], "data folder 'nowhere' does not exist"),
    (["--exclude=gs://bucket/b"], "--exclude=gs://bucket/b is a bucket; copy the data set to a folder"),
    (["--exclude={b}", "--exclude={b}"], "--exclude names '{b}' twice; name each data set once"),
])
def test_mistakes_with_exclude_end_with_one_line(cli, evaluation, tmp_path, options, message):
    raw = write_raw(tmp_path / "raw", [optical(texture(0))], ["a"])
    process = cli("build", "--importer=npz", "--kind=tiles", f"--raw={raw}", f"--data_dir={tmp_path / 'data'}", ACCEPT,
                  *(option.format(b=evaluation) for option in options))
    assert process.returncode == 2 and process.stderr.count("\n") == 1, process.stderr
    assert message.format(b=evaluation) in process.stderr


# What training prints

def audit_of(folder, trained, **counts):
    fingerprint = load_info(folder).fingerprint
    return {"a": {"name": "s1s2_pairs/other/1.0.0", "fingerprint": trained},
            "b": {"name": "s1s2_tiles/npz/1.0.0", "fingerprint": fingerprint},
            "records": {"test": {"records": 4, "overlap": {"train": counts}}}}


def test_an_audit_counts_for_its_fingerprints_only(write_dataset):
    folder = write_dataset(train=4, test=4)
    records = Records(folder, "test", ("s1", "s2"))
    missing = "test: not audited for overlap with the training data; run `python -m data_prep overlap "
    assert stored.lines(records, [("ab" * 32, "train")]) == [f"{missing}TRAINING_DATA {folder}`"]
    assert stored.lines(records, [(records.info.fingerprint, "train")]) == [f"{missing}{folder}`"]
    assert stored.lines(records, [(records.info.fingerprint, "test")]) == [
        "test: the model is trained on these records"]
    stored.save(folder, audit_of(folder, "cd" * 32, neighbour=1, any=1))
    stored.save(folder, audit_of(folder, "ab" * 32, neighbour=3, any=3))
    stored.save(folder, audit_of(folder, "ab" * 32, neighbour=2, duplicate=0, any=2))
    assert len(stored.load(folder)) == 2
    assert stored.lines(records, [("ab" * 32, "train")]) == [
        "test: audited against s1s2_pairs/other/1.0.0 (abababababab): 2 of 4 records overlap train (2 neighbour)"]
    assert "not audited" in stored.lines(records, [("ef" * 32, "train")])[0]
    assert "not audited" in stored.lines(Records(folder, "train", ("s1",)), [("ab" * 32, "train")])[0]


def test_a_damaged_audit_is_said_and_replaced(write_dataset):
    folder = write_dataset(train=4, test=4)
    stored.save(folder, audit_of(folder, "ab" * 32, any=2))
    records = Records(folder, "test", ("s1",))
    text = (folder / stored.FILE).read_text()
    for damaged in (text.replace('"any": 2', '"any": 0'), text[:50], "[]", '"x"', "{}", "null"):
        (folder / stored.FILE).write_text(damaged)
        line, = stored.lines(records, [("ab" * 32, "train")])
        assert "overlap.json' is damaged" in line and "delete it and run `python -m data_prep overlap` again" in line
    stored.save(folder, audit_of(folder, "ab" * 32, any=1))
    assert "1 of 4 records overlap train" in stored.lines(records, [("ab" * 32, "train")])[0]
