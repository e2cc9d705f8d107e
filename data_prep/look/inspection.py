"""The content of a data set: counts, value ranges, gaps in data and time, places, labels, and a contact sheet."""

import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from data_prep import turned_away
from data_prep.build.doubts import Doubts
from data_prep.pairing import GapHistogram
from data_prep.record import UNKNOWN_TIME, timed
from dual_encoder.data.labels import LabelSpec
from dual_encoder.data.manifest import DatasetInfo, load_info
from dual_encoder.data.tfrecord import ShardedRecords
from dual_encoder.errors import UserError
from dual_encoder.imagery import pictures
from dual_encoder.imagery.palette import label_to_rgb
from dual_encoder.imagery.sensors import IGNORED
from dual_encoder.storage import atomic

_SHEET_COLUMNS, _SHEET_TILE = 8, 192


def inspect(folder: str | os.PathLike, split: str, limit: int, out: pathlib.Path) -> Iterator[str]:
    """Yields the lines of the report and writes the contact sheet.

    Args:
      folder: a data set folder.
      split: one split, '' = all.
      limit: at most so many records are read, evenly spaced.
      out: the PNG.

    Raises:
      UserError: no such data set or split; an unreadable shard.
    """
    info = load_info(folder)
    if split and split not in info.shards:
        raise UserError(f"data set '{folder}' has no split '{split}'; it has {sorted(info.shards)}")
    yield f"{info.name}/{info.config}/{info.version}   fingerprint {info.fingerprint[:16]}"
    for name, value in info.source.items():
        yield f"  {name:12s} {value}"
    for name, entries in info.shards.items():
        yield (f"split {name:11s} {sum(e['records'] for e in entries):8d} records  {len(entries):4d} shards  "
               f"{sum(e['bytes'] for e in entries) / 1e6:10.1f} MB")
    if (rejected := epath.Path(folder) / "rejected.jsonl").exists():
        yield turned_away.count(rejected.read_text().splitlines(), str(rejected))
    records = [ShardedRecords(folder, name) for name in ([split] if split else info.shards)]
    total = sum(map(len, records))
    chosen = np.unique(np.linspace(0, total - 1, min(limit, total)).astype(int))
    if len(chosen) < total:
        yield f"the figures below are of {len(chosen)} of {total} records, evenly spaced (--records)"
    summary = _Summary(info)
    shown = set(np.unique(np.linspace(0, len(chosen) - 1, min(_SHEET_COLUMNS, len(chosen))).astype(int)).tolist())
    columns, titles = [], []
    for position, number in enumerate(chosen.tolist()):
        record = _nth(records, number)
        summary.add(record)
        if position in shown:
            columns.append(_column(record, info))
            titles.append(record["id"].decode())
    yield from summary.lines()
    png = io.BytesIO()
    rows = [f"{feature} ({spec.name})" for feature, spec in info.sensors.items()]
    legend: pictures.Legend = {pictures.NO_DATA: None}
    if info.label and info.label.per_pixel:
        rows.append("label")
        legend = pictures.class_legend(info.classes, info.label.colours)
    pictures.grid([list(row) for row in zip(*columns, strict=True)], _SHEET_TILE, titles, rows, legend).save(png, "PNG")
    atomic.write(out, png.getvalue())
    yield f"contact sheet: {out} ({', '.join(rows)}, top to bottom)"


