"""Small raw folders and data sets for the tests of data_prep."""

import functools
import json
import os
import pathlib
import struct
import subprocess
import sys

import lmdb
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy

from data_prep.build import finish
from dual_encoder.data.tfrecord import masked_crc32c
from dual_encoder.imagery.sensors import SENSORS
from tests import commands

ROOT = pathlib.Path(__file__).parents[2]
S2_BANDS = SENSORS["s2_l2a"].bands
COARSE = {"B01": 6, "B09": 6} | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2)


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory):
    """A folder outside the repository."""
    return tmp_path_factory.mktemp("cwd")


@pytest.fixture(scope="session")
def python(elsewhere):
    """Runs `python -c CODE ARGUMENTS` outside the repository; returns the finished process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return lambda code, *arguments: subprocess.run([sys.executable, "-c", code, *map(str, arguments)], cwd=elsewhere,
                                                   env=environment, text=True, capture_output=True, timeout=120)


@pytest.fixture(scope="session")
def cli(elsewhere):
    """Runs `python -m data_prep ARGUMENTS` as a user would, outside the repository; returns the finished process."""
    return functools.partial(commands.run, "-m", "data_prep", cwd=elsewhere, timeout=120)


@pytest.fixture(scope="session")
def real_pairs(real_data):
    """The 32 BigEarthNet v2 pairs of pairs.npz: dict of arrays, images as [pairs, bands, height, width]."""
    with np.load(real_data / "bigearthnet" / "pairs.npz") as file:
        v2 = file["version"] == 2
        return {name: file[name][v2] for name in ("id", "s1_cdb", "s2", "labels")} | {
            name: file[name] for name in ("s1_bands", "s2_bands", "classes")}


def s1_name_of(patch_id: str) -> str:
    """A radar patch name for an optical patch, a day earlier; sorted by it, patches come in another order."""
    _, _, _, _, _, tile, row, column = patch_id.split("_")
    satellite = "S1A" if int(row) % 2 else "S1B"
    return f"{satellite}_IW_GRDH_1SDV_20170612T165043_{tile[1:]}_{int(row)}_{int(column)}"


def native_bands(s2: np.ndarray) -> dict[str, np.ndarray]:
    """Undoes the upsampling of [bands, 120, 120] in L2A order: band -> native resolution."""
    return {band: np.ascontiguousarray(s2[i][::COARSE.get(band, 1), ::COARSE.get(band, 1)])
            for i, band in enumerate(S2_BANDS)}


def write_lmdb(folder, pairs, rows):
    folder.mkdir(parents=True)
    with lmdb.open(str(folder / "BigEarthNet-V2-LMDB"), map_size=2**26) as environment, \
            environment.begin(write=True) as transaction:
        for row in rows:
            patch_id = str(pairs["id"][row])
            vv, vh = pairs["s1_cdb"][row] * np.float32(0.01)
            # VH first, as in sorted file names.
            radar = safetensors.numpy.save({"VH": vh.astype(np.float32), "VV": vv.astype(np.float32)})
            transaction.put(s1_name_of(patch_id).encode(), radar)
            transaction.put(patch_id.encode(), safetensors.numpy.save(native_bands(pairs["s2"][row])))


def cover_of(pairs, row) -> list[str]:
    """Names of the land cover of a row of pairs.npz, as the tables have them: by the alphabet."""
    return sorted(pairs["classes"][pairs["labels"][row]].tolist())


def write_parquet(path, pairs, rows, splits):
    ids = [str(pairs["id"][row]) for row in rows]
    pyarrow.parquet.write_table(pyarrow.table({
        "patch_id": ids, "labels": [cover_of(pairs, row) for row in rows], "split": splits,
        "s1_name": [s1_name_of(patch_id) for patch_id in ids]}), path)


@pytest.fixture(scope="session")
def mini_sets(real_pairs, tmp_path_factory):
    """A raw folder with real pixels in both forms of the configilm mini sets: rows 0..5 (CSV), 4..9 (parquet)."""
    raw = tmp_path_factory.mktemp("mini")
    ids = [str(patch_id) for patch_id in real_pairs["id"][:10]]
    old, new = raw / "configilm-0.6.3" / "BENv2", raw / "configilm-0.7.1" / "BENv2"
    write_lmdb(old, real_pairs, range(6))
    write_lmdb(new, real_pairs, range(4, 10))
    # The tables of the wheels are not in the order of each other.
    s1_lines = [f"{patch_id},{s1_name_of(patch_id)}" for patch_id in ids[:6]]
    (old / "patch_id_s1_mapping.csv").write_text("\n".join(["patch_id,s1_name", *s1_lines]) + "\n")
    split_lines = [f"{patch_id},{'train' if i % 2 else 'test'}" for i, patch_id in enumerate(ids[:6])]
    (old / "patch_id_split_mapping.csv").write_text("\n".join(["patch_id,split", *reversed(split_lines)]) + "\n")
    label_lines = [f'{patch_id},"{name}"' for row, patch_id in enumerate(ids[:6]) for name in cover_of(real_pairs, row)]
    (old / "patch_id_label_mapping.csv").write_text("\n".join(["patch_id,label", *label_lines]) + "\n")
    write_parquet(new / "metadata.parquet", real_pairs, range(4, 8), ["train", "test", "validation", "val"])
    write_parquet(new / "metadata_for_patches_with_snow_cloud_or_shadow.parquet", real_pairs, range(8, 10),
                  ["train", "train"])
    return raw


@pytest.fixture(scope="session")
def built(cli, mini_sets, tmp_path_factory):
    """The folder of a data set that `build` made of `mini_sets`, and the finished process."""
    data_dir = tmp_path_factory.mktemp("built")
    process = cli("build", "--importer=bigearthnet", f"--raw={mini_sets}", f"--data_dir={data_dir}")
    assert process.returncode == 0, process.stderr
    return data_dir / "s1s2_pairs" / "bigearthnet" / "1.0.0", process


def _frame(payload: bytes) -> bytes:
    length = struct.pack("<Q", len(payload))
    return b"".join([length, struct.pack("<I", masked_crc32c(length)), payload,
                     struct.pack("<I", masked_crc32c(payload))])


@pytest.fixture
def tiny(tmp_path):
    """A data set of 8x8 tiles in three shards (4, 3 and 2 records), written without TFDS; returns (folder, images)."""
    from tensorflow_datasets.proto import tf_example_pb2

    folder, random = tmp_path / "tiny", np.random.default_rng(0)
    folder.mkdir()
    images = {"s1": random.integers(-3000, 500, (9, 8, 8, 2), np.int16),
              "s2": random.integers(1, 9000, (9, 8, 8, 12), np.uint16)}
    images["s1"][0, :2] = -32768
    images["s2"][3, 5:] = 0
    images["s1"][5] = -32768
    label = random.integers(0, 3, (9, 8, 8), np.uint8)
    label[2, 0] = 255
    lengths = {"train": [4, 3], "test": [2]}
    number = 0
    for split, counts in lengths.items():
        for shard, count in enumerate(counts):
            frames = []
            for _ in range(count):
                example = tf_example_pb2.Example()
                feature = example.features.feature
                for name, array in (images | {"label": label}).items():
                    feature[name].bytes_list.value.append(array[number].tobytes())
                feature["id"].bytes_list.value.append(f"tile_{number}".encode())
                feature["location_id"].bytes_list.value.append(f"place_{number // 2}".encode())
                feature["s1_time"].int64_list.value.append(1_500_000_000)
                feature["s2_time"].int64_list.value.append(1_500_000_000 + number * 86400 if number else -1)
                frames.append(_frame(example.SerializeToString(deterministic=True)))
                number += 1
            (folder / f"tiny-{split}.tfrecord-{shard:05d}-of-{len(counts):05d}").write_bytes(b"".join(frames))
    sensors = {"s1": "s1_grd", "s2": "s2_l2a"}
    tensors = {name: {"dtype": array.dtype.name, "shape": list(array.shape[1:])}
               for name, array in (images | {"label": label}).items()}
    (folder / "metadata.json").write_text(json.dumps({finish.FACTS: {
        "name": "tiny", "config": "random", "version": "1.0.0", "tensors": tensors, "classes": ["a", "b", "c"],
        "sensors": {feature: SENSORS[name].to_json() for feature, name in sensors.items()},
        "source": {"importer": "none"}}}))
    (folder / "dataset_info.json").write_text(json.dumps({"splits": [
        {"name": split, "shardLengths": [str(count) for count in counts]} for split, counts in lengths.items()]}))
    finish.write(folder)
    return folder, images | {"label": label}
