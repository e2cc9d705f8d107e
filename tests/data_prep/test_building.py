"""Builds by our command and by TFDS: same records as TFDS reads, same bytes every time, places kept whole."""

import json
import shutil

import numpy as np
import pytest

from data_prep import importers
from data_prep.build import config, shards
from data_prep.build.selection import Filters, hashed_split
from data_prep.importers import bigearthnet
from data_prep.record import Pair
from data_prep.s1s2_pairs.s1s2_pairs_dataset_builder import Builder
from dual_encoder.data.manifest import load_info
from dual_encoder.data.tfrecord import ShardedRecords
from dual_encoder.errors import UserError
from dual_encoder.imagery import radiometry
from dual_encoder.imagery.sensors import SENSORS

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


# Configurations

def test_names_of_configs_tell_their_options():
    names = [config.make_config("sen1floods11", "tiles", **options).name for options in (
        {}, {"sensors": ("s2", "s1")}, {"split_by": "area"}, {"labels": "water_weak"}, {"size": 128}, {"size": 512},
        {"name": "mine"})]
    assert names == ["sen1floods11", "sen1floods11_s1_s2", "sen1floods11_by_area", "sen1floods11_water_weak",
                     "sen1floods11_128px", "sen1floods11", "mine"]


@pytest.mark.parametrize("options, message", [
    ({"sensors": ("s3",)}, r"has no image 's3'; valid: s1 \(s1_grd\), s2 \(s2_l2a\)"),
    ({"name": "a/b"}, "config name 'a/b' must be made of letters"),
    ({"sensors": ("s1",)}, "--sensors=s1 leaves one image, pairs and weak labels need s1,s2"),
    ({"size": 121}, "--size=121 is more than the 120 pixels of the raw images"),
    ({"block_degrees": 0}, "--block-degrees=0 must be more than 0"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        config.make_config("bigearthnet", "pairs", **options)


def test_config_by_json_needs_its_fields():
    with pytest.raises(UserError, match="config 'x' has importer='npz' sensors={} size=0; give"):
        config.Config(name="x", importer="npz")
    with pytest.raises(UserError, match="did you mean 'npz'"):
        config.Config(name="x", importer="nzp", sensors={"s1": "s1_grd"}, size=8)
    with pytest.raises(UserError, match="split_by='place'"):
        config.Config(name="x", importer="npz", sensors={"s1": "s1_grd"}, size=8, split_by="place")


def test_manifest_tells_every_choice():
    made = config.make_config("sen1floods11", "pairs", size=256, split_by="area", block_degrees=2,
                                        labels="water_weak", filters=Filters(max_gap_days=3, min_valid=0.5))
    source = made.facts()["source"]
    assert source["patches"] == "256 px, cut from 512 px" and source["split_by"] == "area"
    assert source["filters"] == "max_gap_days=3 min_valid=0.5" and source["labels"] == "water_weak"


def test_tfds_knows_every_importer_with_a_layout_of_its_own():
    known = {config.importer for config in Builder.BUILDER_CONFIGS}
    assert known == set(importers.names()) - {"geotiff", "image_folders", "npz"}  # these depend on the raw folder


# Builds

def test_build_tells_counts_path_and_next_command(built):
    folder, process = built
    assert "built 10 records (train 5, validation 2, test 3)" in process.stdout
    assert f"--config=configs/pretrain.py:small --config.data.dir={folder}" in process.stdout
    assert "10/10 pairs" in process.stdout and process.stderr == ""
    assert "  0-1 days           10 ####" in process.stdout and "time of the workers: read" in process.stdout


def test_manifest_states_the_origin(built):
    info = load_info(built[0])
    assert (info.name, info.config, info.version) == ("s1s2_pairs", "bigearthnet", "1.0.0")
    assert info.sensors == {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}
    assert info.source["importer"] == "bigearthnet" and info.source["split_by"] == "source"
    assert info.source["licence"] == "CDLA-Permissive-1.0" and "Copernicus" in info.source["attribution"]
    assert info.tensors["s2"].shape == (120, 120, 12) and info.classes == ()


def test_index_and_tfds_give_the_same_records(built, python, tmp_path):
    folder, _ = built
    process = python(LOAD_WITH_TFDS, folder, tmp_path / "rows.npz")
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
    assert seen == set(expected) and len(seen) == 110


def test_records_are_the_importers_pairs(built, mini_sets):
    folder, _ = built
    importer = bigearthnet.Importer(mini_sets, "pairs", {"s1": "s1_grd", "s2": "s2_l2a"})
    pairs = {e.id: (e.split, importer.read(e)) for e in importer.entries()}
    for split in load_info(folder).shards:
        records = ShardedRecords(folder, split)
        for record in (records[i] for i in range(len(records))):
            own_split, pair = pairs.pop(record["id"].decode())
            assert own_split == split
            np.testing.assert_array_equal(record["s1"], pair.images["s1"])
            np.testing.assert_array_equal(record["s2"], pair.images["s2"])
            assert (record["s1_time"], record["s2_time"]) == (pair.times["s1"], pair.times["s2"])
            assert record["location_id"].decode() == pair.location_id and record["s2_offset_removed"] == 0
            assert np.isnan(record["lat"]) and record["source"] == b"BigEarthNet v2"
    assert not pairs


def test_equal_builds_give_equal_bytes_and_a_rerun_changes_nothing(built, cli, mini_sets, tmp_path):
    folder, _ = built
    command = "build", "--importer=bigearthnet", f"--raw={mini_sets}", f"--data_dir={tmp_path}"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    assert cli(*command, TMPDIR=str(temporary)).returncode == 0
    assert not list(temporary.iterdir())
    again = tmp_path / "s1s2_pairs" / "bigearthnet" / "1.0.0"
    files = sorted(path.name for path in again.iterdir())
    assert files == sorted(path.name for path in folder.iterdir() if path.suffix != ".png")
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in files)
    assert [path.name for path in again.parent.iterdir()] == ["1.0.0"]
    times = {path: path.stat().st_mtime_ns for path in again.iterdir()}
    process = cli(*command)
    assert process.returncode == 0 and "already built: 10 records" in process.stdout, process.stderr
    assert times == {path: path.stat().st_mtime_ns for path in again.iterdir()}


@pytest.mark.parametrize("options, message", [
    (["--importer=bigearthnet", "--max-gap-days=9"], "filters None, not max_gap_days=9"),
    (["--importer=bigearthnet", "--size=60", "--name=bigearthnet"], "size 120, not 60"),
    (["--importer=npz", "--name=bigearthnet"], "importer bigearthnet, not npz"),
])
def test_a_data_set_is_not_taken_for_another(built, cli, real_data, mini_sets, options, message):
    folder, _ = built
    raw = mini_sets if "npz" not in options[0] else real_data / "bigearthnet"
    process = cli("build", f"--data_dir={folder.parents[2]}", f"--raw={raw}", *options)
    assert process.returncode == 2 and process.stderr.count("\n") == 1, process.stderr
    assert "bigearthnet/1.0.0' was built otherwise: " in process.stderr and message in process.stderr


def test_other_options_may_keep_the_usual_name(built, cli, mini_sets, tmp_path):
    process = cli("build", f"--data_dir={tmp_path}", "--importer=bigearthnet", f"--raw={mini_sets}", "--max-gap-days=9")
    assert process.returncode == 0, process.stderr
    info = load_info(tmp_path / "s1s2_pairs" / "bigearthnet" / "1.0.0")
    assert info.source["filters"] == "max_gap_days=9"
    assert info.shards == load_info(built[0]).shards  # all of them pass


def test_weak_water_tiles(built, cli, mini_sets, tmp_path):
    process = cli("build", "--importer=bigearthnet", f"--raw={mini_sets}", f"--data_dir={tmp_path}",
                  "--labels=water_weak", "--split-by=area")
    assert process.returncode == 0, process.stderr
    folder = tmp_path / "s1s2_tiles" / "bigearthnet_water_weak_by_area" / "1.0.0"
    assert f"--config=configs/finetune.py:small --config.data.dir={folder}" in process.stdout
    info = load_info(folder)
    assert info.classes == ("other", "water", "vegetation") and "weak labels from S2 indices" in info.source["notes"]
    values = set()
    for split in info.shards:
        records = ShardedRecords(folder, split)
        for record in (records[i] for i in range(len(records))):
            np.testing.assert_array_equal(record["label"],
                                          radiometry.weak_water_labels(record["s2"], SENSORS["s2_l2a"]))
            assert hashed_split(record["location_id"].decode()) == split
            assert b"weak labels from S2 indices" in record["source"]
            values |= set(np.unique(record["label"]))
    assert {0, 2} <= values <= {0, 1, 2, 255}


def test_weak_labels_ignore_pixels_without_radar():
    pair = Pair(
        id="p", images={"s1": np.full((2, 2, 2), -1000, np.int16), "s2": np.full((2, 2, 12), 500, np.uint16)},
        times={"s1": 1, "s2": 2}, location_id="here", lat=1.0, lon=2.0, source="S", s2_offset_removed=0, split="train")
    pair.images["s1"][0, 1], pair.images["s2"][1, 1] = -32768, 0
    tile = shards.label_by_indices(pair, {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]})
    assert tile.label.tolist() == [[0, 255], [0, 255]] and tile.source == "S; weak labels from S2 indices"
    assert (tile.times["s1"], tile.location_id, tile.split) == (1, "here", "train")


def test_unusable_records_are_set_aside(cli, real_data, tmp_path):
    raw, data_dir = tmp_path / "raw", tmp_path / "data"
    hand = real_data / "sen1floods11/data/flood_events/HandLabeled"
    for name in ("Spain_7370579", "India_900498", "Paraguay_34417", "Ghana_83483"):
        for layer in ("S1Hand", "LabelHand"):
            target = raw / "HandLabeled" / layer
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(hand / layer / f"{name}_{layer}.tif", target / f"{name}_{layer}.tif")
    radar = raw / "HandLabeled/S1Hand/India_900498_S1Hand.tif"
    radar.write_bytes(radar.read_bytes()[:100_000])
    command = "build", "--importer=sen1floods11", "--kind=tiles", f"--raw={raw}", f"--data_dir={data_dir}"
    process = cli(*command)
    assert process.returncode == 0, process.stderr
    folder = data_dir / "s1s2_tiles/sen1floods11/1.0.0"
    rows = {row["id"]: row for row in map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())}
    assert set(rows) == {"India_900498", "Paraguay_34417", "Ghana_83483"}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "India_900498": "fault", "Paraguay_34417": "fault", "Ghana_83483": "filter"}
    assert "India_900498_S1Hand.tif' cannot be read as GeoTIFF" in rows["India_900498"]["reason"]
    assert "without data in every pixel" in rows["Paraguay_34417"]["reason"]
    assert "no pixel has a label (keep such tiles with --keep-unlabelled)" in rows["Ghana_83483"]["reason"]
    assert f"2 unusable and 1 filtered out, see {folder / 'rejected.jsonl'}" in process.stdout
    records = ShardedRecords(folder, hashed_split("Spain_7370579"))
    assert [records[i]["id"] for i in range(len(records))] == [b"Spain_7370579"]


