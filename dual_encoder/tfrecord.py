"""Random access to TFRecord shards without TensorFlow.

A data set is a folder that `python -m data_prep build` (or `tfds build`) made:

    s1s2_pairs-train.tfrecord-00000-of-00002     the shards, as TFDS writes them
    train.index.npy                              INDEX_DTYPE, one row per record: which shard, where, how long
    manifest.json                                sensors, tensor shapes, digests (see DatasetInfo)

TFRecord framing: uint64 length, uint32 masked crc32c of the length, payload, uint32 masked crc32c of the payload.
"""

import dataclasses
import json
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import google_crc32c
import numpy as np
from etils import epath
from tensorflow_datasets.proto import tf_example_pb2  # at the top: reading threads deadlock in TFDS's lazy imports

from dual_encoder.errors import UserError
from dual_encoder.sensors import SensorSpec

INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i4")])  # offset and length of the payload
MANIFEST = "manifest.json"
HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Stored tensor of one feature: numpy dtype name and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What manifest.json says.

    Attributes:
      name, config, version: the TFDS identity, e.g. 's1s2_pairs', 'bigearthnet', '1.0.0'.
      sensors: feature name ('s1', 's2') -> spec of the stored image.
      tensors: feature name ('s1', 's2', 'label') -> dtype and shape [height, width, bands] or [height, width].
      classes: names of the label values 0, 1, ... (255 is ignored); empty for unlabelled pairs.
      source: importer, licence, attribution and notes, as text.
      shards: split -> shard entries {'file', 'bytes', 'records', 'sha256'} in order.
      fingerprint: sha256 over the shard digests: equal fingerprints are equal records in equal order.
    """

    name: str
    config: str
    version: str
    sensors: Mapping[str, SensorSpec]
    tensors: Mapping[str, TensorInfo]
    classes: tuple[str, ...]
    source: Mapping[str, str]
    shards: Mapping[str, tuple[Mapping[str, Any], ...]]
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Returns what manifest.json holds."""
        return {
            "name": self.name, "config": self.config, "version": self.version,
            "sensors": {k: v.to_json() for k, v in self.sensors.items()},
            "tensors": {k: {"dtype": v.dtype, "shape": list(v.shape)} for k, v in self.tensors.items()},
            "classes": list(self.classes), "source": dict(self.source),
            "shards": {k: [dict(entry) for entry in v] for k, v in self.shards.items()},
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DatasetInfo":
        """Reads what `to_json` returned."""
        return cls(
            name=values["name"], config=values["config"], version=values["version"],
            sensors={k: SensorSpec.from_json(v) for k, v in values["sensors"].items()},
            tensors={k: TensorInfo(v["dtype"], tuple(v["shape"])) for k, v in values["tensors"].items()},
            classes=tuple(values["classes"]), source=dict(values["source"]),
            shards={k: tuple(v) for k, v in values["shards"].items()}, fingerprint=values["fingerprint"])


def load_info(path: epath.PathLike) -> DatasetInfo:
    """Reads the manifest of the data set folder `path`; UserError when there is none."""
    folder = epath.Path(path)
    if not folder.exists():
        raise UserError(f"data folder '{folder}' does not exist; build it with `python -m data_prep build` or set "
                        "--config.data.dir")
    manifest = folder / MANIFEST
    if not manifest.exists():
        below = sorted(p.parent for depth in ("*", "*/*", "*/*/*") for p in folder.glob(f"{depth}/{MANIFEST}"))
        hint = f"it is in '{below[0]}'" if below else "build the data set with `python -m data_prep build`"
        raise UserError(f"'{folder}' holds no {MANIFEST}; {hint}")
    try:
        return DatasetInfo.from_json(json.loads(manifest.read_text()))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"'{manifest}' is damaged ({error!r}); rewrite it with `python -m data_prep verify --rewrite "
                        f"{folder}`") from error


def masked_crc32c(data: bytes) -> int:
    """Returns TFRecord's masked crc32c of `data`."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def scan(path: epath.PathLike) -> Iterator[tuple[int, int]]:
    """Yields (payload offset, payload length) of each record, reading headers only.

    Raises:
      UserError: a damaged header or a truncated file, with the record number and the byte offset.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start, record = 0, 0
        while start < size:
            file.seek(start)
            header = file.read(HEADER.size)
            if len(header) < HEADER.size:
                raise _damaged(path, record, start, "the header is cut off")
            length, crc = HEADER.unpack(header)
            if masked_crc32c(header[:8]) != crc:
                raise _damaged(path, record, start, "the header does not match its checksum")
            end = start + HEADER.size + length + FOOTER.size
            if end > size:
                raise _damaged(path, record, start, f"the record should end at byte {end}, the file ends at {size}")
            yield start + HEADER.size, length
            start, record = end, record + 1


