"""The TFDS configuration of a data set: all settings that decide its records."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from data_prep import importers
from data_prep.build import exclusion
from data_prep.build.selection import Filters
from data_prep.build.shards import WATER_WEAK
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError, nearest
from dual_encoder.imagery import radiometry
from dual_encoder.imagery.sensors import sensor

SPLIT_BY = ("source", "area")
_WATER_LABEL = LabelSpec("pixel_classes", radiometry.WATER_WEAK_CLASSES)
_WEAK_NOTE = ("weak labels from S2 indices (NDWI, MNDWI, NDVI) of the paired image, not checked by people; see "
              "dual_encoder/imagery/radiometry.py")


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """A TFDS configuration: everything that decides the records, before the raw data is seen.

    Attributes:
      importer: module name in data_prep.importers.
      sensors: feature name -> sensor name of the images to store.
      size: height and width of a record in pixels.
      raw_size: height and width of a raw image; one larger than `size` is cut into whole patches. 0 = `size`.
      any_size: raw images may have any size; whole patches of `size` are cut from them.
      classes: class names of tiles, () for pairs and for labels that are numbers.
      label: spec of the label of tiles, or its JSON {'kind', 'unit'}; None = a class for each pixel.
      labels: 'water_weak' makes tiles of pairs by S2 indices; a name out of the importer's `Layout.other_labels`; '' =
        its usual labels.
      split_by: 'source', the authors' splits (by area if they gave none), or 'area', by hash of the block 80/10/10.
      block_degrees: side of such a block; None: 1, or the largest below that gives each split two places.
      filters: limits that records must keep.
      exclude: folders of data sets; records that overlap theirs are left out.
      source: facts of the origin, for the manifest.
    """

    importer: str = ""
    sensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    size: int = 0
    raw_size: int = 0
    any_size: bool = False
    classes: tuple[str, ...] = ()
    label: LabelSpec | Mapping[str, str] | None = None
    labels: str = ""
    split_by: str = "source"
    block_degrees: float | None = None
    filters: Filters = dataclasses.field(default_factory=Filters)
    exclude: tuple[str, ...] = ()
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not re.fullmatch(r"[\w.-]+", self.name) or not self.name.strip("."):
            raise UserError(f"config name '{self.name}' must be made of letters, digits, '_', '.' and '-'")
        if not (self.importer and self.sensors and self.size > 0):
            raise UserError(f"config '{self.name}' has importer='{self.importer}' sensors={dict(self.sensors)} "
                            f"size={self.size}; give an importer, sensors and a size")
        importers.load(self.importer)
        if self.split_by not in SPLIT_BY:
            raise UserError(f"config '{self.name}' has split_by='{self.split_by}'; valid are {SPLIT_BY}")
        if self.block_degrees is not None and not 0 < self.block_degrees <= 180:
            raise UserError(f"--block-degrees={self.block_degrees} must be more than 0 and at most 180")
        self.raw_size = self.raw_size or self.size
        if self.raw_size < self.size and not self.any_size:
            raise UserError(f"--size={self.size} is more than the {self.raw_size} pixels of the raw images; choose at "
                            "most that")
        if self.labels not in ("", WATER_WEAK) and self.label is None:
            raise UserError(f"config '{self.name}' has labels='{self.labels}' without a label; give '{WATER_WEAK}', or "
                            "the kind and the classes of the label")
        if self.labels == WATER_WEAK and not self.classes:
            self.label = _WATER_LABEL
        if isinstance(self.label, Mapping):
            self.label = LabelSpec.from_json(self.label, self.classes)
        self.label_spec = self.label or LabelSpec("pixel_classes", tuple(self.classes))
        self.classes = self.label_spec.classes
        if (self.raw_size != self.size or self.any_size) and not self.label_spec.per_pixel:
            raise UserError(f"--size={self.size} cuts images of {self.raw_size} pixels, whose label is that of the "
                            "whole image; leave --size out")
        self.specs = {feature: sensor(name) for feature, name in self.sensors.items()}
        if self.labels == WATER_WEAK:
            radiometry.water_bands(self.specs["s2"])

    def facts(self) -> dict[str, Any]:
        """Returns the part of the config that goes into the manifest and metadata.json."""
        origin = {"importer": self.importer, "split_by": self.split_by}
        if self.raw_size > self.size:
            origin["patches"] = f"{self.size} px, cut from {self.raw_size} px"
        if self.labels:
            origin["labels"] = self.labels
        if text := self.filters.to_text():
            origin["filters"] = text
        if self.exclude:
            origin["exclude"] = exclusion.facts(self.exclude)
        return {"sensors": {name: spec.to_json() for name, spec in self.specs.items()}, "classes": list(self.classes),
                "source": {**self.source, **origin}}


def make_config(importer: str, kind: str, *, raw: pathlib.Path | None = None, sensors: Sequence[str] = (),
                labels: str = "", split_by: str = "source", block_degrees: float | None = None, size: int = 0,
                filters: Filters | None = None, exclude: Sequence[str] = (), name: str = "") -> Config:
    """Makes a Config of the importer's layout and the options of a build.

    Args:
      importer: module name in data_prep.importers.
      kind: 'pairs' or 'tiles'.
      raw: the raw folder, for importers whose layout depends on it.
      sensors: the images to store, by feature ('s2': the usual sensor), by sensor ('s2_l1c') or, if the importer picks
        bands by name, by some bands of one ('s2_l2a:B02+B03+B04'); () = the usual ones.
      labels, split_by, block_degrees, filters, exclude: as in `Config`.
      size: pixels of a record; 0 = those of the raw images.
      name: the config's name; '' = made from the options.

    Raises:
      UserError: unknown importer, kind, sensor, label or split rule.
    """
    weak = labels == WATER_WEAK
    layout = importers.load(importer).layout("pairs" if weak else kind, raw)
    if labels and not weak and labels not in layout.other_labels:
        valid = [WATER_WEAK, *layout.other_labels]
        raise UserError(f"importer '{importer}' has no labels '{labels}'; {nearest(labels, valid)}")
    if not size and not layout.size:
        raise UserError(f"importer '{importer}' does not know the size of the images; give it in the description of "
                        "the raw data, or --size to cut patches of one size")
    chosen = _choose(layout, sensors, importer) if sensors else {f: layout.sensors[f][0] for f in layout.default}
    if (kind == "pairs" or weak) and len(chosen) < 2:
        raise UserError(f"--sensors={','.join(sensors)} leaves one image, pairs and weak labels need s1,s2; build "
                        "labelled --kind=tiles for a single sensor")
    usual = {feature: layout.sensors[feature][0] for feature in layout.default}
    parts = [importer, labels, "_".join(re.sub(r"[^\w.-]", "-", name) if name != layout.sensors[feature][0] else feature
                                        for feature, name in chosen.items()) if chosen != usual else "",
             f"{size}px" if size not in (0, layout.size) else "", "by_area" if split_by == "area" else ""]
    source = dict(layout.source)
    if weak:
        source["notes"] = f"{_WEAK_NOTE}; {source['notes']}"
    label = _WATER_LABEL if weak else layout.other_labels[labels] if labels else layout.label
    return Config(name=name or "_".join(filter(None, parts)), importer=importer, sensors=chosen,
                  size=size or layout.size, raw_size=layout.size, any_size=layout.any_size and bool(size),
                  label=label, labels=labels, split_by=split_by, block_degrees=block_degrees,
                  filters=filters or Filters(), exclude=tuple(exclude), source=source)


def _choose(layout: importers.Layout, wanted: Sequence[str], importer: str) -> dict[str, str]:
    """Feature -> sensor name for names of features or sensors, or, as s2_l2a:B02+B03, of some bands of a sensor."""
    offered: dict[str, str] = {}
    for feature, names in layout.sensors.items():  # a sensor of several features names the first of them
        offered = dict.fromkeys(names, feature) | offered
    chosen = {}
    for name in wanted:
        kind, some, _ = name.partition(":")
        whole = next((of for of in offered if some and layout.by_name and of.partition(":")[0] == kind), "")
        if whole:  # some of the bands that the raw data have, which may be some of the sensor's
            chosen[offered[whole]] = sensor(whole).subset(sensor(name).bands).name
            continue
        if name not in layout.sensors and name not in offered:
            valid = [f"{feature} ({' or '.join(names)})" for feature, names in layout.sensors.items()]
            raise UserError(f"importer '{importer}' has no image '{name}'; valid: {', '.join(valid)}")
        chosen[offered.get(name, name)] = name if name in offered else layout.sensors[name][0]
    return {feature: chosen[feature] for feature in layout.sensors if feature in chosen}