@pytest.mark.parametrize("arguments, message", [
    (["--importer=bigerthnet", "--raw=nowhere"], "unknown importer 'bigerthnet'; did you mean 'bigearthnet'?"),
    (["--importer=ombria", "--raw=nowhere"], "raw folder 'nowhere' is missing"),
    (["--importer=ombria", "--raw=.", "--labels=water_weak", "--kind=pairs"], "labels make tiles; drop one of the two"),
    (["--importer=ombria", "--raw=.", "--sensors=s1"], "--sensors=s1 leaves one image"),
    (["--importer=ombria", "--raw=.", "--sensors=vv"], "has no image 'vv'"),
    (["--importer=npz", "--raw=."], "holds no .npz file"),
    (["--importer=ombria", "--raw=.", "--data_dir=gs://b"], "--data_dir=gs://b is a bucket; build in a folder"),
    (["--importer=ombria", "--raw=.", "--data_dir=a,b"], "a,b' of --data_dir has a comma, which joins"),
    (["--importer=ombria", "--raw=gs://b/raw"], "is a bucket; mount it"),
    (["--importer=ombria", "--raw=.", "--name=.."], "config name '..' must be made of letters"),
    (["--importer=ombria", "--raw=.", "--labels=water_weak"], "water_weak labels need bands B03 B04 B08 B11"),
    (["--importer=ombria", "--raw=.", "--workers=0"], "--workers=0"),
    (["--importer=ombria", "--raw=.", "--min-valid=2"], "--min-valid=2.0 must be between 0 and 1"),
])
def test_bad_commands_end_with_one_line(cli, tmp_path, arguments, message):
    process = cli("build", f"--data_dir={tmp_path}/data", *arguments)
    assert process.returncode == 2 and process.stderr.startswith("error: ") and process.stderr.count("\n") == 1
    assert message in process.stderr
    assert "Traceback" in cli("build", f"--data_dir={tmp_path}/data", *arguments, "--debug").stderr


