"""Writing the shards of a plan: one at a time, whole or not at all, by any number of processes or a Beam pipeline.

A shard is finished when there is a note on it: the note holds count, digest, index, rejects and times. Whoever writes a
shard, and however often, its bytes are the same.
"""

import base64
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

from data_prep import importers
from dual_encoder.imagery import radiometry
from data_prep.pairing import GapHistogram
from data_prep.build.plan import Plan, Task
from data_prep.record import Pair, Tile, check, cut
from data_prep.build.selection import Filters
from dual_encoder.storage import atomic
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import IGNORED, SensorSpec, sensor
from dual_encoder.data.tfrecord import FOOTER, HEADER, INDEX_DTYPE, masked_crc32c

TEXTS = ("id", "location_id", "source")
INTEGERS = ("s1_time", "s2_time", "s2_offset_removed")
FLOATS = ("lat", "lon", "cloud")


@dataclasses.dataclass(frozen=True)
class Job:
    """What it takes to turn entries into records; goes to every worker.

    Attributes:
      importer, raw, kind: which raw data; `kind` is what the importer gives, 'pairs' or 'tiles'.
      sensors: feature name -> sensor name.
      size, raw_size: pixels of a record and of a raw image; a larger raw image is cut.
      classes: class names of tiles.
      labels: 'water_weak' makes tiles of pairs.
      filters: which records are wanted.
      name: name of the data set, the first part of a shard's name.
      folder: where the shards go; notes go to its sibling 'notes'.
      max_rejected: more unusable records are too many.
    """

    importer: str
    raw: str
    kind: str
    sensors: Mapping[str, str]
    size: int
    raw_size: int
    classes: tuple[str, ...]
    labels: str
    filters: Filters
    name: str
    folder: str
    max_rejected: int

    @property
    def specs(self) -> dict[str, SensorSpec]:
        """Feature name -> spec."""
        return {feature: sensor(name) for feature, name in self.sensors.items()}

    def open(self) -> importers.Importer:
        """Returns the importer, ready to read."""
        return importers.load(self.importer)(pathlib.Path(self.raw), self.kind, self.sensors)

    def shard(self, task: Task) -> pathlib.Path:
        """Returns the path of a shard."""
        return pathlib.Path(self.folder) / f"{self.name}-{task.split}.tfrecord-{task.shard:05d}-of-{task.shards:05d}"

    @property
    def log(self) -> pathlib.Path:
        """Returns the file that tells faults while the build runs."""
        return pathlib.Path(self.folder).parent / "faults.jsonl"

    def note(self, task: Task) -> pathlib.Path:
        """Returns the path of the note on a finished shard."""
        return pathlib.Path(self.folder).parent / "notes" / f"{task.split}-{task.shard:05d}.json"


class Meter(Protocol):
    """Counts what is done, over all workers."""

    def add(self, entries: int, size: int, faults: int) -> None:
        """Adds entries done, bytes written and unusable records found."""

    def faults(self) -> int:
        """Returns the unusable records found so far."""


@dataclasses.dataclass(frozen=True)
class Note:
    """What is known of a finished shard.

    Attributes:
      bytes, records, sha256: of the file.
      index: INDEX_DTYPE [records], with shard numbers.
      gaps: time between the images.
      rejected: rows of rejected.jsonl.
      seconds: 'read' (raw files to records), 'check' (cut, checks, weak labels), 'write'.
    """

    bytes: int
    records: int
    sha256: str
    index: np.ndarray
    gaps: GapHistogram
    rejected: list[dict[str, str]]
    seconds: dict[str, float]

    @property
    def faults(self) -> int:
        """Number of unusable records."""
        return sum(row["kind"] == "fault" for row in self.rejected)

    def to_json(self) -> str:
        """Returns the note as text."""
        return json.dumps(vars(self) | {"index": base64.b64encode(self.index.tobytes()).decode(),
                                        "gaps": self.gaps.counts})

    @classmethod
    def from_json(cls, text: str) -> "Note":
        """Reads what `to_json` returned."""
        values = json.loads(text)
        return cls(**values | {"index": np.frombuffer(base64.b64decode(values["index"]), INDEX_DTYPE),
                               "gaps": GapHistogram(values["gaps"])})


def finished(job: Job, task: Task) -> Note | None:
    """Returns the note on a shard that is whole, None for one that has to be written."""
    try:
        note = Note.from_json(job.note(task).read_text())
        return note if job.shard(task).stat().st_size == note.bytes else None
    except (FileNotFoundError, ValueError, KeyError):
        return None


