"""Random access to TFRecord shards without TensorFlow, on a disk or in a bucket.

A data set is a folder that `python -m data_prep build` (or `tfds build`) made:

    s1s2_pairs-train.tfrecord-00000-of-00002     the shards, as TFDS writes them
    train.index.npy                              INDEX_DTYPE, one row per record: which shard, where, how long
    manifest.json                                sensors, tensor shapes, digests: manifest.py

TFRecord framing: uint64 length, uint32 masked crc32c of the length, payload, uint32 masked crc32c of the payload.
"""

import concurrent.futures
import functools
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from awscrt.checksums import crc32c  # releases the interpreter lock; google-crc32c does not
from etils import epath

from dual_encoder.data import index as index_lib
from dual_encoder.data import tf_example
from dual_encoder.data.digests import INDEX
from dual_encoder.data.index import FOOTER as FOOTER
from dual_encoder.data.index import HEADER as HEADER
from dual_encoder.data.index import INDEX_DTYPE as INDEX_DTYPE
from dual_encoder.data.manifest import MANIFEST as MANIFEST
from dual_encoder.data.manifest import DatasetInfo, TensorInfo, load_info
from dual_encoder.data.record_layout import Layout
from dual_encoder.errors import UserError
from dual_encoder.storage import files

_LOCATION = b"location_id"
_OPEN_SHARDS = 64  # per split; a data set of a million pairs has more shards than a process may have open files
_LAYOUTS = 64  # per split; more than a data set of one kind of record needs
_SCANNERS = 16  # threads that read headers; each waits for its disk or bucket most of the time


class DamagedRecord(UserError):
    """A record that is cut off or does not match its checksum."""


def masked_crc32c(data: bytes | memoryview) -> int:
    """Returns TFRecord's masked crc32c of `data`."""
    return _masked(crc32c(data))


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def scan(path: epath.PathLike) -> Iterator[tuple[int, int]]:
    """Yields (payload offset, payload length) of each record, reading headers only.

    Raises:
      UserError: a damaged header or a truncated file, with the record number and the byte offset.
    """
    file = files.open_ranges(path)
    start, record = 0, 0
    while start < file.size:
        header = file.read(start, HEADER.size)
        if len(header) < HEADER.size:
            raise _damaged(path, record, start, "the header is cut off")
        length, crc = HEADER.unpack(header)
        if masked_crc32c(header[:8]) != crc:
            raise _damaged(path, record, start, "the header does not match its checksum")
        end = start + HEADER.size + length + FOOTER.size
        if end > file.size:
            raise _damaged(path, record, start, f"the record should end at byte {end}, the file ends at {file.size}")
        yield start + HEADER.size, length
        start, record = end, record + 1


def read_payload(descriptor: int, offset: int, length: int) -> bytes | None:
    """Returns the payload at `offset` of an open shard; None if it is cut off or does not match its checksum."""
    data = os.pread(descriptor, length + FOOTER.size, offset)
    return data[:length] if _is_sound(data, length) else None


def _is_sound(data: bytes, length: int) -> bool:
    """True for a payload of `length` bytes followed by its checksum."""
    return (len(data) == length + FOOTER.size
            and masked_crc32c(memoryview(data)[:length]) == FOOTER.unpack_from(data, length)[0])


def build_index(folder: epath.Path, info: DatasetInfo, split: str) -> np.ndarray:
    """Returns the index of a split, INDEX_DTYPE [records], by scanning the headers of its shards, some at a time."""
    paths = [folder / entry["file"] for entry in info.shards[split]]
    with concurrent.futures.ThreadPoolExecutor(_SCANNERS) as pool:
        shards = pool.map(lambda path: list(scan(path)), paths)
        rows = [(number, offset, length) for number, shard in enumerate(shards) for offset, length in shard]
    return np.array(rows, INDEX_DTYPE)


