"""The plan of a build: the shard of each entry, decided before the first pixel is read and kept on disk.

<folder>/entries.jsonl      one JSON line per entry, in the importer's order (neighbours in the raw files together)
<folder>/<split>.npy        int64, the places in entries.jsonl where the split's entries begin
<folder>/rejected.jsonl     the entries that were turned away while listing, and counts of files that fit no pattern
<folder>/plan.json          facts of the build, number of shards; written last

Shards are contiguous parts of a split in that order, so that raw files are read in sequence, every container once per
split. The training order is a permutation of all records (dual_encoder/data/order.py): it does not depend on the order
on disk.
"""

import array
import collections
import dataclasses
import hashlib
import io
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.build.selection import USUAL_DEGREES, Filters, area, fitting_degrees, hashed_split
from data_prep.importers import Entry, Reject, Unmatched
from data_prep.names import fault, leaves, shown, split_name
from data_prep.turned_away import first_reason, row, unmatched_text
from dual_encoder.data.manifest import splits_in_order
from dual_encoder.errors import UserError, printable
from dual_encoder.storage import atomic

_FORMAT = 2  # of entries.jsonl; 1 had s1_time and s2_time in place of times
_MOST_SPLITS = 100
_EVERY = 10.0  # seconds between lines of progress


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard: the entries [start, stop) of its split."""

    split: str
    shard: int
    shards: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a build.

    Attributes:
      folder: of its files.
      facts: the options of the build; only a build with the same ones may go on.
      entries: split -> number of entries.
      shards: split -> number of shards.
      faults: number of entries that were turned away as unusable while listing.
      split_by: the rule that was used in the end, for the manifest.
    """

    folder: pathlib.Path
    facts: Mapping[str, Any]
    entries: Mapping[str, int]
    shards: Mapping[str, int]
    faults: int
    split_by: str

    def tasks(self) -> list[Task]:
        """Returns the shards in order."""
        return [Task(split, shard, count, shard * self.entries[split] // count,
                     (shard + 1) * self.entries[split] // count)
                for split, count in self.shards.items() for shard in range(count)]

    def read(self, task: Task) -> Iterator[Entry]:
        """Yields the entries of a shard."""
        offsets = np.load(self.folder / f"{task.split}.npy", mmap_mode="r")[task.start:task.stop]
        with open(self.folder / "entries.jsonl", "rb") as file:
            for offset in offsets.tolist():
                file.seek(offset)
                yield Entry(**json.loads(file.readline()))


def load(folder: pathlib.Path) -> Plan | None:
    """Returns the plan in `folder`, None if there is no complete one; UserError if an older version made it."""
    try:
        values = json.loads((folder / "plan.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if values.pop("format", 1) != _FORMAT:
        raise UserError(f"'{folder.parent}' is a build that an older version began and that cannot go on; delete that "
                        "folder and run the same command again")
    return Plan(folder=folder, **values)


def make(folder: pathlib.Path, entries: Iterable[Entry | Reject], facts: Mapping[str, Any], *, split_by: str,
         block_degrees: float | None, filters: Filters, count_shards: Callable[[int], int]) -> Plan:
    """Lists the entries, filters them without reading pixels, splits them, and writes the plan.

    Args:
      folder: written to; must exist.
      entries: of the importer.
      facts: see `Plan`.
      split_by: 'area': by hash of the spatial block, 80/10/10; 'source': the authors' splits if any entry has one, by
        area otherwise. Entries without a split of the authors are then left out.
      block_degrees: side of such a block; None: 1, or the largest below that gives each split two places.
      filters: entries that they refuse are left out.
      count_shards: number of entries of a split -> number of shards.

    Raises:
      UserError: no entry is left; the raw folder cannot be read.
    """
    begins = array.array("q")  # of the line of each entry
    own_splits, area_splits = array.array("B"), array.array("B")  # numbers of the splits of each entry
    names: dict[str, int] = {}
    seen: set[int] = set()
    turned_away: collections.Counter[str] = collections.Counter()
    unmatched: list[Unmatched] = []
    folded: dict[str, str] = {}  # name of a split in the raw data -> name that is stored
    without_place, side = 0, block_degrees or USUAL_DEGREES
    with atomic.create(folder / "entries.jsonl") as lines, atomic.create(folder / "rejected.jsonl") as rejects:
        def reject(name: str, kind: str, reason: str) -> None:
            turned_away[kind] += 1
            rejects.write(_rejected(name, kind, reason))

        for item in _checked(_with_progress(entries, unmatched), folded, reject):
            digest = int.from_bytes(hashlib.blake2b(item.id.encode(), digest_size=8).digest(), "big")
            if digest in seen:
                reject(item.id, "fault", "the id occurs twice; the first one is kept")
            elif reason := filters.refuse(item):
                reject(item.id, "filter", reason)
            else:
                seen.add(digest)
                begins.append(lines.size)
                lines.write(json.dumps(dataclasses.asdict(item)).encode() + b"\n")
                own_splits.append(names.setdefault(item.split, len(names)))
                area_splits.append(names.setdefault(hashed_split(area(item, side)), len(names)))
                without_place += math.isnan(item.lat) or math.isnan(item.lon)
        rejects.write(b"".join(map(row, unmatched)))
    own = split_by == "source" and _has_splits(own_splits, names.get(""))
    if not (own or block_degrees):
        side, area_splits = _fitting(folder, names, area_splits)
    offsets = _offsets(begins, own_splits if own else area_splits, names)
    counts = {name: len(offsets[name]) for name in splits_in_order(offsets)}
    if not counts:
        raise UserError(f"the raw folder gives no record: {_why(folder, turned_away, unmatched)}")
    plan = Plan(folder, facts, counts, {name: count_shards(count) for name, count in counts.items()},
                turned_away["fault"], _rule(own, side, without_place, len(begins)))
    _save(plan, offsets)
    _report(plan, turned_away, unmatched, folded if own else {})
    return plan


def _lines(folder: pathlib.Path) -> Iterator[Entry]:
    with open(folder / "entries.jsonl", "rb") as file:
        for line in file:
            yield Entry(**json.loads(line))


def _has_splits(splits: Sequence[int], none: int | None) -> bool:
    """Returns True if an entry has a split of the authors, and says what follows for those without one."""
    without = sum(number == none for number in splits)
    if splits and without == len(splits):
        print("the raw data has no splits: split by area instead", flush=True)
    elif without:
        print(f"left out {without} of {len(splits)} entries that are in no split of the raw data (take them with "
              "--split-by=area)", flush=True)
    return without < len(splits)


def _fitting(folder: pathlib.Path, names: dict[str, int], usual: "array.array[int]"
             ) -> tuple[float, "array.array[int]"]:
    """Returns the side of blocks that gives each split two places, and the number of the split of each entry.

    `usual` are the numbers for blocks of the usual side, which stay if they do, or if no side does.
    """
    side = fitting_degrees(_lines(folder)) or USUAL_DEGREES
    if side == USUAL_DEGREES:
        return side, usual
    print(f"blocks of {USUAL_DEGREES:g} degree would leave a split with less than two places: blocks of {side:g} "
          f"instead (--block-degrees={side:g} for other builds of these images)", flush=True)
    return side, array.array("B", (names.setdefault(hashed_split(area(item, side)), len(names))
                                   for item in _lines(folder)))


def _rejected(name: str, kind: str, reason: str) -> bytes:
    return json.dumps({"id": name, "kind": kind, "stage": "list", "reason": printable(reason)}).encode() + b"\n"


def _usual_split(entry: Entry) -> str:
    """Returns the usual name of an entry's split, '' of none; ValueError if its names and facts cannot be used."""
    for what, text in (("id", entry.id), ("location_id", entry.location_id)):
        if reason := fault(text):
            raise ValueError(f"{what} {reason}; mend it in the raw data")
    for name, degrees, limit in (("lat", entry.lat, 90), ("lon", entry.lon, 360)):
        if not (math.isnan(degrees) or abs(degrees) <= limit):
            raise ValueError(f"{name} is {degrees:.6g}, expected degrees; mend it in the raw data")
    if path := leaves(entry.where):
        raise ValueError(f"{shown(path)} leads out of the raw folder; give paths relative to it")
    try:
        return split_name(entry.split) if entry.split.strip() else ""
    except ValueError as error:
        raise ValueError(f"{error}; mend it in the raw data, or build with --split-by=area") from error


def _checked(items: Iterable[Entry | Reject], folded: dict[str, str], reject: Callable[[str, str, str], None]
             ) -> Iterator[Entry]:
    """Yields the entries whose names can be used, with the usual names of their splits; `reject` gets the others.

    `folded` collects the names of splits that differ from the usual ones.

    Raises:
      UserError: more splits than anybody has.
    """
    names: set[str] = set()
    for item in items:
        if isinstance(item, Reject):
            reject(item.id, "fault", item.reason)
            continue
        try:
            name = _usual_split(item)
        except ValueError as error:
            reject(item.id, "fault", str(error))
            continue
        names.add(name)
        if len(names) > _MOST_SPLITS:
            raise UserError(f"the raw data have more than {_MOST_SPLITS} splits, the last is '{name}'; is the column "
                            "'split' that of something else? Build with --split-by=area")
        if name != item.split:
            folded[item.split] = name
            item = dataclasses.replace(item, split=name)
        yield item


def _offsets(begins: Sequence[int], splits: Sequence[int], names: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Returns split -> int64, the beginnings of its entries; without those that are in no split.

    Args:
      begins: of the line of each entry.
      splits: number of the split of each entry.
      names: split -> its number; '' = no split.
    """
    starts, numbers = np.array(begins, np.int64), np.array(splits, np.int64)
    found = {name: starts[numbers == number] for name, number in names.items() if name}
    return {name: offsets for name, offsets in found.items() if len(offsets)}


def _report(plan: Plan, turned_away: Mapping[str, int], unmatched: Sequence[Unmatched], folded: Mapping[str, str]
            ) -> None:
    for name, stored in folded.items():
        print(f"split {shown(name)} of the raw data is stored as '{stored}'", flush=True)
    summary = ", ".join(f"{split} {count}" for split, count in plan.entries.items())
    print(f"listed {sum(plan.entries.values())} entries ({summary})"
          + "".join(f", {count} turned away by {kind}" for kind, count in sorted(turned_away.items()))
          + unmatched_text(unmatched), flush=True)
    if plan.split_by != "source":
        print(f"split by {plan.split_by}", flush=True)


def _save(plan: Plan, offsets: Mapping[str, np.ndarray]) -> None:
    """Writes the beginnings of the entries of each split, then plan.json."""
    for name in plan.entries:
        file = io.BytesIO()
        np.save(file, offsets[name])
        atomic.write(plan.folder / f"{name}.npy", file.getvalue())
    values = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan) if field.name != "folder"}
    atomic.write(plan.folder / "plan.json", json.dumps(values | {"format": _FORMAT}).encode())


def _with_progress(entries: Iterable[Entry | Reject], unmatched: list[Unmatched]) -> Iterator[Entry | Reject]:
    """Yields the entries, with a line of progress every few seconds; an OSError becomes a UserError.

    Counts of files that fit no pattern go to `unmatched`.
    """
    start = shown = time.monotonic()
    try:
        for count, item in enumerate(entries):
            if (now := time.monotonic()) - shown > _EVERY:
                shown = now
                print(f"listing: {count} entries, {count / (now - start):.0f}/s", flush=True)
            if isinstance(item, Unmatched):
                unmatched.append(item)
            else:
                yield item
    except OSError as error:
        raise UserError(f"'{error.filename or 'the raw folder'}' cannot be read ({error.strerror or error}); mend it "
                        "or its permissions, then run the same command again") from error


def _rule(own: bool, block_degrees: float, without_place: int, count: int) -> str:
    if own:
        return "source"
    if without_place == count:
        return "area: the place or scene of each entry (coordinates are not known while listing)"
    rule = f"area: blocks of {block_degrees:g} degrees"
    return rule + (f"; {without_place} of {count} entries, without coordinates, by place" if without_place else "")


def _why(folder: pathlib.Path, turned_away: Mapping[str, int], unmatched: Sequence[Unmatched]) -> str:
    why = "it holds no entry"
    if turned_away:
        first = first_reason((folder / "rejected.jsonl").read_text().splitlines())
        why = f"all {sum(turned_away.values())} entries were turned away, first {first}"
    return f"{why}{unmatched_text(unmatched)}; check --raw and the filters"
