"""Builds by our command and by TFDS: same records as TFDS reads, same bytes every time, places kept whole."""

import collections
import shutil
import threading
import time

import numpy as np
import pytest

from data_prep import building, radiometry
from data_prep.importers import Entry, bigearthnet
from dual_encoder.errors import UserError
from dual_encoder.sensors import SENSORS
from dual_encoder.tfrecord import ShardedRecords, load_info

LOAD_WITH_TFDS = """
import sys
import numpy as np
import tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
rows = {}
for split in builder.info.splits:
    for number, record in enumerate(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))):
        for name, value in record.items():
            rows[f'{split}/{number}/{name}'] = value if not isinstance(value, bytes) else np.array(value.decode())
np.savez(sys.argv[2], **rows)
"""

# What `tfds build` does after its main module's imports, which ask for apache_beam whether it is used or not.
TFDS_BUILD = """
import sys
from tensorflow_datasets.scripts.cli import build, cli_utils
cli_utils.make_flags_parser(build.Args, description='')(['tfds', *sys.argv[1:]]).execute()
"""


def entry(name, place="", split=""):
    return Entry(name, place or name, split, {})


# Splits

def test_location_split_is_stable_and_about_80_10_10():
    counts = collections.Counter(building.location_split(f"place_{i}") for i in range(20_000))
    assert abs(counts["train"] - 16_000) < 300
    assert abs(counts["validation"] - 2_000) < 200 and abs(counts["test"] - 2_000) < 200
    assert [building.location_split(f"T33UUP_{i}_0") for i in range(6)] == [
        "train", "validation", "train", "test", "validation", "test"]


def test_splits_by_location_never_split_a_place():
    entries = [entry(f"{place}_{date}", f"place {place}", "train" if date else "test")
               for place in range(200) for date in range(4)]
    groups = building.assign_splits(entries, "location")
    assert sum(map(len, groups.values())) == 800 and set(groups) == {"train", "validation", "test"}
    places = [{e.location_id for e in group} for group in groups.values()]
    assert not places[0] & places[1] and not places[0] & places[2] and not places[1] & places[2]


def test_splits_of_the_source_and_their_gaps(capsys):
    entries = [entry("a", split="train"), entry("b", split="bolivia"), entry("c")]
    groups = building.assign_splits(entries, "source")
    assert {split: [e.id for e in group] for split, group in groups.items()} == {"train": ["a"], "bolivia": ["b"]}
    assert "left out 1 of 3 entries that are in no split" in capsys.readouterr().out
    groups = building.assign_splits([entry("a"), entry("b")], "source")
    assert "no splits: split by location instead" in capsys.readouterr().out
    assert groups == building.assign_splits([entry("a"), entry("b")], "location")
    assert all(groups.values())


def test_no_or_double_entries_are_refused():
    with pytest.raises(UserError, match="holds no usable record"):
        building.assign_splits([], "source")
    with pytest.raises(UserError, match="1 ids occur twice, first 'a'"):
        building.assign_splits([entry("a"), entry("b"), entry("a")], "location")


def test_read_ahead_keeps_order_and_stays_a_few_records_ahead():
    started, lock = [], threading.Lock()

    def read(number):
        with lock:
            started.append(number)
        time.sleep(0.001 * (number % 3))
        return number * 10

    ahead = 0
    for position, value in enumerate(building.read_ahead(read, range(60), workers=3)):
        assert value == position * 10
        time.sleep(0.002)  # the consumer is the slow one
        ahead = max(ahead, len(started) - position - 1)
    assert 1 <= ahead <= 6


# Configurations

def test_names_of_configs_tell_their_options():
    names = [building.make_config("sen1floods11", "tiles", **options).name for options in (
        {}, {"features": ("s2", "s1")}, {"split_by": "location"}, {"labels": "water_weak"}, {"name": "mine"})]
    assert names == ["sen1floods11", "sen1floods11_s1_s2", "sen1floods11_by_location", "sen1floods11_water_weak",
                     "mine"]


