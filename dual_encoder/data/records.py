"""Deterministic batches: the batch of step t is a function of (seed, t) alone (order.py computes its record numbers).

Hosts, devices, threads, processes and restarts change the reader of a record, never the records of a batch.
"""

import bisect
import concurrent.futures
import copy
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from dual_encoder.console import say
from dual_encoder.data import manifest
from dual_encoder.data.batch_memory import Memory
from dual_encoder.data.manifest import DatasetInfo
from dual_encoder.data.order import Order
from dual_encoder.data.tfrecord import DamagedRecord, Reading, ShardedRecords
from dual_encoder.errors import UserError

T = TypeVar("T")


class Records:
    """The records of one split of one data set, or of several joined, by number.

    Args:
      paths: a data set folder, or several joined by ','.
      splits: 'train', or several joined by '+': 'train+validation'.
      features: the tensors to read, e.g. ('s1', 's2').
      weights: share of each folder in the batches; () = in proportion to the records.
      max_bad_records: most damaged records that may be replaced, each by the next sound one of its data set.
      partial: leave out folders that do not have the splits, as long as one has them (for evaluation).

    Attributes:
      info: of the data set, or of all folders together (`manifest.merge`).
      bad: numbers of the damaged records that `count_bad` has found.

    Raises:
      UserError: a folder, split or feature is missing, or the folders do not fit together.
    """

    def __init__(self, paths: epath.PathLike, splits: str, features: tuple[str, ...], *, weights: Sequence[float] = (),
                 max_bad_records: int = 0, partial: bool = False):
        folders = [folder.strip() for folder in os.fspath(paths).split(",")]
        infos = [manifest.load_info(folder) for folder in folders]
        for folder, info in zip(folders, infos, strict=True):
            if missing := [name for name in features if name not in info.tensors]:
                raise UserError(f"data set '{folder}' has no feature '{missing[0]}', it has {sorted(info.tensors)}; "
                                "choose other config inputs or build the data set with that sensor or label")
        self.info: DatasetInfo = manifest.merge(infos, folders, features)
        self.features, self.max_bad_records = features, max_bad_records
        self.bad: list[int] = []
        names = splits.split("+")
        given = list(zip(folders, infos, strict=True))
        having = [(folder, info) for folder, info in given if set(names) <= set(info.shards)]
        given = having if partial and having else given
        sets = [[ShardedRecords(folder, name, info) for name in names] for folder, info in given]
        self.parts = [part for parts in sets for part in parts]
        self._ends = list(itertools.accumulate(len(part) for part in self.parts))
        self._starts = [0, *self._ends]
        self._set_ends = list(itertools.accumulate(sum(map(len, parts)) for parts in sets))
        self._rows: np.ndarray | None = None  # of a part of the records: their numbers in the whole
        self._weights = weights
        # Two importers may use one name for two places; a mixture keeps them apart.
        self._namespaces = [f"{part.info.source.get('importer', '')}/".encode() if len(given) > 1 else b""
                            for part in self.parts]

    def __len__(self) -> int:
        return self._ends[-1] if self._rows is None else len(self._rows)

    @property
    def record_bytes(self) -> int:
        """The bytes of one record's tensors in a batch."""
        tensors = [self.info.tensors[name] for name in self.features]
        return sum(math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize for tensor in tensors)

    def only(self, rows: np.ndarray) -> "Records":
        """Returns a part of the records, numbered from 0; `rows` are numbers, ascending."""
        part = copy.copy(self)
        part.bad = []
        for name in ("ids", "location_ids"):
            if name in self.__dict__:
                part.__dict__[name] = [self.__dict__[name][row] for row in rows]
        if "labels" in self.__dict__:
            part.__dict__["labels"] = self.labels[rows]
        part._rows = rows if self._rows is None else self._rows[rows]
        part._set_ends = np.searchsorted(rows, self._set_ends).tolist()
        return part

    def evenly_spaced(self, count: int) -> "Records":
        """Returns `count` of the records, evenly spaced; all of them if there are fewer."""
        return self.only(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))

    def order(self, seed: int, batch_size: int) -> Order:
        """Returns the order of the records in the batches of a run."""
        return Order(seed, np.diff(self._set_ends, prepend=0).tolist(), self._weights, batch_size)

    def record(self, number: int) -> dict[str, Any]:
        """Returns the whole record (or its replacement): tensors as arrays, ids and places as text, times as int."""
        _, record = self._first_sound(number, lambda part, within: self.parts[part][within])
        return {k: v.decode() if isinstance(v, bytes) else v for k, v in record.items()}

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Returns one record as `BatchReader` does, without the first axis."""
        return {name: array[0] for name, array in BatchReader(self)([number]).items()}

    def prepare(self, number: int, rows: Mapping[bytes, np.ndarray]) -> Reading | None:
        """Prepares a record for reading without `read_into`, or returns None; see `ShardedRecords.prepare`."""
        part, within = self._find(number)
        return self.parts[part].prepare(within, rows)

    def read_into(self, number: int, rows: Mapping[bytes, np.ndarray]) -> tuple[int, bytes]:
        """Copies the tensors of a record, or of the next sound one, into `rows`; see `ShardedRecords.read_into`.

        Returns:
          the number of the record that was read, and its location_id.

        Raises:
          UserError: a damaged record, and `max_bad_records` in a row behind it.
        """
        return self._first_sound(number, lambda part, within: self.parts[part].read_into(within, rows))

    @functools.cached_property
    def ids(self) -> list[str]:
        """The id of each record; the first use reads every record once.

        Raises:
          UserError: a damaged record, and `max_bad_records` in a row behind it.
        """
        records = [self.record(number) for number in range(len(self))]
        self.__dict__.setdefault("location_ids", [record["location_id"] for record in records])
        return [record["id"] for record in records]

    @functools.cached_property
    def location_ids(self) -> list[str]:
        """The location_id of each record; the first use reads every record once.

        Raises:
          UserError: a damaged record, and `max_bad_records` in a row behind it.
        """
        return [self.read_into(number, {})[1].decode() for number in range(len(self))]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The label of each record, [records, ...]; the first use reads every record once.

        Raises:
          UserError: the records have no label, or one is damaged.
        """
        if "label" not in self.info.tensors:
            raise UserError(f"'{self.parts[0].folder}' has no labels; give a data set of --kind=tiles")
        tensor = self.info.tensors["label"]
        labels = np.zeros((len(self), *tensor.shape), tensor.dtype)
        rows = labels.reshape(len(self), -1).view(np.uint8)
        places = [self.read_into(number, {b"label": rows[number]})[1].decode() for number in range(len(self))]
        self.__dict__.setdefault("location_ids", places)  # they come with the labels
        return labels

    def location(self, number: int, location_id: bytes) -> int:
        """Returns the place of a record as an int32: a hash, which includes the importer if data sets are mixed."""
        part, _ = self._find(number)
        digest = hashlib.blake2b(self._namespaces[part] + location_id, digest_size=4).digest()
        return int.from_bytes(digest, "little", signed=True)

    def place(self, number: int) -> tuple[str, str]:
        """Returns the importer and the location_id of a record: two data sets may share places."""
        part, _ = self._find(number)
        return self.parts[part].info.source.get("importer", ""), self.location_ids[number]

    def count_bad(self, planned: np.ndarray, delivered: np.ndarray) -> None:
        """Notes damaged records, each once: those between the number planned and the number delivered.

        Prints a line for each.

        Raises:
          UserError: there are now more of them than `max_bad_records`.
        """
        for row in np.flatnonzero(planned != delivered):
            number = int(planned[row])
            while number != delivered[row]:
                if number not in self.bad:
                    self.bad.append(number)
                    say(f"{self._where(number)} does not match its checksum: replaced, {len(self.bad)} of at most "
                        f"{self.max_bad_records}")
                number = self._next_in_set(number)
        if len(self.bad) > self.max_bad_records:
            raise UserError(f"{len(self.bad)} damaged records, the last is {self._where(self.bad[-1])}; "
                            f"{self.max_bad_records} are allowed: restore the shards (`python -m data_prep verify` "
                            "finds all damage), or let the training replace more (max_bad_records)")

    def _find(self, number: int) -> tuple[int, int]:
        """Returns the part that holds a record, and its number within."""
        number = number if self._rows is None else int(self._rows[number])
        part = bisect.bisect_right(self._ends, number)
        return part, number - self._starts[part]

    def _first_sound(self, number: int, read: Callable[[int, int], T]) -> tuple[int, T]:
        """Returns the number and read(part, number within it) of a record, or of the next sound one of its set."""
        replacements = 0
        while True:
            try:
                return number, read(*self._find(number))
            except DamagedRecord:
                if replacements == self.max_bad_records:
                    raise
            number, replacements = self._next_in_set(number), replacements + 1

    def _next_in_set(self, number: int) -> int:
        """Returns the number after `number`, or the set's first one after its last."""
        which = bisect.bisect_right(self._set_ends, number)
        return number + 1 if number + 1 < self._set_ends[which] else [0, *self._set_ends][which]

    def _where(self, number: int) -> str:
        part, within = self._find(number)
        return self.parts[part].where(within)


