"""Deterministic batches: the batch of step t is a function of (seed, t) alone.

Each epoch walks through a permutation computed from (seed, epoch); the last incomplete batch of an epoch is left out.
Hosts, devices, threads and restarts change who reads a record, never which records make up a batch.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np
from etils import epath

from dual_encoder.errors import UserError
from dual_encoder.sensors import SensorSpec
from dual_encoder.tfrecord import DatasetInfo, ShardedRecords


class Records:
    """The records of one split, or of several joined by '+', by number.

    Args:
      path: the data set folder.
      splits: 'train' or 'train+validation'.
      features: the tensors to read, e.g. ('s1', 's2').
    """

    def __init__(self, path: epath.PathLike, splits: str, features: tuple[str, ...]):
        self.parts = [ShardedRecords(path, split) for split in splits.split("+")]
        self.info: DatasetInfo = self.parts[0].info
        missing = [name for name in features if name not in self.info.tensors]
        if missing:
            raise UserError(f"data set '{path}' has no feature '{missing[0]}', it has {sorted(self.info.tensors)}; "
                            "choose other config inputs or build the data set with that sensor or label")
        self.features = features
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def record(self, number: int) -> dict[str, Any]:
        """Returns the whole record: tensors as arrays, ids and places as text, times as int."""
        part = int(np.searchsorted(self._ends, number, side="right"))
        start = int(self._ends[part - 1]) if part else 0
        record = self.parts[part][number - start]
        return {k: v.decode() if isinstance(v, bytes) else v for k, v in record.items()}

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """Returns what a step needs: the tensors, `location` (int32 hash of the place) and `record` (its number)."""
        record = self.record(number)
        arrays = {name: record[name] for name in self.features}
        digest = hashlib.blake2b(record["location_id"].encode(), digest_size=4).digest()
        arrays["location"] = np.frombuffer(digest, np.int32)[0]
        arrays["record"] = np.int32(number)
        return arrays


@functools.lru_cache(maxsize=4)  # readers stand on both sides of an epoch's end
def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """Returns the order of an epoch, int64 [count], read-only; Philox keyed by (seed, epoch)."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
    order.flags.writeable = False
    return order


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Returns the number of whole batches in `count` records; UserError when there is none."""
    if count < batch_size:
        raise UserError(f"config.batch_size is {batch_size}, the split has {count} records; use a batch of at most "
                        f"{count}")
    return count // batch_size


def record_numbers(seed: int, step: int, count: int, batch_size: int) -> np.ndarray:
    """Returns the record numbers of the batch of step `step` (from 0), int64 [batch_size]."""
    epoch, batch = divmod(step, steps_per_epoch(count, batch_size))
    return permutation(seed, epoch, count)[batch * batch_size:(batch + 1) * batch_size]


def batches(records: Records, *, seed: int, batch_size: int, rows: range, start: int, stop: int, threads: int,
            processes: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's rows of the batches of steps start, ..., stop - 1.

    Args:
      records: the split; a record is read once per epoch.
      seed: order of the records.
      batch_size: of the global batch.
      rows: rows of the global batch to read.
      threads, processes: readers; they change the speed only.

    Yields:
      per feature [len(rows), ...], `location` int32 [len(rows)], `record` int32 [len(rows)].
    """
    def load(element: int) -> dict[str, np.ndarray]:
        step, row = divmod(element, len(rows))
        return records[int(record_numbers(seed, start + step, len(records), batch_size)[rows.start + row])]

    source = grain.MapDataset.range(0, (stop - start) * len(rows)).map(load)
    stream = source.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * len(rows)))
    if processes:
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=processes))
    return iter(stream.batch(len(rows)))


def in_order(records: Records, batch_size: int) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Yields (batch, valid) once through the split; the last batch is filled up with its last record.

    `valid` is the number of rows that count.
    """
    for start in range(0, len(records), batch_size):
        numbers = range(start, min(start + batch_size, len(records)))
        rows = [records[number] for number in numbers]
        rows += [rows[-1]] * (batch_size - len(rows))
        yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}, len(numbers)


def load_sensors(info: DatasetInfo, statistics: str) -> Mapping[str, SensorSpec]:
    """Returns the data set's sensors, with mean and std from the file `statistics` where one is given.

    Raises:
      UserError: no such file, or it describes other bands.
    """
    if not statistics:
        return info.sensors
    try:
        values = json.loads(epath.Path(statistics).read_text())
        computed = {name: SensorSpec.from_json(spec) for name, spec in values["sensors"].items()}
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"config.data.statistics '{statistics}' cannot be read ({error!r}); make it with `python -m "
                        "data_prep stats DIR --out=FILE`") from error
    for name, spec in info.sensors.items():
        if name not in computed:
            raise UserError(f"'{statistics}' has no statistics of '{name}', only of {sorted(computed)}")
        spec.check_matches(computed[name], f"'{statistics}'", "the data set")
    return computed