@pytest.mark.parametrize("options, message", [
    ({"features": ("s3",)}, "has no image 's3'; valid: s1, s2"),
    ({"name": "a/b"}, "config name 'a/b' must be made of letters"),
    ({"features": ("s1",)}, "--sensors=s1 leaves one image, pairs and weak labels need s1,s2"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        building.make_config("bigearthnet", "pairs", **options)


def test_config_by_json_needs_its_fields():
    with pytest.raises(UserError, match="config 'x' has importer='npz' sensors={} size=0; give"):
        building.Config(name="x", importer="npz")
    with pytest.raises(UserError, match="did you mean 'npz'"):
        building.Config(name="x", importer="nzp", sensors={"s1": "s1_grd"}, size=8)
    with pytest.raises(UserError, match="split_by='place'"):
        building.Config(name="x", importer="npz", sensors={"s1": "s1_grd"}, size=8, split_by="place")


# Builds

def test_build_tells_counts_path_and_next_command(built):
    folder, process = built
    assert "built 10 records (train 5, validation 2, test 3)" in process.stdout
    assert f"--config=configs/pretrain.py --config.data.dir={folder}" in process.stdout
    assert "train: 5/5 records" in process.stdout and process.stderr == ""


def test_manifest_states_the_origin(built):
    info = load_info(built[0])
    assert (info.name, info.config, info.version) == ("s1s2_pairs", "bigearthnet", "1.0.0")
    assert info.sensors == {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}
    assert info.source["importer"] == "bigearthnet" and info.source["split_by"] == "source"
    assert info.source["licence"] == "CDLA-Permissive-1.0" and "Copernicus" in info.source["attribution"]
    assert info.tensors["s2"].shape == (120, 120, 12) and info.classes == ()


def test_index_and_tfds_give_the_same_records(built, python, tmp_path):
    folder, _ = built
    process = python("-c", LOAD_WITH_TFDS, folder, tmp_path / "rows.npz")
    assert process.returncode == 0, process.stderr
    with np.load(tmp_path / "rows.npz") as rows:
        expected = {name: rows[name] for name in rows.files}
    seen = set()
    for split in load_info(folder).shards:
        records = ShardedRecords(folder, split)
        for number in range(len(records)):
            for name, value in records[number].items():
                key = f"{split}/{number}/{name}"
                other = expected[key]
                if isinstance(value, bytes):
                    assert value.decode() == str(other), key
                else:
                    np.testing.assert_array_equal(value, other, err_msg=key)
                seen.add(key)
    assert seen == set(expected) and len(seen) == 100


def test_records_are_the_importers_pairs(built, mini_sets):
    folder, _ = built
    importer = bigearthnet.Importer(mini_sets, "pairs", ("s1", "s2"))
    pairs = {e.id: (e.split, importer.read(e)) for e in importer.entries()}
    for split in load_info(folder).shards:
        records = ShardedRecords(folder, split)
        for record in (records[i] for i in range(len(records))):
            own_split, pair = pairs.pop(record["id"].decode())
            assert own_split == split
            np.testing.assert_array_equal(record["s1"], pair.s1)
            np.testing.assert_array_equal(record["s2"], pair.s2)
            assert (record["s1_time"], record["s2_time"]) == (pair.s1_time, pair.s2_time)
            assert record["location_id"].decode() == pair.location_id and record["s2_offset_removed"] == 0
            assert np.isnan(record["lat"]) and record["source"] == b"BigEarthNet v2"
    assert not pairs


def test_equal_builds_give_equal_bytes_and_a_rerun_changes_nothing(built, cli, mini_sets, tmp_path):
    folder, _ = built
    command = "build", "--importer=bigearthnet", f"--raw={mini_sets}", f"--data_dir={tmp_path}"
    assert cli(*command).returncode == 0
    again = tmp_path / "s1s2_pairs" / "bigearthnet" / "1.0.0"
    files = sorted(path.name for path in again.iterdir())
    assert files == sorted(path.name for path in folder.iterdir() if path.suffix != ".png")
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in files)
    # As if the first run had died between TFDS and our manifest.
    (again / "manifest.json").unlink()
    (again / "test.index.npy").unlink()
    times = {path: path.stat().st_mtime_ns for path in again.glob("*tfrecord*")}
    (again.parent / "incomplete.ABC_1.0.0").mkdir()
    process = cli(*command)
    assert process.returncode == 0 and "already built: 10 records" in process.stdout, process.stderr
    assert f"left over from a build that was killed: {again.parent / 'incomplete.ABC_1.0.0'}" in process.stdout
    assert times == {path: path.stat().st_mtime_ns for path in again.glob("*tfrecord*")}
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in files)


def test_names_in_use_are_not_taken_for_another_data_set(built, cli, real_data, mini_sets):
    folder, _ = built
    command = "build", f"--data_dir={folder.parents[2]}", "--name=bigearthnet"
    process = cli(*command, "--importer=npz", f"--raw={real_data / 'bigearthnet'}")
    assert process.returncode == 2 and "--name=bigearthnet is a config of importer 'bigearthnet'" in process.stderr
    shutil.copytree(folder, folder.parents[1] / "mine" / "1.0.0")
    process = cli(*command[:2], "--name=mine", "--importer=npz", f"--raw={real_data / 'bigearthnet'}")
    assert process.returncode == 2 and "mine/1.0.0' was built otherwise" in process.stderr
    assert process.stderr.count("\n") == 1


def test_weak_water_tiles(built, cli, mini_sets, tmp_path):
    process = cli("build", "--importer=bigearthnet", f"--raw={mini_sets}", f"--data_dir={tmp_path}",
                  "--labels=water_weak", "--split-by=location")
    assert process.returncode == 0, process.stderr
    folder = tmp_path / "s1s2_tiles" / "bigearthnet_water_weak_by_location" / "1.0.0"
    assert f"--config=configs/finetune.py --config.data.dir={folder}" in process.stdout
    info = load_info(folder)
    assert info.classes == ("other", "water", "vegetation") and "weak labels from S2 indices" in info.source["notes"]
    values = set()
    for split in info.shards:
        records = ShardedRecords(folder, split)
        for record in (records[i] for i in range(len(records))):
            np.testing.assert_array_equal(record["label"],
                                          radiometry.weak_water_labels(record["s2"], SENSORS["s2_l2a"]))
            assert building.location_split(record["location_id"].decode()) == split
            assert b"weak labels from S2 indices" in record["source"]
            values |= set(np.unique(record["label"]))
    assert {0, 2} <= values <= {0, 1, 2, 255}


def test_weak_labels_ignore_pixels_without_radar():
    pair = building.record.Pair(
        id="p", s1=np.full((2, 2, 2), -1000, np.int16), s2=np.full((2, 2, 12), 500, np.uint16), s1_time=1, s2_time=2,
        location_id="here", lat=1.0, lon=2.0, source="S", s2_offset_removed=0, split="train")
    pair.s1[0, 1], pair.s2[1, 1] = -32768, 0
    tile = building.label_by_indices(pair, {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]})
    assert tile.label.tolist() == [[0, 255], [0, 255]] and tile.source == "S; weak labels from S2 indices"
    assert (tile.s1_time, tile.location_id, tile.split) == (1, "here", "train")


