"""Writing the shards of a plan: one at a time, whole or not at all, by any number of processes or a Beam pipeline.

A shard is finished if there is a note on it: the note holds count, digest, index, rejects and times. The bytes of a
shard do not depend on the process that writes it, nor on how often it is written.
"""

import base64
import collections
import dataclasses
import hashlib
import json
import pathlib
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from data_prep import importers
from data_prep.build.doubts import Doubts
from data_prep.build.exclusion import Exclusion
from data_prep.build.plan import Plan, Task
from data_prep.build.selection import Filters
from data_prep.build.summary import Content, is_unlabelled
from data_prep.look import footprints
from data_prep.pairing import GapHistogram
from data_prep.record import Pair, Tile, check, cut, patches, time_of, timed
from dual_encoder.data.labels import LabelSpec
from dual_encoder.data.tf_message import Example
from dual_encoder.data.tfrecord import FOOTER, HEADER, INDEX_DTYPE, masked_crc32c
from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery import radiometry
from dual_encoder.imagery.sensors import IGNORED, SensorSpec, sensor
from dual_encoder.storage import atomic

TEXTS = ("id", "location_id", "source")
FLOATS = ("lat", "lon", "cloud")
# Damaged data gives errors of values, keys, files and memory. These come from wrong code only.
OUR_MISTAKES = (TypeError, AttributeError, NameError, AssertionError, NotImplementedError, ImportError)
WATER_WEAK = "water_weak"  # labels that a build makes of pairs itself


def integers(features: Collection[str]) -> list[str]:
    """Returns the stored features that are integers: times, and the S2 offset; `features` are the stored images."""
    return [*(f"{feature}_time" for feature in timed(features)), "s2_offset_removed"]


@dataclasses.dataclass(frozen=True)
class Job:
    """Settings of a build, sent to every worker.

    Attributes:
      importer, raw, kind: the raw data; `kind` is that of the importer's records, 'pairs' or 'tiles'.
      sensors: feature name -> sensor name.
      size, raw_size: pixels of a record and of a raw image; a larger raw image is cut. 0 = raw images of any size.
      label: spec of the label of tiles; None for pairs.
      labels: 'water_weak' makes tiles of pairs; another name is one of the importer's labels; '' = its usual one.
      filters: limits that records must keep.
      name: name of the data set, the first part of a shard's name.
      folder: of the shards; notes go to its sibling 'notes'.
      max_rejected: more unusable records are too many.
      accepted: rules of plausibility that many images may break.
      exclude: folders of data sets; records that overlap theirs are left out.
    """

    importer: str
    raw: str
    kind: str
    sensors: Mapping[str, str]
    size: int
    raw_size: int
    label: LabelSpec | None
    labels: str
    filters: Filters
    name: str
    folder: str
    max_rejected: int
    accepted: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def specs(self) -> dict[str, SensorSpec]:
        """Feature name -> spec."""
        return {feature: sensor(name) for feature, name in self.sensors.items()}

    def open(self) -> importers.Importer:
        """Returns the importer, ready to read."""
        labels = "" if self.labels == WATER_WEAK else self.labels
        return importers.open_raw(self.importer, pathlib.Path(self.raw), self.kind, self.sensors, labels,
                                  cut=not self.raw_size)

    def exclusions(self, plan: Plan) -> list[Exclusion]:
        """Returns the data sets whose records are left out, ready to compare."""
        if not self.exclude:
            return []
        records = sum(plan.entries.values()) * patches(self.raw_size, self.size)
        metres = footprints.PIXEL * (self.raw_size or self.size)
        return [Exclusion(plan.folder, number, folder, self.specs, metres, records)
                for number, folder in enumerate(self.exclude)]

    def shard(self, task: Task) -> pathlib.Path:
        """Returns the path of a shard."""
        return pathlib.Path(self.folder) / f"{self.name}-{task.split}.tfrecord-{task.shard:05d}-of-{task.shards:05d}"

    @property
    def log(self) -> pathlib.Path:
        """Returns the file that lists faults while the build runs."""
        return pathlib.Path(self.folder).parent / "faults.jsonl"

    def note(self, task: Task) -> pathlib.Path:
        """Returns the path of the note on a finished shard."""
        return pathlib.Path(self.folder).parent / "notes" / f"{task.split}-{task.shard:05d}.json"