def parse(payload: bytes, tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Decodes one serialized tf.train.Example.

    Args:
      payload: the record.
      tensors: features to decode as arrays; their bytes are little-endian, C order, as TFDS's BYTES encoding writes.

    Returns:
      tensors as read-only arrays; other features as of `tf_example.decode`.

    Raises:
      UserError: not an Example; a tensor is missing or has another number of bytes.
    """
    record = tf_example.decode(payload)
    for name, info in tensors.items():
        expected = int(np.prod(info.shape)) * np.dtype(info.dtype).itemsize
        value = record.get(name)
        if not isinstance(value, bytes) or len(value) != expected:
            seen = f"{len(value)} bytes" if isinstance(value, bytes) else "no single value of bytes"
            raise UserError(f"feature '{name}' has {seen}, {info.dtype}{list(info.shape)} needs {expected}; rebuild "
                            "the data set")
        record[name] = np.frombuffer(record[name], info.dtype).reshape(info.shape)
    return record


class ShardedRecords:
    """The records of one split, by number.

    Safe to share between threads and to pickle (files are opened again).

    Args:
      path: the data set folder, local or in a bucket.
      split: the split's name.
      info: of the data set, if `load_info` has read it already.

    Raises:
      UserError: missing folder, manifest, split or shard; a small file that differs from its digest; a damaged index,
        and a shard that is damaged, too.
    """

    def __init__(self, path: epath.PathLike, split: str, info: DatasetInfo | None = None):
        self.folder, self.split = epath.Path(path), split
        self.info = info or load_info(path)
        if split not in self.info.shards:
            raise UserError(f"data set '{self.folder}' has no split '{split}'; it has {sorted(self.info.shards)}")
        sizes = files.sizes(self.folder)
        self._paths = [os.fspath(self.folder / entry["file"]) for entry in self.info.shards[split]]
        for entry, shard in zip(self.info.shards[split], self._paths, strict=True):
            if entry["file"] not in sizes:
                raise UserError(f"shard '{shard}' is missing; restore it or rebuild the data set")
            if sizes[entry["file"]] != entry["bytes"]:
                raise UserError(f"shard '{shard}' has {sizes[entry['file']]} bytes, the manifest says "
                                f"{entry['bytes']}; run `python -m data_prep verify {self.folder}`")
        self._index = self._read_index()
        self._layouts: dict[tuple, Layout | None] = {}
        self._open = functools.lru_cache(_OPEN_SHARDS)(files.open_ranges)

    def __len__(self) -> int:
        return len(self._index)

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_open"}

    def __setstate__(self, state: Mapping[str, Any]):
        self.__dict__.update(state)
        self._open = functools.lru_cache(_OPEN_SHARDS)(files.open_ranges)

    def payload(self, record: int) -> bytes:
        """Returns the bytes of record `record`; DamagedRecord if their checksum is wrong."""
        data, length = self._read(record)
        return data[:length]

    def __getitem__(self, record: int) -> dict[str, Any]:
        """Returns record `record`, decoded by `parse`; DamagedRecord if its checksum is wrong."""
        return self._parse(self.payload(record), record)

    def read_into(self, record: int, rows: Mapping[bytes, np.ndarray]) -> bytes:
        """Copies tensors of a record to their places in a batch, and keeps its layout for `prepare`.

        For records that `prepare` and `Reading.run`, many times as fast as `self[record]`, cannot read.

        Args:
          record: its number.
          rows: feature name (UTF-8) -> uint8 [bytes of the tensor], overwritten with its bytes.

        Returns:
          the record's location_id.

        Raises:
          DamagedRecord: its checksum is wrong.
          UserError: a tensor or the location_id is missing, or has another number of bytes.
        """
        data, length = self._read(record)
        values = tf_example.find(data, length, (*rows, _LOCATION))
        if values is None or _LOCATION not in values or any(
                name not in values or values[name][1] - values[name][0] != row.size for name, row in rows.items()):
            return self._parse_into(data[:length], record, rows)
        for name, row in rows.items():
            row[:] = np.frombuffer(data, np.uint8, row.size, values[name][0])
        self._keep((length, *rows), Layout(data, values, tuple(rows)))
        start, stop = values[_LOCATION]
        return data[start:stop]

    def _keep(self, key: tuple, layout: Layout) -> None:
        """Keeps the layout of the records of one length; None if they have several: to try one means to read twice."""
        known = self._layouts.get(key)
        if known is not None and not known.equals(layout):
            self._layouts[key] = None
        elif key not in self._layouts and len(self._layouts) < _LAYOUTS:
            self._layouts[key] = layout

    def prepare(self, record: int, rows: Mapping[bytes, np.ndarray]) -> "Reading | None":
        """Prepares a record for reading into `rows`, as in `read_into`; None if the layout is not known yet."""
        shard, offset, length = self._row(record)
        layout = self._layouts.get((length, *rows))
        return Reading(layout, self._file(shard), offset, rows) if layout else None

    def where(self, record: int) -> str:
        """Returns shard, number and byte offset of a record, for messages."""
        shard, offset, _ = self._row(record)
        return f"shard '{self._paths[shard]}' record {record} (byte {offset})"

    def _row(self, record: int) -> tuple[int, int, int]:
        """Returns shard, offset and length of a record."""
        shard, offset, length = self._index[record].item()
        return shard, offset, length

    def _read(self, record: int) -> tuple[bytes, int]:
        """Returns (payload and checksum, length of the payload), checked."""
        shard, offset, length = self._row(record)
        data = self._file(shard).read(offset, length + FOOTER.size)
        if not _is_sound(data, length):
            raise _damaged(self._paths[shard], record, offset, "the payload does not match its checksum")
        return data, length

    def _file(self, shard: int) -> files.Ranges:
        try:
            return self._open(self._paths[shard])
        except FileNotFoundError as error:
            raise UserError(f"shard '{self._paths[shard]}' is missing; restore it or rebuild the data set") from error

    def _parse(self, payload: bytes, record: int) -> dict[str, Any]:
        try:
            return parse(payload, self.info.tensors)
        except UserError as error:
            raise UserError(f"{self.where(record)}: {error}") from error

    def _parse_into(self, payload: bytes, record: int, rows: Mapping[bytes, np.ndarray]) -> bytes:
        """Like `read_into`, but by the protobuf library: for records in another spelling, and for clear errors."""
        values = self._parse(payload, record)
        place = values.get("location_id")
        if not isinstance(place, bytes):
            raise UserError(f"{self.where(record)}: feature 'location_id' is {place!r}, expected one text; rebuild the "
                            "data set")
        for name, row in rows.items():
            row[:] = values[name.decode()].reshape(-1).view(np.uint8)
        return place

    def _read_index(self) -> np.ndarray:
        """Returns the index of the split: its file, or one made from the headers of the shards if that is damaged."""
        path, entries = self.folder / f"{self.split}{INDEX}", self.info.shards[self.split]
        try:
            index = index_lib.read(path)
            if (fault := index_lib.fault(index, entries)) is None:
                return index
            fault = f"is damaged ({fault})"
        except FileNotFoundError:
            fault = "is missing"
        except ValueError as error:
            if isinstance(error, UserError):  # of a bucket
                raise
            fault = f"is damaged ({error})"
        start = time.monotonic()
        index = build_index(self.folder, self.info, self.split)
        if disagrees := index_lib.fault(index, entries):
            raise UserError(f"'{path}' {fault}, and the shards of split '{self.split}' are not those of the manifest "
                            f"({disagrees}); run `python -m data_prep verify {self.folder}`")
        print(f"'{path}' {fault}: rebuilt from the headers of {len(self._paths)} shards in "
              f"{time.monotonic() - start:.1f} s; `python -m data_prep verify --rewrite {self.folder}` writes it",
              flush=True)
        return index


class Reading:
    """A record of a known layout, to be read into `rows`; see `ShardedRecords.prepare`.

    Waiting for the GIL can take as long as reading a small record. So everything that does not need a thread is
    prepared here, and `run` holds the GIL for about a microsecond.
    """

    def __init__(self, layout: Layout, file: files.Ranges, offset: int, rows: Mapping[bytes, np.ndarray]):
        self._layout, self._file, self._offset = layout, file, offset
        self._kept, self._buffers = layout.buffers(rows)

    def run(self) -> bool:
        """Fills the rows; False if the record is damaged or has another layout: `read_into` finds out which."""
        read = self._file.read_into(self._offset, self._buffers)
        crc, (*pieces, footer) = 0, self._buffers
        for piece in pieces:
            crc = crc32c(piece, crc)
        return (read == self._layout.size and _masked(crc) == FOOTER.unpack(footer)[0]
                and self._layout.fits(self._kept))

    @property
    def location(self) -> bytes:
        """The record's location_id, once `run` has returned True."""
        return self._layout.value(_LOCATION, self._kept)


def _damaged(path: epath.PathLike, record: int, offset: int, what: str) -> DamagedRecord:
    return DamagedRecord(f"shard '{os.fspath(path)}' is damaged at record {record} (byte {offset}): {what}; run "
                         "`python -m data_prep verify` on its folder and restore or rebuild the shard")
