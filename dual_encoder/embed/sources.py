"""Images to embed: a built data set, or raw data that an importer reads."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from data_prep import importers
from data_prep.importers import Entry, Reject, Unmatched
from data_prep.record import Pair, Tile, check, cut, time_of
from dual_encoder.data.labels import LabelSpec
from dual_encoder.data.manifest import load_info, splits_in_order
from dual_encoder.data.records import Records
from dual_encoder.embed.places import point
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import IGNORED, SensorSpec, sensor


@dataclasses.dataclass(frozen=True)
class Item:
    """The images of one place.

    Attributes:
      entry: number of the entry of the source.
      id, location_id, split: as in a record.
      record: its number in its split.
      images: feature -> [height, width, bands], stored integers.
      times: feature -> Unix seconds, -1 = unknown.
      geometry: WKB, as of `places`.
      label: class, classes or number of the whole image; None without one.
    """

    entry: int
    id: str
    location_id: str
    split: str
    record: int
    images: Mapping[str, np.ndarray]
    times: Mapping[str, int]
    geometry: bytes | None
    label: Any


class Source(Protocol):
    """Images in a fixed order.

    Attributes:
      label: spec of the labels; None if there are none.
      facts: what it is, as JSON values: kind, path, fingerprint, sensors (feature -> name), source and others. Equal
        facts are equal images.
      rejects: what should be entries and cannot be.
    """

    label: LabelSpec | None
    facts: Mapping[str, Any]
    rejects: Sequence[Reject]

    def __len__(self) -> int:
        """Returns the number of entries; each gives one item, some items, or none."""

    def items(self, start: int, stop: int) -> Iterator[Item | Reject]:
        """Yields the items of the entries start, ..., stop - 1, and a Reject for each that cannot be read."""


class DataSet:
    """The splits of a built data set.

    Args:
      folder: with manifest.json.
      sensors: of the encoder; those that the data set has are read.
      splits: joined by '+'; '' = all.

    Raises:
      UserError: no such split, other bands or units, or none of the sensors.
    """

    def __init__(self, folder: pathlib.Path, sensors: Mapping[str, SensorSpec], splits: str = ""):
        info = load_info(folder)
        self._features = _shared(sensors, info.sensors, str(folder))
        for name in self._features:
            sensors[name].check_matches(info.sensors[name], f"data set '{folder}'", "the encoder")
        self.label: LabelSpec | None = info.label
        self.rejects: Sequence[Reject] = ()
        names = splits.split("+") if splits else [name for name in splits_in_order(info.shards) if info.shards[name]]
        self._parts = [(name, Records(folder, name, tuple(self._features))) for name in names]
        self.facts: Mapping[str, Any] = {
            "kind": "data set", "path": str(folder), "fingerprint": info.fingerprint, "splits": names,
            "sensors": {name: info.sensors[name].name for name in self._features},
            "name": f"{info.name} {info.config} {info.version}", "source": dict(info.source)}

    def __len__(self) -> int:
        return sum(len(records) for _, records in self._parts)

    def items(self, start: int, stop: int) -> Iterator[Item | Reject]:
        first = 0
        for split, records in self._parts:
            for number in range(max(start - first, 0), min(stop - first, len(records))):
                record = records.record(number)
                yield Item(first + number, record["id"], record["location_id"], split, number,
                           {name: record[name] for name in self._features},
                           {name: record.get(f"{name}_time", -1) for name in self._features},
                           point(record.get("lat", np.nan), record.get("lon", np.nan)),
                           whole_label(record["label"], self.label) if self.label else None)
            first += len(records)


class RawData:
    """Raw data that an importer of data_prep reads; nothing is built.

    Args:
      folder: of the raw data.
      importer: its name, such as 'geotiff'.
      kind: 'pairs', or 'tiles', which have labels; '' = pairs if there are any.
      sensors: of the encoder; those that the data have are read.
      size: side in pixels of the patches to cut; 0 takes images as they are.

    Raises:
      UserError: the folder does not fit the importer, or has none of the sensors.
    """

    def __init__(self, folder: pathlib.Path, importer: str, kind: str, sensors: Mapping[str, SensorSpec],
                 size: int = 0):
        kind, layout = _layout(importer, kind, folder)
        offered = {feature: sensor(sensors[feature].name if sensors[feature].name in names else names[0])
                   for feature, names in layout.sensors.items() if feature in sensors}
        self._specs = {feature: offered[feature] for feature in _shared(sensors, offered, str(folder))}
        for feature, spec in self._specs.items():
            sensors[feature].check_matches(spec, f"'{folder}'", "the encoder")
        names_of = {feature: spec.name for feature, spec in self._specs.items()}
        self._size = size
        self.label: LabelSpec | None = layout.label
        self._importer = importers.open_raw(importer, folder, kind, names_of, cut=bool(size) and layout.any_size)
        listed = list(self._importer.entries())
        self._entries = [item for item in listed if isinstance(item, Entry)]
        self.rejects: Sequence[Reject] = [item for item in listed if isinstance(item, Reject)
                                          and not isinstance(item, Unmatched)]
        if not self._entries:
            reason = f" (first: {self.rejects[0].id}: {self.rejects[0].reason})" if self.rejects else ""
            raise UserError(f"'{folder}' has no images that importer '{importer}' can read{reason}; see "
                            f"data_prep/importers/{importer}.py for its layout")
        names = json.dumps([[entry.id, dict(entry.where), entry.split] for entry in self._entries])
        self.facts: Mapping[str, Any] = {
            "kind": f"{kind} of importer {importer}", "path": str(folder), "size": size, "sensors": names_of,
            "fingerprint": hashlib.sha256(names.encode()).hexdigest(), "source": dict(layout.source)}

    def __len__(self) -> int:
        return len(self._entries)

    def items(self, start: int, stop: int) -> Iterator[Item | Reject]:
        for number, entry in enumerate(self._entries[start:stop], start):
            try:
                record = self._importer.read(entry)
                pieces = cut(record, self._size) if self._size else [record]
            except UserError as error:
                yield Reject(entry.id, str(error))
                continue
            for piece in pieces:
                try:
                    check(piece, self._specs, 0, self.label if isinstance(piece, Tile) else None)
                    yield self._item(piece, number)
                except UserError as error:  # most often: a sensor without a single pixel of data
                    yield Reject(piece.id, str(error))

    def _item(self, record: Pair | Tile, number: int) -> Item:
        return Item(number, record.id, record.location_id, record.split, number,
                    {feature: record.images[feature] for feature in self._specs},
                    {feature: time_of(record.times, feature) for feature in self._specs},
                    point(record.lat, record.lon),
                    whole_label(record.label, self.label) if self.label and isinstance(record, Tile) else None)


def whole_label(label: np.ndarray, spec: LabelSpec) -> Any:
    """Returns the label of a record as one value for the whole image.

    The name of its class, a list of names, or a number. Of classes of pixels, the one that covers most of the pixels
    that count; None if no pixel does.
    """
    if spec.kind == "number":
        return float(label)
    if spec.kind == "image_classes":
        return [name for name, there in zip(spec.classes, label, strict=True) if there]
    if spec.kind == "image_class":
        return spec.classes[int(label)]
    counts = np.bincount(label[label != IGNORED].reshape(-1), minlength=len(spec.classes))
    return spec.classes[int(counts.argmax())] if counts.any() else None


def _shared(sensors: Mapping[str, SensorSpec], given: Mapping[str, SensorSpec], folder: str) -> list[str]:
    """Returns the sensors of the encoder that the data have, in the encoder's order; UserError if there is none."""
    shared = [name for name in sensors if name in given]
    if not shared:
        raise UserError(f"'{folder}' has images of {', '.join(sorted(given)) or 'no known sensor'}, the encoder is for "
                        f"{', '.join(sensors)}; give other data or another --workdir")
    return shared


def _layout(importer: str, kind: str, folder: pathlib.Path) -> tuple[str, importers.Layout]:
    """Returns the kind of records, and their layout: without a `kind` pairs, or tiles if the data have no pairs."""
    described = importers.load(importer)
    if kind:
        return kind, described.layout(kind, folder)
    try:
        return "pairs", described.layout("pairs", folder)
    except UserError as of_pairs:
        try:
            return "tiles", described.layout("tiles", folder)
        except UserError:
            raise of_pairs from None
