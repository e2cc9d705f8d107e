"""What is looked at in two data sets to compare them: place, spots and sides of every record, read once.

Some 1 to 2.5 kB a record are kept, so a million records take some 2 GB of memory.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_prep.look import footprints, sides, spots
from dual_encoder.console import Progress
from dual_encoder.data.manifest import DatasetInfo, load_info
from dual_encoder.data.tfrecord import ShardedRecords
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.runtime import processes

_FIRST = ("B08", "B03", "B04", "B11", "B02", "VV", "VH")  # bands at 10 m and of much texture come first
_CHUNK = 256  # records that a worker reads at a time
_SAMPLE = 32  # records that tell whether places are known


@dataclasses.dataclass(frozen=True)
class View:
    """The images of two data sets that are compared.

    Attributes:
      feature: 's1', 's2', ...
      bands: names of the bands that both have.
    """

    feature: str
    bands: tuple[str, ...]

    def of(self, image: np.ndarray, spec: SensorSpec) -> np.ndarray:
        """Returns those bands of an image, [height, width, bands]."""
        return image[..., [spec.bands.index(name) for name in self.bands]]


@dataclasses.dataclass(frozen=True)
class Looks:
    """All that is compared of the records of a data set, in the order of its splits.

    Attributes:
      folder, info: the data set.
      splits: names of its splits.
      ids: of the records.
      split: int16 [records], place in `splits`.
      number: int64 [records], within the split.
      points: float64 [records, 2], latitude and longitude; NaN unknown.
      codes, motions: of `spots.describe`, [records, numbers].
      edges: view's number -> float16 [records, 4, numbers], of `sides.segments`; empty if all places are known.
    """

    folder: epath.Path
    info: DatasetInfo
    splits: tuple[str, ...]
    ids: list[str]
    split: np.ndarray
    number: np.ndarray
    points: np.ndarray
    codes: np.ndarray
    motions: np.ndarray
    edges: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def name(self) -> str:
        """Name, config and version."""
        return f"{self.info.name}/{self.info.config}/{self.info.version}"

    @property
    def placed(self) -> np.ndarray:
        """bool [records]: the place is known."""
        return np.logical_not(np.isnan(self.points).any(axis=1))

    @property
    def size(self) -> int:
        """Height and width of the images in pixels."""
        return size_of(self.info)

    @property
    def metres(self) -> float:
        """Side of a footprint. Patches have the centre of the image that they were cut from, so its size counts."""
        cut = re.search(r"cut from (\d+) px", self.info.source.get("patches", ""))
        return footprints.PIXEL * (int(cut[1]) if cut else self.size)


def size_of(info: DatasetInfo) -> int:
    """Returns height and width of the images of a data set in pixels."""
    return info.tensors[next(iter(info.sensors))].shape[0]


def shared(one: Mapping[str, SensorSpec], other: Mapping[str, SensorSpec]) -> list[View]:
    """Returns what can be compared: optical images first, up to three bands each.

    Args:
      one, other: feature name -> sensor of two data sets.

    Raises:
      UserError: the data sets have no band in common.
    """
    views = []
    for feature in sorted(one, key=lambda name: one[name].modality != "optical"):
        if feature in other:
            both = [band for band in one[feature].bands if band in other[feature].bands]
            both.sort(key=lambda band: _FIRST.index(band) if band in _FIRST else len(_FIRST))
            if both:
                views.append(View(feature, tuple(both[:sides.BANDS])))
    if not views:
        bands = [", ".join(f"{feature} {' '.join(spec.bands)}" for feature, spec in sensors.items())
                 for sensors in (one, other)]
        raise UserError(f"the data sets have no band in common ({bands[0]}; {bands[1]}); their pixels cannot be "
                        "compared")
    return views


def places_are_known(folder: epath.PathLike) -> bool:
    """Returns whether records have coordinates; some evenly spaced ones of each split are read."""
    for split in load_info(folder).shards:
        records = ShardedRecords(folder, split)
        for number in np.unique(np.linspace(0, len(records) - 1, min(_SAMPLE, len(records))).astype(int)).tolist():
            if np.isnan(_point(records[number])).any():
                return False
    return True


def look(folder: epath.PathLike, views: Sequence[View], edges: bool, workers: int = 1) -> Looks:
    """Reads a data set once, with progress.

    Args:
      folder: the data set.
      views: as of `shared`; spots are looked for in the first.
      edges: look at the sides, too.
      workers: processes.

    Raises:
      UserError: no such data set, or a damaged record.
    """
    info = load_info(folder)
    chunks = [(folder, split, start, views, edges) for split, entries in info.shards.items()
              for start in range(0, sum(entry["records"] for entry in entries), _CHUNK)]
    total, done = sum(entry["records"] for entries in info.shards.values() for entry in entries), [0, 0]
    parts: list[dict[str, Any]] = []
    with Progress("records", total, lambda: (done[0], done[1], "")):
        for part in _look_at_all(chunks, workers):
            parts.append(part)
            done[:] = done[0] + len(part["ids"]), done[1] + part["bytes"]
    splits = tuple(info.shards)
    if not parts:
        raise UserError(f"data set '{folder}' holds no record; build it anew")
    return Looks(
        folder=epath.Path(folder), info=info, splits=splits, ids=[name for part in parts for name in part["ids"]],
        split=np.concatenate([np.full(len(part["ids"]), splits.index(part["split"]), np.int16) for part in parts]),
        number=np.concatenate([np.arange(part["start"], part["start"] + len(part["ids"])) for part in parts]),
        **{name: np.concatenate([part[name] for part in parts]) for name in ("points", "codes", "motions")},
        edges=tuple(np.concatenate([part["edges"][at] for part in parts]) for at in range(len(views) * edges)))


def _look_at_all(chunks: list[tuple], workers: int) -> Iterator[dict[str, Any]]:
    if min(workers, len(chunks) // 4) < 2:  # a new process takes seconds to start
        yield from (_look_at(*chunk) for chunk in chunks)
        return
    with processes.pool(workers) as pool:
        yield from pool.map(_look_at, *zip(*chunks, strict=True))


def _look_at(folder: epath.PathLike, split: str, start: int, views: Sequence[View], edges: bool) -> dict[str, Any]:
    """Returns the looks of up to `_CHUNK` records as arrays."""
    records = ShardedRecords(folder, split)
    part: dict[str, Any] = {"split": split, "start": start, "ids": [], "bytes": 0}
    rows: dict[str, list] = {"points": [], "codes": [], "motions": []}
    strips: list[list[np.ndarray]] = [[] for _ in views]
    for number in range(start, min(start + _CHUNK, len(records))):
        record = records[number]
        part["ids"].append(record["id"].decode())
        rows["points"].append(_point(record))
        for name, values in zip(("codes", "motions"), spots_of(record, views[0], records.info), strict=True):
            rows[name].append(values)
        for at, view in enumerate(views[:len(views) * edges]):
            spec = records.info.sensors[view.feature]
            image = record[view.feature]
            strips[at].append(sides.segments(view.of(image, spec), spec.holds_data(image)))
        part["bytes"] += sum(record[feature].nbytes for feature in records.info.sensors)
    return part | {name: np.array(values) for name, values in rows.items()} | {
        "edges": [np.array(values) for values in strips[:len(views) * edges]]}


def spots_of(record: Any, view: View, info: DatasetInfo) -> tuple[np.ndarray, np.ndarray]:
    """Returns codes and motions of a record's spots; see `spots.describe`."""
    return spots.describe(view.of(record[view.feature], info.sensors[view.feature])[..., :spots.BANDS])


def _point(record: Any) -> tuple[float, float]:
    return float(record.get("lat", np.nan)), float(record.get("lon", np.nan))


class Images:
    """Bands of single records, read when they are needed; the last ones are kept."""

    def __init__(self, looks: Looks, keep: int = 64):
        self._looks = looks
        self._splits = [ShardedRecords(looks.folder, name) for name in looks.splits]
        self._read = functools.lru_cache(keep)(
            lambda row: self._splits[looks.split[row]][int(looks.number[row])])

    def record(self, row: int) -> dict[str, Any]:
        """Returns a record by its row in the looks."""
        return self._read(row)

    def bands(self, row: int, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Returns the bands of a view, [height, width, bands], and bool [height, width], True for data."""
        spec, image = self._looks.info.sensors[view.feature], self.record(row)[view.feature]
        return view.of(image, spec), spec.holds_data(image)