def write(job: Job, importer: importers.Importer, plan: Plan, task: Task, meter: Meter) -> None:
    """Writes a shard, then its note.

    Raises:
      UserError: too many unusable records, or the disk is full.
    """
    digest, rows, gaps, rejected = hashlib.sha256(), [], GapHistogram(), []
    seconds = dict.fromkeys(("read", "check", "write"), 0.0)
    clock = _Clock(seconds)
    with atomic.create(job.shard(task)) as file:
        for entry in plan.read(task):
            size_before, faults = file.size, 0
            for outcome in _outcomes(job, importer, entry, clock):
                if isinstance(outcome, Rejected):
                    rejected.append(dataclasses.asdict(outcome) | {"stage": "read", "split": task.split})
                    faults += outcome.kind == "fault"
                    continue
                rows.append((task.shard, file.size + HEADER.size, len(outcome.payload)))
                for part in _frame(outcome.payload):
                    file.write(part)
                    digest.update(part)
                gaps.add(outcome.s1_time, outcome.s2_time)
                clock.lap("write")
            meter.add(1, file.size - size_before, faults)
            if faults:
                _tell(job, rejected[-1])
                if meter.faults() > job.max_rejected:
                    raise UserError(f"more than {job.max_rejected} unusable records, see {job.log}, the last is "
                                    f"'{rejected[-1]['id']}': {rejected[-1]['reason']}; mend the raw data or raise "
                                    "--max-rejected, then run the same command again: finished shards are kept")
        size = file.size
    clock.lap("write")
    note = Note(size, len(rows), digest.hexdigest(), np.array(rows, INDEX_DTYPE), gaps, rejected, seconds)
    atomic.write(job.note(task), note.to_json().encode())


def serialize(job: Job, record: Pair | Tile) -> bytes:
    """Returns the record as a serialized tf.train.Example, the bytes that TFDS would write for the same features."""
    example = tf_example_pb2.Example()
    feature = example.features.feature
    tensors = {name: record.images[name] for name in job.specs}
    if isinstance(record, Tile):
        tensors["label"] = record.label
    for name, array in tensors.items():
        feature[name].bytes_list.value.append(array.tobytes())
    for name in TEXTS:
        feature[name].bytes_list.value.append(getattr(record, name).encode())
    for name in INTEGERS:
        feature[name].int64_list.value.append(getattr(record, name))
    for name in FLOATS:
        feature[name].float_list.value.append(getattr(record, name))
    return example.SerializeToString(deterministic=True)


def _frame(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns header, payload and footer of a TFRecord."""
    length = len(payload).to_bytes(8, "little")
    return HEADER.pack(len(payload), masked_crc32c(length)), payload, FOOTER.pack(masked_crc32c(payload))


def label_by_indices(pair: Pair, sensors: Mapping[str, SensorSpec]) -> Tile:
    """Makes a Tile of a Pair with `radiometry.weak_water_labels`; ignored where either image has no data."""
    label = radiometry.weak_water_labels(pair.s2, sensors["s2"])
    label[~sensors["s1"].holds_data(pair.s1)] = IGNORED
    common = {field.name: getattr(pair, field.name) for field in dataclasses.fields(pair)
              if field.name not in ("s1", "s2", "source")}
    return Tile(images=dict(pair.images), label=label, source=f"{pair.source}; weak labels from S2 indices", **common)


@dataclasses.dataclass(frozen=True)
class Rejected:
    """What became of a record that is not stored: `kind` is 'fault' (unusable) or 'filter' (not wanted)."""

    id: str
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True)
class _Stored:
    payload: bytes
    s1_time: int
    s2_time: int


def _outcomes(job: Job, importer: importers.Importer, entry: importers.Entry, clock: "_Clock"
              ) -> Iterator[Rejected | _Stored]:
    """Yields what becomes of an entry: one outcome, or one for each patch that is cut from it."""
    clock.lap("write")
    name = entry.id
    try:
        item = importer.read(entry)
        clock.lap("read")
        check(item, job.specs, job.raw_size, len(job.classes))
        job.filters.require_known(item)
        if reason := job.filters.refuse(item):
            yield Rejected(name, "filter", reason)
            return
        for patch in cut(item, job.size):
            name = patch.id
            reason = job.filters.refuse_pixels(patch, job.specs)
            if not reason:
                patch = label_by_indices(patch, job.specs) if job.labels else patch
                stored = _Stored(serialize(job, patch), patch.s1_time, patch.s2_time)
            clock.lap("check")
            yield Rejected(name, "filter", reason) if reason else stored
    except Exception as error:  # whatever is wrong with one of a million entries, the others are wanted
        yield Rejected(name, "fault", _reason(error))


def _tell(job: Job, row: Mapping[str, str]) -> None:
    """Appends a fault to the log at once: it is there when the build is stopped before the shard has its note."""
    with open(job.log, "a") as log:
        log.write(json.dumps(row) + "\n")


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


class _Clock:
    """Adds the time since the last lap to one of several sums."""

    def __init__(self, sums: dict[str, float]):
        self._sums, self._last = sums, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._sums[name] += now - self._last
        self._last = now


