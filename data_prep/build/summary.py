"""The content of each split, counted while its shards are written: records, distinct places, shares of the classes.

Empty splits, classes that a split lacks and places in two splits give warnings. Nobody sees these in a training curve.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.record import Pair, Tile
from dual_encoder.data.labels import LabelSpec
from dual_encoder.imagery.sensors import IGNORED

_EVALUATED = ("validation", "test")
_NAMED = 5  # classes that a line names


class Content:
    """Running counts over the records of a shard or of a split.

    Args:
      label: spec of the labels; None for pairs.

    Attributes:
      records: their number.
      places: uint64, hashes of the distinct places, sorted.
      counts: int64 [classes]: pixels of each class, or records if the label is that of the image; empty for a number.
    """

    def __init__(self, label: LabelSpec | None):
        self._label = label
        self._new: set[int] = set()
        self._places = np.zeros(0, np.uint64)
        self.records = 0
        self.counts = np.zeros(len(label.classes) if label else 0, np.int64)

    @property
    def places(self) -> np.ndarray:
        """The hashes of the distinct places."""
        if self._new:
            self._places = np.union1d(self._places, np.fromiter(self._new, np.uint64, len(self._new)))
            self._new.clear()
        return self._places

    def add(self, record: Pair | Tile) -> None:
        """Counts one record."""
        self.records += 1
        digest = hashlib.blake2b(record.location_id.encode(), digest_size=8).digest()
        self._new.add(int.from_bytes(digest, "little"))
        if self._label and isinstance(record, Tile) and len(self.counts):
            values = np.flatnonzero(record.label) if self._label.kind == "image_classes" else record.label.ravel()
            self.counts += np.bincount(values, minlength=len(self.counts))[:len(self.counts)]

    def merge(self, other: "Content") -> None:
        """Adds the counts of other records."""
        self._places = np.union1d(self.places, other.places)
        self.records += other.records
        self.counts = self.counts + other.counts

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {"records": self.records, "places": base64.b64encode(self.places.astype("<u8").tobytes()).decode(),
                "counts": self.counts.tolist()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Content":
        """Reads what `to_json` returned."""
        content = cls(None)
        content.records = values["records"]
        content._places = np.frombuffer(base64.b64decode(values["places"]), "<u8").astype(np.uint64)
        content.counts = np.array(values["counts"], np.int64)
        return content


def is_unlabelled(record: Pair | Tile, label: LabelSpec | None) -> bool:
    """Returns True for a tile whose label is that of its pixels and holds no class in any of them."""
    return (isinstance(record, Tile) and label is not None and label.per_pixel
            and bool((record.label == IGNORED).all()))


def join(contents: Sequence[tuple[str, Content | None]], label: LabelSpec | None) -> dict[str, Content]:
    """Returns split -> content of all its shards; {} if an older version wrote one of them without counting.

    Args:
      contents: split and content of each shard.
      label: spec of the labels.
    """
    joined: dict[str, Content] = {}
    for split, content in contents:
        if content is None:
            return {}
        joined.setdefault(split, Content(label)).merge(content)
    return joined


def text(splits: Mapping[str, Content], label: LabelSpec | None) -> str:
    """Returns the content of all splits on one line, for the manifest; '' if it was not counted."""
    return "; ".join(f"{split} {_counted(content)}" + "".join(
        f", {name} {share}" for name, share in _shares(content, label)) for split, content in splits.items())


def lines(splits: Mapping[str, Content], label: LabelSpec | None) -> Iterator[str]:
    """Yields the lines at the end of a build: a table of the splits, then the warnings."""
    if not splits:
        yield "places and classes were not counted: an older version wrote some of the shards"
        return
    width = max(map(len, splits))
    for split, content in splits.items():
        yield f"split {split:{width}s}  {_counted(content)}"
    if label and label.classes:
        names = max(12, *map(len, label.classes))
        columns = {split: dict(_shares(content, label)) for split, content in splits.items()}
        of = "labelled pixels" if label.per_pixel else "records"
        yield f"share of {of}".ljust(names + 4) + "".join(f"{split:>12s}" for split in splits)
        for name in label.classes:
            yield f"  {name:{names}s}  " + "".join(f"{columns[split][name]:>12s}" for split in splits)
    yield from warnings(splits, label)


def warnings(splits: Mapping[str, Content], label: LabelSpec | None) -> Iterator[str]:
    """Yields a line for each trouble of the splits."""
    for split in dict.fromkeys((*_EVALUATED, *splits)):
        if split not in splits or not splits[split].records:
            yield (f"warning: split '{split}' is empty; " + (
                "evaluate on another one (--config.data.eval_split), or build with --split-by=area and a smaller "
                "--block-degrees"
                if split in _EVALUATED else "see rejected.jsonl"))
    for split, content in splits.items():
        if label is None and content.records and len(content.places) == 1:
            yield (f"warning: split '{split}' has a single place: no pair is a negative of another, and retrieval "
                   "among them measures nothing (a smaller --block-degrees divides areas further)")
    full = {split: content for split, content in splits.items() if content.records}
    for number, split in enumerate(full):
        for other in list(full)[number + 1:]:
            if shared := len(np.intersect1d(full[split].places, full[other].places, assume_unique=True)):
                yield (f"warning: {shared} places are in split '{split}' and in '{other}'; scores on one measure "
                       "places of the other (--split-by=area keeps places whole)")
    classes = label.classes if label else ()
    for split, content in full.items():
        gone = [name for at, name in enumerate(classes)
                if not content.counts[at] and any(other.counts[at] for other in full.values())]
        if gone:
            more = f" and {len(gone) - _NAMED} more" * (len(gone) > _NAMED)
            yield (f"warning: split '{split}' has no {', '.join(gone[:_NAMED])}{more}, other splits have; its scores "
                   "say nothing about that")


def _counted(content: Content) -> str:
    return f"{content.records} records, {len(content.places)} places"


def _shares(content: Content, label: LabelSpec | None) -> Iterator[tuple[str, str]]:
    """Yields name and share of each class: of the labelled pixels, or of the records."""
    if label and label.classes:
        total = content.counts.sum() if label.per_pixel else content.records
        for name, count in zip(label.classes, content.counts.tolist(), strict=True):
            share = count / max(total, 1)
            yield name, f"{share:.2%}" if share >= 1e-4 or not count else f"{share:.1e}"