class _Summary:
    """Running counts over records."""

    def __init__(self, info: DatasetInfo):
        self._info = info
        self._low: dict[str, np.ndarray] = {}
        self._high: dict[str, np.ndarray] = {}
        self._sum: dict[str, np.ndarray] = {}
        self._pixels: dict[str, int] = {}
        self._with_data: dict[str, int] = {}
        self._gaps = GapHistogram()
        self._label = _LabelSummary(info.label) if info.label else None
        self._places: set[bytes] = set()
        self._doubts = Doubts()
        self._records = 0

    def add(self, record: dict[str, Any]) -> None:
        self._records += 1
        self._places.add(record["location_id"])
        self._gaps.add({feature: record.get(f"{feature}_time", UNKNOWN_TIME) for feature in timed(self._info.sensors)})
        if self._label:
            self._label.add(record["label"])
        self._doubts.add(record["id"].decode(), record, self._info.sensors, record.get("s2_offset_removed", 0))
        for feature, spec in self._info.sensors.items():
            image = record[feature]
            pixels = image[spec.holds_data(image)]
            self._pixels[feature] = self._pixels.get(feature, 0) + image.shape[0] * image.shape[1]
            self._with_data[feature] = self._with_data.get(feature, 0) + len(pixels)
            if len(pixels):
                self._low[feature] = np.minimum(self._low.get(feature, np.inf), pixels.min(axis=0))
                self._high[feature] = np.maximum(self._high.get(feature, -np.inf), pixels.max(axis=0))
                self._sum[feature] = self._sum.get(feature, 0) + pixels.sum(axis=0, dtype=np.float64)

    def lines(self) -> Iterator[str]:
        for feature, spec in self._info.sensors.items():
            share = self._with_data[feature] / self._pixels[feature]
            yield (f"{feature}: {spec.name}, {spec.dtype}{list(self._info.tensors[feature].shape)}, stored x "
                   f"{spec.scale:g} = {spec.unit}; {share:.2%} of pixels valid, {1 - share:.2%} without data")
            if share > 0:
                yield f"  {'band':6s}{'min':>10s}{'mean':>10s}{'max':>10s}"
                mean = self._sum[feature] / self._with_data[feature]
                for band, values in zip(spec.bands, np.stack([self._low[feature], mean, self._high[feature]], 1) *
                                        spec.scale, strict=True):
                    yield f"  {band:6s}" + "".join(f"{value:10.4g}" for value in values)
        yield f"{len(self._places)} distinct locations in {self._records} records"
        if len(self._info.sensors) > 1:
            yield from self._gaps.lines(timed(self._info.sensors))
        yield from (f"implausible: {line}" for line in self._doubts.lines())
        if self._label:
            yield from self._label.lines()


class _LabelSummary:
    """Running counts over labels: pixels of a class, records of a class, or the values of a number."""

    def __init__(self, spec: LabelSpec):
        self._spec, self._records = spec, 0
        self._counts = np.zeros(max(len(spec.classes), IGNORED + 1), np.int64)
        self._low, self._sum, self._high = np.inf, 0.0, -np.inf

    def add(self, label: np.ndarray) -> None:
        self._records += 1
        if self._spec.kind == "number":
            value = float(label)
            self._low, self._sum, self._high = min(self._low, value), self._sum + value, max(self._high, value)
        else:
            values = np.flatnonzero(label) if self._spec.kind == "image_classes" else label.ravel()
            self._counts += np.bincount(values, minlength=len(self._counts))

    def lines(self) -> Iterator[str]:
        if self._spec.kind == "number":
            yield (f"label: number{f' in {self._spec.unit}' * bool(self._spec.unit)} of {self._records} records; min "
                   f"{self._low:.4g}, mean {self._sum / max(self._records, 1):.4g}, max {self._high:.4g}")
            return
        if self._spec.per_pixel:
            total, ignored = int(self._counts[:IGNORED].sum()), int(self._counts[IGNORED])
            yield f"label: {total / (total + ignored):.2%} of pixels valid, {ignored} ignored"
        else:
            total = self._records
            several = "any number of" if self._spec.kind == "image_classes" else "one of"
            yield f"label: {several} {len(self._spec.classes)} classes for each of {total} records"
        width = max(30, *map(len, self._spec.classes), 0)
        for value, name in enumerate(self._spec.classes):
            share = self._counts[value] / max(total, 1)
            count = "" if self._spec.per_pixel else f"{self._counts[value]:8d} "
            yield f"  {value} {name:{width}s} {count}{share:7.2%} {'#' * round(40 * share)}"


def _nth(splits: list[ShardedRecords], number: int) -> dict[str, Any]:
    for split in splits:
        if number < len(split):
            return split[number]
        number -= len(split)
    raise AssertionError("number beyond the last record")


def _column(record: dict[str, Any], info: DatasetInfo) -> list[np.ndarray]:
    column = [pictures.image_to_rgb(record[feature], spec) for feature, spec in info.sensors.items()]
    if info.label and info.label.per_pixel:
        column.append(label_to_rgb(record["label"], info.label.colours))
    return column