def read_payload(descriptor: int, offset: int, length: int) -> bytes | None:
    """Returns the payload at `offset` of an open shard; None when it is cut off or does not match its checksum."""
    data = os.pread(descriptor, length + FOOTER.size, offset)
    if len(data) != length + FOOTER.size or masked_crc32c(data[:length]) != FOOTER.unpack(data[length:])[0]:
        return None
    return data[:length]


def build_index(folder: epath.Path, info: DatasetInfo, split: str) -> np.ndarray:
    """Returns the index of a split, INDEX_DTYPE [records], by scanning the headers of its shards."""
    rows = [(shard, offset, length) for shard, entry in enumerate(info.shards[split])
            for offset, length in scan(folder / entry["file"])]
    return np.array(rows, INDEX_DTYPE)


def parse(payload: bytes, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Decodes one serialized tf.train.Example.

    Args:
      payload: the record.
      tensors: features to decode as arrays; their bytes are little-endian, C order, as TFDS's BYTES encoding writes.

    Returns:
      tensors as read-only arrays; other features as bytes, int or float (one value each).

    Raises:
      UserError: a tensor is missing or has another number of bytes.
    """
    features = tf_example_pb2.Example.FromString(payload).features.feature
    record: dict[str, Any] = {}
    for name, feature in features.items():
        values = getattr(feature, feature.WhichOneof("kind")).value
        record[name] = values[0] if len(values) == 1 else list(values)
    for name, info in tensors.items():
        expected = int(np.prod(info.shape)) * np.dtype(info.dtype).itemsize
        seen = len(record[name]) if name in record else None
        if seen != expected:
            raise UserError(f"feature '{name}' has {seen} bytes, {info.dtype}{list(info.shape)} needs {expected}; "
                            "rebuild the data set")
        record[name] = np.frombuffer(record[name], info.dtype).reshape(info.shape)
    return record


class ShardedRecords:
    """The records of one split, by number.

    Safe to share between threads (pread) and to pickle (files are opened again).

    Args:
      path: the data set folder.
      split: the split's name.

    Raises:
      UserError: missing folder, manifest, split or shard; an index that disagrees with the manifest.
    """

    def __init__(self, path: epath.PathLike, split: str):
        self.folder, self.split = epath.Path(path), split
        self.info = load_info(path)
        if split not in self.info.shards:
            raise UserError(f"data set '{self.folder}' has no split '{split}'; it has {sorted(self.info.shards)}")
        self._paths = [os.fspath(self.folder / entry["file"]) for entry in self.info.shards[split]]
        for entry, shard in zip(self.info.shards[split], self._paths, strict=True):
            if not os.path.exists(shard):
                raise UserError(f"shard '{shard}' is missing; restore it or rebuild the data set")
            if os.path.getsize(shard) != entry["bytes"]:
                raise UserError(f"shard '{shard}' has {os.path.getsize(shard)} bytes, the manifest says "
                                f"{entry['bytes']}; run `python -m data_prep verify {self.folder}`")
        index = self.folder / f"{split}.index.npy"
        self._index = (np.load(index, mmap_mode="r") if index.exists()
                       else build_index(self.folder, self.info, split))
        expected = sum(entry["records"] for entry in self.info.shards[split])
        if self._index.dtype != INDEX_DTYPE or len(self._index) != expected:
            raise UserError(f"'{index}' has {len(self._index)} rows, the manifest says {expected} records; delete the "
                            "file to have it rebuilt from the shards")
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._index)

    def __getstate__(self):
        return self.__dict__ | {"_files": {}}

    def payload(self, record: int) -> bytes:
        """Returns the bytes of record `record`; UserError when their checksum is wrong."""
        shard, offset, length = self._index[record].item()
        if shard not in self._files:
            self._files[shard] = os.open(self._paths[shard], os.O_RDONLY)
        data = read_payload(self._files[shard], offset, length)
        if data is None:
            raise _damaged(self._paths[shard], record, offset, "the payload does not match its checksum")
        return data

    def __getitem__(self, record: int) -> dict[str, Any]:
        """Returns record `record`, decoded as `parse` says."""
        return parse(self.payload(record), self.info.tensors)


def _damaged(path: epath.PathLike, record: int, offset: int, what: str) -> UserError:
    return UserError(f"shard '{os.fspath(path)}' is damaged at record {record} (byte {offset}): {what}; run "
                     "`python -m data_prep verify` on its folder and restore or rebuild the shard")