class Meter(Protocol):
    """Counts finished work, over all workers."""

    def add(self, entries: int, size: int, faults: int) -> None:
        """Adds entries done, bytes written and unusable records found."""

    def faults(self) -> int:
        """Returns the unusable records found so far."""


@dataclasses.dataclass(frozen=True)
class Note:
    """The facts of a finished shard.

    Attributes:
      bytes, records, sha256: of the file.
      index: INDEX_DTYPE [records], with shard numbers.
      gaps: time between the images.
      rejected: rows of rejected.jsonl.
      seconds: 'read' (raw files to records), 'check' (cut, checks, weak labels), 'judge' (plausibility), 'write'.
      content: records, places and classes; None in a note from before they were counted.
      doubts: images with implausible values; None in a note from before values were looked at.
      remarks: remark of a record -> number of stored records that have it.
    """

    bytes: int
    records: int
    sha256: str
    index: np.ndarray
    gaps: GapHistogram
    rejected: list[dict[str, str]]
    seconds: dict[str, float]
    content: Content | None = None
    doubts: Doubts | None = None
    remarks: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def faults(self) -> int:
        """Number of unusable records."""
        return sum(row["kind"] == "fault" for row in self.rejected)

    def to_json(self) -> str:
        """Returns the note as text."""
        return json.dumps(vars(self) | {"index": base64.b64encode(self.index.tobytes()).decode(),
                                        "gaps": self.gaps.counts,
                                        "content": self.content and self.content.to_json(),
                                        "doubts": self.doubts and self.doubts.to_json()})

    @classmethod
    def from_json(cls, text: str) -> "Note":
        """Reads what `to_json` returned."""
        values = json.loads(text)
        content, doubts = values.get("content"), values.get("doubts")
        return cls(**values | {"content": content and Content.from_json(content),
                               "doubts": None if doubts is None else Doubts.from_json(doubts),
                               "index": np.frombuffer(base64.b64decode(values["index"]), INDEX_DTYPE),
                               "gaps": GapHistogram(values["gaps"])})


def finished(job: Job, task: Task) -> Note | None:
    """Returns the note on a shard that is whole, None for a shard that must still be written."""
    try:
        note = Note.from_json(job.note(task).read_text())
        return note if job.shard(task).stat().st_size == note.bytes else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):  # a note of another form is no note
        return None


def write(job: Job, importer: importers.Importer, plan: Plan, task: Task, meter: Meter) -> None:
    """Writes a shard, then its note.

    Raises:
      UserError: too many unusable records or implausible images, or the disk is full.
    """
    doubts = Doubts()
    digest, rows, gaps, content = hashlib.sha256(), [], GapHistogram(), Content(job.label)
    rejected: list[dict[str, str]] = []
    seconds = dict.fromkeys(("read", "check", "judge", "write"), 0.0)
    clock, exclusions = _Clock(seconds), job.exclusions(plan)
    remarks: collections.Counter[str] = collections.Counter()
    with atomic.create(job.shard(task)) as file:
        for entry in plan.read(task):
            size_before, faults = file.size, 0
            for outcome in _outcomes(job, importer, entry, clock, exclusions):
                if isinstance(outcome, Rejected):
                    rejected.append(dataclasses.asdict(outcome) | {"stage": "read", "split": task.split})
                    faults += outcome.kind == "fault"
                    continue
                rows.append((task.shard, file.size + HEADER.size, len(outcome.payload)))
                for part in _frame(outcome.payload):
                    file.write(part)
                    digest.update(part)
                gaps.add(outcome.record.times)
                content.add(outcome.record)
                remarks.update(outcome.record.remarks)
                clock.lap("write")
                doubts.add(outcome.record.id, outcome.record.images, job.specs, outcome.record.s2_offset_removed)
                clock.lap("judge")
            meter.add(1, file.size - size_before, faults)
            if faults:
                _log(job, rejected[-1])
                if meter.faults() > job.max_rejected:
                    raise UserError(f"more than {job.max_rejected} unusable records, see {job.log}, the last is "
                                    f"'{rejected[-1]['id']}': {rejected[-1]['reason']}; mend the raw data or raise "
                                    "--max-rejected, then run the same command again: finished shards are kept")
        size = file.size
        doubts.stop_early(job.accepted)
    clock.lap("write")
    note = Note(size, len(rows), digest.hexdigest(), np.array(rows, INDEX_DTYPE), gaps, rejected, seconds, content,
                doubts, dict(remarks))
    atomic.write(job.note(task), note.to_json().encode())


