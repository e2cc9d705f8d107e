"""manifest.json, the description of a data set folder: reading it. data_prep/build/finish.py writes it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from dual_encoder.data import digests, manifest_form
from dual_encoder.data.digests import MANIFEST as MANIFEST
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.storage import files

_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Stored tensor of one feature: numpy dtype name and shape."""

    dtype: str
    shape: tuple[int, ...]


def splits_in_order(names: Iterable[str]) -> list[str]:
    """Returns the names of splits in the order of every list: train, validation, test, then others by name."""
    return sorted(names, key=lambda name: (_SPLITS.index(name) if name in _SPLITS else len(_SPLITS), name))


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The content of manifest.json.

    A manifest that was written before labels had a spec holds `classes` only; its labels are classes of pixels.

    Attributes:
      name, config, version: the TFDS identity, e.g. 's1s2_pairs', 'bigearthnet', '1.0.0'.
      sensors: feature name ('s1', 's2', ...) -> spec of the stored image.
      tensors: feature name ('s1', 's2', ..., 'label') -> dtype and shape: [height, width, bands] of an image, as
        `LabelSpec.shape` of a label.
      label: spec of the feature 'label'; None for unlabelled pairs.
      source: importer, licence, attribution and notes, as text.
      shards: split -> shard entries {'file', 'bytes', 'records', 'sha256'} in order.
      fingerprint: sha256 over the shard digests: equal fingerprints are equal records in equal order.
    """

    name: str
    config: str
    version: str
    sensors: Mapping[str, SensorSpec]
    tensors: Mapping[str, TensorInfo]
    label: LabelSpec | None
    source: Mapping[str, str]
    shards: Mapping[str, tuple[Mapping[str, Any], ...]]
    fingerprint: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the label's classes; empty without a label."""
        return self.label.classes if self.label else ()

    def to_json(self) -> dict[str, Any]:
        """Returns the content of manifest.json."""
        return {
            "name": self.name, "config": self.config, "version": self.version,
            "sensors": {k: v.to_json() for k, v in self.sensors.items()},
            "tensors": {k: {"dtype": v.dtype, "shape": list(v.shape)} for k, v in self.tensors.items()},
            "classes": list(self.classes), **({"label": self.label.to_json()} if self.label else {}),
            "source": dict(self.source),
            "shards": {k: [dict(entry) for entry in v] for k, v in self.shards.items()},
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DatasetInfo":
        """Reads what `to_json` returned, now or before labels had a spec."""
        label = values.get("label", {"kind": "pixel_classes"}) if "label" in values["tensors"] else None
        return cls(
            name=values["name"], config=values["config"], version=values["version"],
            sensors={k: SensorSpec.from_json(v) for k, v in values["sensors"].items()},
            tensors={k: TensorInfo(v["dtype"], tuple(v["shape"])) for k, v in values["tensors"].items()},
            label=LabelSpec.from_json(label, values["classes"]) if label else None, source=dict(values["source"]),
            shards={k: tuple(v) for k, v in values["shards"].items()}, fingerprint=values["fingerprint"])


def load_info(path: epath.PathLike) -> DatasetInfo:
    """Checks the small files of a data set against their digests and reads its manifest.

    Args:
      path: the data set folder, local or in a bucket.

    Raises:
      UserError: there is no data set, its manifest is damaged, or a small file differs from its digest.
    """
    digests.check(path)
    return read_info(path)


def read_info(path: epath.PathLike) -> DatasetInfo:
    """Reads the manifest of a data set folder as `load_info` does, but checks no digest."""
    folder = epath.Path(path)
    manifest = folder / MANIFEST
    try:
        return DatasetInfo.from_json(manifest_form.parse(files.read(manifest)))
    except FileNotFoundError:
        if not files.exists(folder):
            raise UserError(f"data folder '{folder}' does not exist; build it with `python -m data_prep build`, or "
                            "give the folder that the build has printed (data: ...)") from None
        below = [file for depth in ("*", "*/*", "*/*/*") for file in files.find(folder, f"{depth}/{MANIFEST}")]
        hint = (f"it is in '{os.path.dirname(below[0])}'" if below
                else "build the data set with `python -m data_prep build`")
        raise UserError(f"'{folder}' holds no {MANIFEST}; {hint}") from None
    except (KeyError, TypeError, ValueError) as error:  # a UserError of a sensor or a label is a ValueError, too
        raise UserError(f"'{manifest}' is damaged ({one_line(error) if str(error) else error!r}); rewrite it with "
                        f"`python -m data_prep verify --rewrite {folder}`") from error


def merge(infos: Sequence[DatasetInfo], names: Sequence[str], features: tuple[str, ...]) -> DatasetInfo:
    """Returns one description of several data sets that are read as one; that of a single one is unchanged.

    Args:
      infos: the data sets.
      names: their folders, for errors.
      features: the tensors in use; only these must agree, and only these are described.

    Raises:
      UserError: shape, dtype, sensor, kind of label or classes of two data sets differ.
    """
    first = infos[0]
    if len(infos) == 1:
        return first
    for info, name in zip(infos[1:], names[1:], strict=True):
        _check_fits(first, names[0], info, name, features)
    shards: dict[str, tuple[Mapping[str, Any], ...]] = {}
    for info in infos:
        for split, entries in info.shards.items():
            shards[split] = shards.get(split, ()) + entries
    keys = dict.fromkeys(key for info in infos for key in info.source)
    return DatasetInfo(
        name=_join(",", (info.name for info in infos)), config=_join(",", (info.config for info in infos)),
        version=_join(",", (info.version for info in infos)),
        sensors={feature: first.sensors[feature] for feature in features if feature in first.sensors},
        tensors={feature: first.tensors[feature] for feature in features},
        label=first.label if "label" in features else None,
        source={key: _join("; ", (info.source[key] for info in infos if key in info.source)) for key in keys},
        shards=shards, fingerprint=hashlib.sha256("\n".join(info.fingerprint for info in infos).encode()).hexdigest())


def _check_fits(first: DatasetInfo, first_name: str, info: DatasetInfo, name: str, features: tuple[str, ...]) -> None:
    """Raises UserError unless both data sets store `features` alike."""
    ours, theirs = first.label, info.label
    if "label" in features and ours and theirs and (ours.kind, ours.unit) != (theirs.kind, theirs.unit):
        kinds = [f"{label.kind} {label.unit}".strip() for label in (ours, theirs)]
        raise UserError(f"'{first_name}' has labels of kind {kinds[0]}, '{name}' of kind {kinds[1]}; mix data sets of "
                        "one kind of label")
    for feature in features:
        one, other = first.tensors[feature], info.tensors[feature]
        if one != other:
            raise UserError(f"'{first_name}' stores '{feature}' as {one.dtype}{list(one.shape)}, '{name}' as "
                            f"{other.dtype}{list(other.shape)}; mix data sets of one size and dtype")
        if feature in first.sensors:
            first.sensors[feature].check_matches(info.sensors[feature], f"'{name}'", f"'{first_name}'")
    if "label" in features and info.classes != first.classes:
        raise UserError(f"'{first_name}' has classes {list(first.classes)}, '{name}' has {list(info.classes)}; mix "
                        "data sets of one set of classes")


def _join(separator: str, values: Iterable[str]) -> str:
    return separator.join(dict.fromkeys(values))


def load_sensors(info: DatasetInfo, statistics: str) -> Mapping[str, SensorSpec]:
    """Returns the data set's sensors, with mean and std from the file `statistics` unless that is ''.

    Raises:
      UserError: no such file, or it describes other bands.
    """
    if not statistics:
        return info.sensors
    try:
        values = json.loads(files.read(statistics))
        computed = {name: SensorSpec.from_json(spec) for name, spec in values["sensors"].items()}
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"config.data.statistics '{statistics}' cannot be read ({error!r}); make it with `python -m "
                        "data_prep stats DIR --out=FILE`") from error
    for name, spec in info.sensors.items():
        if name not in computed:
            raise UserError(f"'{statistics}' has no statistics of '{name}', only of {sorted(computed)}")
        spec.check_matches(computed[name], f"'{statistics}'", "the data set")
    return computed
