"""What both TFDS builders share: configurations, splits, weak labels, and the manifest after the build."""

import collections
import dataclasses
import hashlib
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, shuffle

from data_prep import importers, manifest, radiometry, record
from data_prep.importers import Entry
from dual_encoder.errors import UserError
from dual_encoder.sensors import IGNORED, SensorSpec, sensor

SPLIT_BY = ("source", "location")
LABELS = ("", "water_weak")
_WEAK_NOTE = ("weak labels from S2 indices (NDWI, MNDWI, NDVI) of the paired image, not checked by people; see "
              "data_prep/radiometry.py")


@dataclasses.dataclass(eq=False)
class Config(tfds.core.BuilderConfig):
    """A TFDS configuration: everything that decides the records' shapes before the raw data is seen.

    Attributes:
      importer: module name in data_prep.importers.
      sensors: feature name -> sensor name of the images to store.
      size: height and width in pixels; the raw images must have it.
      classes: class names of tiles, () for pairs.
      labels: 'water_weak' makes tiles of pairs by S2 indices; '' takes the raw data's own labels.
      split_by: 'source', the authors' splits (by location where they gave none), or 'location', by hash 80/10/10.
      source: what the manifest says about the origin.
    """

    importer: str = ""
    sensors: Mapping[str, str] = dataclasses.field(default_factory=dict)
    size: int = 0
    classes: tuple[str, ...] = ()
    labels: str = ""
    split_by: str = "source"
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise UserError(f"config name '{self.name}' must be made of letters, digits, '_', '.' and '-'")
        if not (self.importer and self.sensors and self.size > 0):
            raise UserError(f"config '{self.name}' has importer='{self.importer}' sensors={dict(self.sensors)} "
                            f"size={self.size}; give an importer, sensors and a size")
        importers.load(self.importer)
        if self.split_by not in SPLIT_BY or self.labels not in LABELS:
            raise UserError(f"config '{self.name}' has split_by='{self.split_by}' labels='{self.labels}'; valid are "
                            f"{SPLIT_BY} and {LABELS}")
        if self.labels and not self.classes:
            self.classes = radiometry.WATER_WEAK_CLASSES
        self.classes = tuple(self.classes)
        self.specs = {feature: sensor(name) for feature, name in self.sensors.items()}

    def facts(self) -> dict[str, Any]:
        """Returns what the manifest and metadata.json say of the config."""
        origin = {"importer": self.importer, "split_by": self.split_by}
        if self.labels:
            origin["labels"] = self.labels
        return {"sensors": {name: spec.to_json() for name, spec in self.specs.items()}, "classes": list(self.classes),
                "source": {**self.source, **origin}}


def make_config(importer: str, kind: str, *, raw: pathlib.Path | None = None, features: tuple[str, ...] = (),
                labels: str = "", split_by: str = "source", name: str = "") -> Config:
    """Fills a Config from what the importer says about itself.

    Args:
      importer: module name in data_prep.importers.
      kind: 'pairs' or 'tiles'.
      raw: the raw folder; only 'npz' looks into it.
      features: the images to store, () = the importer's usual ones.
      labels, split_by: as in `Config`.
      name: the config's name; '' = made from the options.

    Raises:
      UserError: unknown importer, kind, feature, label or split rule.
    """
    layout = importers.load(importer).layout("pairs" if labels else kind, raw)
    unknown = [feature for feature in features if feature not in layout.sensors]
    if unknown:
        raise UserError(f"importer '{importer}' has no image '{unknown[0]}'; valid: {', '.join(layout.sensors)}")
    chosen = tuple(f for f in layout.sensors if f in features) or layout.default
    if (kind == "pairs" or labels) and len(chosen) < 2:
        raise UserError(f"--sensors={','.join(chosen)} leaves one image, pairs and weak labels need s1,s2; build "
                        "labelled --kind=tiles for a single sensor")
    parts = [importer, labels, "_".join(chosen) if chosen != layout.default else "",
             "by_location" if split_by == "location" else ""]
    source = dict(layout.source)
    if labels:
        source["notes"] = f"{_WEAK_NOTE}; {source['notes']}"
    return Config(name=name or "_".join(filter(None, parts)), importer=importer,
                  sensors={feature: layout.sensors[feature] for feature in chosen}, size=layout.size,
                  classes=radiometry.WATER_WEAK_CLASSES if labels else layout.classes, labels=labels,
                  split_by=split_by, source=source)