def serialize(job: Job, record: Pair | Tile) -> bytes:
    """Returns the record as a serialized tf.train.Example, the bytes that TFDS would write for the same features."""
    example = Example()
    feature = example.features.feature
    tensors = {name: record.images[name] for name in job.specs}
    if isinstance(record, Tile):
        tensors["label"] = record.label
    for name, array in tensors.items():
        feature[name].bytes_list.value.append(array.tobytes())
    for name in TEXTS:
        feature[name].bytes_list.value.append(getattr(record, name).encode())
    for name in timed(job.sensors):
        feature[f"{name}_time"].int64_list.value.append(time_of(record.times, name))
    feature["s2_offset_removed"].int64_list.value.append(record.s2_offset_removed)
    for name in FLOATS:
        feature[name].float_list.value.append(getattr(record, name))
    return example.SerializeToString(deterministic=True)


def _frame(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns header, payload and footer of a TFRecord."""
    length = len(payload).to_bytes(8, "little")
    return HEADER.pack(len(payload), masked_crc32c(length)), payload, FOOTER.pack(masked_crc32c(payload))


def label_by_indices(pair: Pair, sensors: Mapping[str, SensorSpec]) -> Tile:
    """Makes a Tile of a Pair with `radiometry.weak_water_labels`; pixels without data in any image are ignored."""
    label = radiometry.weak_water_labels(pair.images["s2"], sensors["s2"])
    for feature, image in pair.images.items():
        label[~sensors[feature].holds_data(image)] = IGNORED
    return Tile(label=label, **vars(pair) | {"source": f"{pair.source}; weak labels from S2 indices"})


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A record that is not stored: `kind` is 'fault' (unusable) or 'filter' (not wanted)."""

    id: str
    kind: str
    reason: str


@dataclasses.dataclass(frozen=True)
class _Stored:
    payload: bytes
    record: Pair | Tile


def _outcomes(job: Job, importer: importers.Importer, entry: importers.Entry, clock: "_Clock",
              exclusions: Sequence[Exclusion]) -> Iterator[Rejected | _Stored]:
    """Yields the outcome of an entry, or one for each patch that is cut from it."""
    clock.lap("write")
    name = entry.id
    try:
        item = importer.read(entry)
        clock.lap("read")
        check(item, job.specs, job.raw_size, job.label)
        job.filters.require_known(item)
        if reason := job.filters.refuse(item):
            yield Rejected(name, "filter", reason)
            return
        for patch in cut(item, job.size):
            name = patch.id
            reason = job.filters.refuse_pixels(patch, job.specs)
            reason = reason or next(filter(None, (other.reason(patch) for other in exclusions)), "")
            if not reason:
                if job.labels == WATER_WEAK and isinstance(patch, Pair):
                    patch = label_by_indices(patch, job.specs)
                stored = _Stored(serialize(job, patch), patch)
                if is_unlabelled(patch, job.label) and not job.filters.keep_unlabelled:
                    reason = "no pixel has a label (keep such tiles with --keep-unlabelled)"
            clock.lap("check")
            yield Rejected(name, "filter", reason) if reason else stored
    except OUR_MISTAKES as error:
        raise _bug(job, name, error) from error
    except Exception as error:  # a fault of any kind in one of a million entries must not lose the others
        yield Rejected(name, "fault", _reason(error))


def _log(job: Job, row: Mapping[str, str]) -> None:
    """Appends a fault to the log at once, so that it is kept if the build stops before the shard has its note."""
    with atomic.explained(job.log), open(job.log, "a") as log:
        log.write(json.dumps(row) + "\n")


def _bug(job: Job, name: str, error: Exception) -> UserError:
    """Returns the error that stops the build for a mistake in this project; its traceback goes to the log."""
    text = f"{type(error).__name__}: {one_line(error)}"
    _log(job, {"id": name, "kind": "bug", "reason": text, "traceback": "".join(traceback.format_exception(error))})
    return UserError(f"a bug of this project stopped the build at '{name}' of importer {job.importer} ({text}); your "
                     f"data need not be at fault: please report this line and the traceback in {job.log}")


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


