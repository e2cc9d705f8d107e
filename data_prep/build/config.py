"""What decides the records of a data set, as a TFDS configuration."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from data_prep import importers
from dual_encoder.imagery import radiometry
from data_prep.build.selection import Filters
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import sensor

SPLIT_BY = ("source", "area")
LABELS = ("", "water_weak")
_WEAK_NOTE = ("weak labels from S2 indices (NDWI, MNDWI, NDVI) of the paired image, not checked by people; see "
              "dual_encoder/imagery/radiometry.py")


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """A TFDS configuration: everything that decides the records, before the raw data is seen.

    Attributes:
      importer: module name in data_prep.importers.
      sensors: feature name -> sensor name of the images to store.
      size: height and width of a record in pixels.
      raw_size: height and width of a raw image; when it is more than `size`, it is cut into whole patches. 0 = `size`.
      classes: class names of tiles, () for pairs.
      labels: 'water_weak' makes tiles of pairs by S2 indices; '' takes the raw data's own labels.
      split_by: 'source', the authors' splits (by area where they gave none), or 'area', by hash of the block 80/10/10.
      block_degrees: side of such a block.
      filters: which records are wanted.
      source: what the manifest says about the origin.
    """

    importer: str = ""
    sensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    size: int = 0
    raw_size: int = 0
    classes: tuple[str, ...] = ()
    labels: str = ""
    split_by: str = "source"
    block_degrees: float = 1.0
    filters: Filters = dataclasses.field(default_factory=Filters)
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not re.fullmatch(r"[\w.-]+", self.name) or not self.name.strip("."):
            raise UserError(f"config name '{self.name}' must be made of letters, digits, '_', '.' and '-'")
        if not (self.importer and self.sensors and self.size > 0):
            raise UserError(f"config '{self.name}' has importer='{self.importer}' sensors={dict(self.sensors)} "
                            f"size={self.size}; give an importer, sensors and a size")
        importers.load(self.importer)
        if self.split_by not in SPLIT_BY or self.labels not in LABELS:
            raise UserError(f"config '{self.name}' has split_by='{self.split_by}' labels='{self.labels}'; valid are "
                            f"{SPLIT_BY} and {LABELS}")
        if not 0 < self.block_degrees <= 180:
            raise UserError(f"--block-degrees={self.block_degrees} must be more than 0 and at most 180")
        self.raw_size = self.raw_size or self.size
        if self.raw_size < self.size:
            raise UserError(f"--size={self.size} is more than the {self.raw_size} pixels of the raw images; choose at "
                            "most that")
        if self.labels and not self.classes:
            self.classes = radiometry.WATER_WEAK_CLASSES
        self.classes = tuple(self.classes)
        self.specs = {feature: sensor(name) for feature, name in self.sensors.items()}
        if self.labels:
            radiometry.water_bands(self.specs["s2"])

    def facts(self) -> dict[str, Any]:
        """Returns what the manifest and metadata.json say of the config."""
        origin = {"importer": self.importer, "split_by": self.split_by}
        if self.raw_size != self.size:
            origin["patches"] = f"{self.size} px, cut from {self.raw_size} px"
        if self.labels:
            origin["labels"] = self.labels
        if text := self.filters.to_text():
            origin["filters"] = text
        return {"sensors": {name: spec.to_json() for name, spec in self.specs.items()}, "classes": list(self.classes),
                "source": {**self.source, **origin}}


def make_config(importer: str, kind: str, *, raw: pathlib.Path | None = None, sensors: Sequence[str] = (),
                labels: str = "", split_by: str = "source", block_degrees: float = 1.0, size: int = 0,
                filters: Filters | None = None, name: str = "") -> Config:
    """Fills a Config from what the importer says about itself.

    Args:
      importer: module name in data_prep.importers.
      kind: 'pairs' or 'tiles'.
      raw: the raw folder, for importers whose layout depends on it.
      sensors: the images to store, by feature ('s2': the usual sensor) or by sensor ('s2_l1c'); () = the usual ones.
      labels, split_by, block_degrees, filters: as in `Config`.
      size: pixels of a record; 0 = those of the raw images.
      name: the config's name; '' = made from the options.

    Raises:
      UserError: unknown importer, kind, sensor, label or split rule.
    """
    layout = importers.load(importer).layout("pairs" if labels else kind, raw)
    chosen = _choose(layout, sensors, importer) if sensors else {f: layout.sensors[f][0] for f in layout.default}
    if (kind == "pairs" or labels) and len(chosen) < 2:
        raise UserError(f"--sensors={','.join(sensors)} leaves one image, pairs and weak labels need s1,s2; build "
                        "labelled --kind=tiles for a single sensor")
    usual = {feature: layout.sensors[feature][0] for feature in layout.default}
    parts = [importer, labels, "_".join(name if name != layout.sensors[feature][0] else feature
                                        for feature, name in chosen.items()) if chosen != usual else "",
             f"{size}px" if size not in (0, layout.size) else "", "by_area" if split_by == "area" else ""]
    source = dict(layout.source)
    if labels:
        source["notes"] = f"{_WEAK_NOTE}; {source['notes']}"
    return Config(name=name or "_".join(filter(None, parts)), importer=importer, sensors=chosen,
                  size=size or layout.size, raw_size=layout.size,
                  classes=radiometry.WATER_WEAK_CLASSES if labels else layout.classes, labels=labels,
                  split_by=split_by, block_degrees=block_degrees, filters=filters or Filters(), source=source)


def _choose(layout: importers.Layout, wanted: Sequence[str], importer: str) -> dict[str, str]:
    """Feature -> sensor name for names of features or sensors."""
    offered = {name: feature for feature, names in layout.sensors.items() for name in names}
    chosen = {}
    for name in wanted:
        if name not in layout.sensors and name not in offered:
            valid = [f"{feature} ({' or '.join(names)})" for feature, names in layout.sensors.items()]
            raise UserError(f"importer '{importer}' has no image '{name}'; valid: {', '.join(valid)}")
        chosen[offered.get(name, name)] = name if name in offered else layout.sensors[name][0]
    return {feature: chosen[feature] for feature in layout.sensors if feature in chosen}