@pytest.mark.slow
def test_plain_tfds_build_gives_the_same_folder(built, python, mini_sets, real_data, tmp_path):
    folder, _ = built
    package = importers.__file__.removesuffix("importers/__init__.py")
    process = python(TFDS_BUILD, f"{package}s1s2_pairs", "--config=bigearthnet", f"--manual_dir={mini_sets}",
                     f"--data_dir={tmp_path}")
    assert process.returncode == 0, process.stderr
    plain = tmp_path / "s1s2_pairs" / "bigearthnet" / "1.0.0"
    shards = [path.name for path in folder.iterdir() if ".tfrecord" in path.name]
    for name in ("manifest.json", "train.index.npy", *shards):
        assert (plain / name).read_bytes() == (folder / name).read_bytes(), name
    config = ('{"name": "mine", "importer": "npz", "sensors": {"s1": "s1_grd", "s2": "s2_l2a"}, "size": 120, '
              '"labels": "water_weak", "split_by": "area"}')
    process = python(TFDS_BUILD, f"{package}s1s2_tiles", f"--config={config}",
                     f"--manual_dir={real_data / 'bigearthnet'}", f"--data_dir={tmp_path}")
    assert process.returncode == 0, process.stderr
    info = load_info(tmp_path / "s1s2_tiles" / "mine" / "1.0.0")
    assert sum(entry["records"] for shards in info.shards.values() for entry in shards) == 115
    assert info.classes == ("other", "water", "vegetation")


def test_no_command_loads_tensorflow(python, tiny, real_data, tmp_path):
    folder, _ = tiny
    code = """
import sys
from data_prep.__main__ import main
folder, out, raw = sys.argv[1:]
main(['inspect', folder, f'--out={out}.png'])
main(['stats', folder, f'--out={out}.json'])
main(['verify', folder])
main(['build', '--importer=ombria', f'--raw={raw}', f'--data_dir={out}', '--workers=1'])
assert not {'tensorflow', 'jax', 'rasterio', 'lmdb'} & set(sys.modules), 'loaded'
"""
    process = python(code, folder, tmp_path / "out", real_data / "ombria")
    assert process.returncode == 0, process.stderr
