"""Data sets of random pairs for the benchmarks: shards, index and manifest, in the format of `data_prep build`."""

import hashlib
import json
import pathlib

import numpy as np

from dual_encoder.data import tfrecord
from dual_encoder.data.manifest import MANIFEST, DatasetInfo, TensorInfo
from dual_encoder.data.tf_message import Example
from dual_encoder.imagery.sensors import sensor

SENSORS = {"s1": sensor("s1_grd"), "s2": sensor("s2_l2a")}


def tensors(size: int) -> dict[str, TensorInfo]:
    """Returns the tensors of a record of `size` x `size` pixels."""
    return {name: TensorInfo(spec.dtype, (size, size, len(spec.bands))) for name, spec in SENSORS.items()}


def image(feature: str, number: int, size: int) -> np.ndarray:
    """Returns the image `feature` of record `number`, [size, size, bands]; random, but always the same."""
    info = tensors(size)[feature]
    limits = np.iinfo(info.dtype)
    values = np.random.default_rng([number, len(info.shape), info.shape[2]])
    return values.integers(limits.min + 1, limits.max, info.shape, info.dtype)


def framed(number: int, size: int) -> bytes:
    """Returns record `number` with its TFRecord header and footer."""
    example = Example()
    feature = example.features.feature
    for name in SENSORS:
        feature[name].bytes_list.value.append(image(name, number, size).tobytes())
    for name, text in (("id", f"pair{number:07d}"), ("location_id", f"place{number:07d}"), ("source", "synthetic")):
        feature[name].bytes_list.value.append(text.encode())
    for name in ("s1_time", "s2_time", "s2_offset_removed"):
        feature[name].int64_list.value.append(1_500_000_000)
    for name in ("lat", "lon", "cloud"):
        feature[name].float_list.value.append(0.5)
    payload = example.SerializeToString(deterministic=True)
    length = len(payload).to_bytes(8, "little")
    return b"".join([length, tfrecord.FOOTER.pack(tfrecord.masked_crc32c(length)), payload,
                     tfrecord.FOOTER.pack(tfrecord.masked_crc32c(payload))])


def write(folder: pathlib.Path, records: int, size: int, shards: int) -> None:
    """Writes a data set of one split, 'train'."""
    folder.mkdir(parents=True)
    entries, rows = [], []
    for shard in range(shards):
        name = f"s1s2_pairs-train.tfrecord-{shard:05d}-of-{shards:05d}"
        first = len(rows)
        with open(folder / name, "wb") as file:
            for number in range(records * shard // shards, records * (shard + 1) // shards):
                record = framed(number, size)
                rows.append((shard, file.tell() + tfrecord.HEADER.size, len(record) - 16))
                file.write(record)
            entries.append({"file": name, "bytes": file.tell(), "records": len(rows) - first, "sha256": ""})
    write_manifest(folder, entries, np.array(rows, tfrecord.INDEX_DTYPE), size)


def write_manifest(folder: pathlib.Path, entries: list[dict], index: np.ndarray, size: int) -> None:
    """Writes manifest.json and the index of split 'train' into the folder of its shards."""
    np.save(folder / "train.index.npy", index)
    fingerprint = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    info = DatasetInfo("s1s2_pairs", "synthetic", "1.0.0", SENSORS, tensors(size), None, {"importer": "synthetic"},
                       {"train": tuple(entries)}, fingerprint)
    (folder / MANIFEST).write_text(json.dumps(info.to_json()))