def location_split(location_id: str) -> str:
    """Returns 'train' (80 %), 'validation' (10 %) or 'test' (10 %) by a hash: no place is in two splits."""
    tenth = int.from_bytes(hashlib.sha256(location_id.encode()).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "validation" if tenth == 8 else "test"


def assign_splits(entries: Iterable[Entry], split_by: str) -> dict[str, list[Entry]]:
    """Groups entries by split.

    Args:
      entries: all entries of a raw data set.
      split_by: 'location', or 'source' = the entries' own splits where any has one. Entries that the authors put in no
        split are then left out, with a line that counts them.

    Returns:
      split name -> entries; no split is empty.

    Raises:
      UserError: no entries, or two with one id.
    """
    entries = list(entries)
    if not entries:
        raise UserError("the raw folder holds no usable record; check --raw and the lines above")
    double = [name for name, count in collections.Counter(entry.id for entry in entries).items() if count > 1]
    if double:
        raise UserError(f"{len(double)} ids occur twice, first '{double[0]}'; ids must be unique, mend the raw data")
    own = split_by == "source" and any(entry.split for entry in entries)
    if split_by == "source" and not own:
        print("the raw data has no splits: split by location instead", flush=True)
    groups: dict[str, list[Entry]] = {"train": [], "validation": [], "test": []}
    for entry in entries:
        groups.setdefault(entry.split if own else location_split(entry.location_id), []).append(entry)
    if without := groups.pop("", []):
        print(f"left out {len(without)} of {len(entries)} entries that are in no split of the raw data (take them with "
              "--split-by=location)", flush=True)
    return {split: group for split, group in groups.items() if group}


def label_by_indices(pair: record.Pair, sensors: Mapping[str, SensorSpec]) -> record.Tile:
    """Makes a Tile of a Pair with `radiometry.weak_water_labels`; ignored where either image has no data."""
    label = radiometry.weak_water_labels(pair.s2, sensors["s2"])
    label[~sensors["s1"].holds_data(pair.s1)] = IGNORED
    common = {field.name: getattr(pair, field.name) for field in dataclasses.fields(pair)
              if field.name not in ("s1", "s2", "source")}
    return record.Tile(images=dict(pair.images), label=label, source=f"{pair.source}; weak labels from S2 indices",
                       **common)


def read_ahead(read: Callable[[Entry], Any], entries: Iterable[Entry], workers: int) -> Iterator[Any]:
    """Yields read(entry) in order, reading a few entries ahead in threads; memory stays at 2 * workers records."""
    with ThreadPoolExecutor(workers) as pool:
        pending = collections.deque()
        for entry in entries:
            pending.append(pool.submit(read, entry))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class ShardBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder whose folder ends up with our manifest and index. Subclasses set KIND, VERSION and configs."""

    KIND = ""  # 'pairs' or 'tiles'
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Name the raw data's folder with --manual_dir. Its layout is in the docstring of data_prep/importers/<importer>.py.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        config: Config = self.builder_config
        features: dict[str, Any] = {
            name: _tensor((config.size, config.size, len(spec.bands)), spec.dtype)
            for name, spec in config.specs.items()}
        if self.KIND == "tiles":
            features["label"] = _tensor((config.size, config.size), "uint8")
        tensors = {name: {"dtype": np.dtype(feature.np_dtype).name, "shape": list(feature.shape)}
                   for name, feature in features.items()}
        features |= {name: tfds.features.Text() for name in ("id", "location_id", "source")}
        features |= {name: tfds.features.Scalar(np.int64) for name in ("s1_time", "s2_time", "s2_offset_removed")}
        features |= {name: tfds.features.Scalar(np.float32) for name in ("lat", "lon")}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict({manifest.FACTS: {
                "name": self.name, "config": config.name, "version": str(self.version), "tensors": tensors,
                **config.facts()}}))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config: Config = self.builder_config
        kind = "pairs" if config.labels else self.KIND
        importer = importers.load(config.importer)(pathlib.Path(dl_manager.manual_dir), kind, tuple(config.sensors))
        splits = assign_splits(importer.entries(), config.split_by)
        _import_tensorflow_quietly()  # not before the raw data is known to be there: it takes seconds
        return {split: self._generate_examples(split, importer, entries) for split, entries in splits.items()}

    def _generate_examples(self, split: str, importer: importers.Importer, entries: list[Entry]):
        config: Config = self.builder_config
        start = shown = time.monotonic()
        for done, item in enumerate(read_ahead(importer.read, entries, workers=os.cpu_count() or 1), start=1):
            if config.labels:
                item = label_by_indices(item, config.specs)
            record.check(item, config.specs, config.size, len(config.classes))
            example = {name: item.images[name] for name in config.specs}
            if self.KIND == "tiles":
                example["label"] = item.label
            for name in ("id", "location_id", "source", "s1_time", "s2_time", "s2_offset_removed", "lat", "lon"):
                example[name] = getattr(item, name)
            yield item.id, example
            now = time.monotonic()
            if done == len(entries) or now - shown > 5:
                shown = now
                print(f"{split}: {done}/{len(entries)} records, {done / max(now - start, 1e-9):.0f}/s", flush=True)

    def _log_download_bytes(self) -> None:
        """TFDS would say that it downloads "Unknown size"; nothing is downloaded."""

    def download_and_prepare(self, **kwargs) -> None:
        """Builds as TFDS does, then writes manifest.json and the index beside the shards where they are missing."""
        assign = tfds.core.utils.temporary_assignment
        # TFDS leaves the order of the features in a record to chance; equal data must give equal bytes. It also holds
        # 1 GB before it sorts on disk; the order of the records does not depend on that.
        with (assign(example_serializer.ExampleSerializer, "serialize_example", _serialize),
              assign(shuffle, "MAX_MEM_BUFFER_SIZE", 128 << 20)):
            super().download_and_prepare(**kwargs)
        if not manifest.is_written(self.data_path):
            manifest.write(self.data_path)


def _tensor(shape: tuple[int, ...], dtype: str) -> tfds.features.Tensor:
    # The default encoding stores integers as varints and builds 30x slower.
    return tfds.features.Tensor(shape=shape, dtype=np.dtype(dtype).type, encoding=tfds.features.Encoding.BYTES)


def _serialize(self: example_serializer.ExampleSerializer, example: Any) -> bytes:
    return self.get_tf_example(example).SerializeToString(deterministic=True)


def _import_tensorflow_quietly() -> None:
    """Imports TensorFlow without the lines that its libraries write to stderr whatever their log level is."""
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