def test_failed_build_leaves_nothing_and_can_be_repeated(cli, real_data, tmp_path):
    raw, data_dir = tmp_path / "raw", tmp_path / "data"
    for name in ("Spain_7370579", "India_900498"):
        for layer in ("S1Hand", "LabelHand"):
            target = raw / "HandLabeled" / layer
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real_data / "sen1floods11/data/flood_events/HandLabeled" / layer / f"{name}_{layer}.tif",
                            target / f"{name}_{layer}.tif")
    label = raw / "HandLabeled/LabelHand/Spain_7370579_LabelHand.tif"
    whole = label.read_bytes()
    label.write_bytes((raw / "HandLabeled/S1Hand/Spain_7370579_S1Hand.tif").read_bytes())
    command = "build", "--importer=sen1floods11", "--kind=tiles", f"--raw={raw}", f"--data_dir={data_dir}"
    process = cli(*command)
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert process.stderr.startswith("error: ") and "LabelHand.tif' has 2 bands, 1 expected" in process.stderr
    assert not list(data_dir.rglob("*.tfrecord*"))
    label.write_bytes(whole)
    process = cli(*command, "--split-by=location")
    assert process.returncode == 0, process.stderr
    records = ShardedRecords(data_dir / "s1s2_tiles/sen1floods11_by_location/1.0.0",
                             building.location_split("Spain_7370579"))
    assert b"Spain_7370579" in [records[i]["id"] for i in range(len(records))]