class BatchReader:
    """Reads the batch of given record numbers. Picklable: a reading process starts threads of its own.

    Args:
      records: of a split.
      threads: readers, the calling thread among them.
    """

    def __init__(self, records: Records, threads: int = 1):
        self._records, self._threads = records, threads
        self.__setstate__({})

    def __getstate__(self):
        return {"_records": self._records, "_threads": self._threads}

    def __setstate__(self, state: Mapping[str, Any]):
        self.__dict__.update(state)
        self._memory = Memory()
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None

    def __call__(self, numbers: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Reads the records `numbers`.

        Returns:
          the tensors [records, ...], `location` int32 [records] (hash of the place) and `record` int32 [records] (its
          number; that of a later record if this one is damaged and `max_bad_records` allows a replacement).

        Raises:
          UserError: a damaged record, or more in a row than allowed.
        """
        records, count, tensors = self._records, len(numbers), self._records.info.tensors
        batch = {name: self._memory.empty((count, *tensors[name].shape), tensors[name].dtype)
                 for name in records.features}
        as_bytes = [(name.encode(), array.reshape(count, -1).view(np.uint8)) for name, array in batch.items()]
        rows = [{name: array[row] for name, array in as_bytes} for row in range(count)]
        read = [int(number) for number in numbers]
        readings = [records.prepare(number, into) for number, into in zip(read, rows, strict=True)]
        locations = [b""] * count
        others: list[concurrent.futures.Future[None]] = []
        left = iter(range(count))  # shared: each thread takes the next free row

        def fill() -> None:
            for row in left:
                # Without a reading: an earlier row may have taught the layout since.
                reading = readings[row] = readings[row] or records.prepare(read[row], rows[row])
                if reading is None or not reading.run():
                    readings[row] = None
                    read[row], locations[row] = records.read_into(read[row], rows[row])

        if self._threads > 1:
            self._pool = self._pool or concurrent.futures.ThreadPoolExecutor(self._threads - 1)
            others = [self._pool.submit(fill) for _ in range(self._threads - 1)]
        fill()
        for other in others:
            other.result()
        batch["location"] = np.array([
            records.location(number, reading.location if reading else location)
            for number, location, reading in zip(read, locations, readings, strict=True)], np.int32)
        batch["record"] = np.array(read, np.int32)
        return batch