@pytest.mark.parametrize("arguments, message", [
    (["--importer=bigerthnet", "--raw=nowhere"], "unknown importer 'bigerthnet'; did you mean 'bigearthnet'?"),
    (["--importer=ombria", "--raw=nowhere"], "raw folder 'nowhere' is missing"),
    (["--importer=ombria", "--raw=.", "--labels=water_weak", "--kind=pairs"], "labels make tiles; drop one of the two"),
    (["--importer=ombria", "--raw=.", "--sensors=s1"], "--sensors=s1 leaves one image"),
    (["--importer=ombria", "--raw=.", "--sensors=vv"], "has no image 'vv'"),
    (["--importer=npz", "--raw=."], "holds no .npz file"),
])
def test_bad_commands_end_with_one_line(cli, tmp_path, arguments, message):
    process = cli("build", f"--data_dir={tmp_path}/data", *arguments)
    assert process.returncode == 2 and process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert message in process.stderr
    assert "Traceback" in cli("build", f"--data_dir={tmp_path}/data", *arguments, "--debug").stderr


@pytest.mark.slow
def test_plain_tfds_build_gives_the_same_folder(built, python, mini_sets, real_data, tmp_path):
    folder, _ = built
    package = building.__file__.removesuffix("building.py")
    process = python("-c", TFDS_BUILD, f"{package}s1s2_pairs", "--config=bigearthnet", f"--manual_dir={mini_sets}",
                     f"--data_dir={tmp_path}")
    assert process.returncode == 0, process.stderr
    plain = tmp_path / "s1s2_pairs" / "bigearthnet" / "1.0.0"
    shards = [path.name for path in folder.iterdir() if ".tfrecord" in path.name]
    for name in ("manifest.json", "train.index.npy", *shards):
        assert (plain / name).read_bytes() == (folder / name).read_bytes(), name
    config = ('{"name": "mine", "importer": "npz", "sensors": {"s1": "s1_grd", "s2": "s2_l2a"}, "size": 120, '
              '"labels": "water_weak", "split_by": "location"}')
    process = python("-c", TFDS_BUILD, f"{package}s1s2_tiles", f"--config={config}",
                     f"--manual_dir={real_data / 'bigearthnet'}", f"--data_dir={tmp_path}")
    assert process.returncode == 0, process.stderr
    info = load_info(tmp_path / "s1s2_tiles" / "mine" / "1.0.0")
    assert sum(entry["records"] for shards in info.shards.values() for entry in shards) == 115
    assert info.classes == ("other", "water", "vegetation")


def test_only_build_loads_tensorflow(python, tiny, tmp_path):
    folder, _ = tiny
    code = """
import sys
from data_prep.__main__ import main
folder, out = sys.argv[1:]
main(['inspect', folder, f'--out={out}.png'])
main(['stats', folder, f'--out={out}.json'])
main(['verify', folder])
assert not {'tensorflow', 'jax', 'rasterio', 'lmdb'} & set(sys.modules), 'loaded'
"""
    process = python("-c", code, folder, tmp_path / "out")
    assert process.returncode == 0, process.stderr
