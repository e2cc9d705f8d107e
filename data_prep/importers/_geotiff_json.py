"""Reads geotiff.json, the description of a folder of own GeoTIFFs; geotiff.py has an example."""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.importers._geotiff_bands import alternatives
from dual_encoder.errors import UserError, nearest
from dual_encoder.imagery.raster import Raster
from dual_encoder.imagery.sensors import IGNORED, SensorSpec, sensor

NAME = "geotiff.json"
COLUMN = "column"
_LARGE_TABLE = 50_000_000  # bytes; reading one of these would take long
_SENSORS = {"s1": ("product", {"grd": "s1_grd", "rtc": "s1_rtc"}), "s2": ("level", {"l2a": "s2_l2a", "l1c": "s2_l1c"})}
_UNITS, _OFFSETS = ("dB", "linear"), (0, 1000, COLUMN)
_KEYS = {"": {"size", "s1", "s2", "label", "licence", "attribution"},
         "s1": {"files", "bands", "unit", "product", "no_data"}, "s2": {"files", "bands", "level", "offset", "no_data"},
         "label": {"files", "classes", "ignore"}}


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of one sensor.

    Attributes:
      spec: the sensor.
      names: bands in the order of a file that holds them all; () = by the file's own descriptions.
      tokens: band -> text in place of {band} in the path of a file of one band.
      files: pattern of the paths, '' = they are in a table.
      no_data: the value of a band without data, None = that of the file.
      convention: 'dB' or 'linear' of S1; 0, 1000 or 'column', the DN offset of S2.
    """

    spec: SensorSpec
    names: tuple[str, ...]
    tokens: Mapping[str, str]
    files: str
    no_data: float | None
    convention: str | int

    def paths(self, path: str) -> dict[str, str]:
        """Returns band -> path if `path` holds {band} or the alternatives of all bands, {'': path} otherwise."""
        if found := alternatives(path, self.spec.bands):
            return found
        if "{band}" not in path:
            return {"": path}
        return {band: path.replace("{band}", self.tokens[band]) for band in self.spec.bands}

    def order(self, image: Raster, path: pathlib.Path) -> list[int]:
        """Returns the place in the file of each band of the sensor.

        Raises:
          UserError: another number of bands than geotiff.json lists, other descriptions, or neither names them.
        """
        described = [canonical(name) for name in image.names]
        names = self.names or described
        if len(names) != len(described):
            raise UserError(f"'{path}' has {len(described)} bands, {NAME} lists {len(names)}; name all, in order")
        wrong = [(seen, said) for seen, said in zip(described, names, strict=True)
                 if seen in self.spec.bands and seen != said]
        if wrong:
            raise UserError(f"'{path}' calls a band {wrong[0][0]}, {NAME} calls it {wrong[0][1]}; list the bands of "
                            f"{self.spec.name} in the order of the file, {' '.join(described)}")
        missing = [band for band in self.spec.bands if band not in names]
        if missing:
            raise UserError(f"'{path}' does not say which band is {' '.join(missing)} (it has "
                            f"{' '.join(filter(None, described)) or 'no descriptions'}); list its bands in {NAME}")
        return [names.index(band) for band in self.spec.bands]


@dataclasses.dataclass(frozen=True)
class Labels:
    """The label images.

    Attributes:
      files: as in `Images`, without {band}.
      classes: name -> value in the file; a class's index is its place.
      ignore: values of pixels that have no class.
    """

    files: str
    classes: Mapping[str, int]
    ignore: Sequence[int]

    def indices(self, image: Raster, path: pathlib.Path) -> np.ndarray:
        """Returns uint8 [height, width], class indices and 255 = ignored; UserError for a value that is no class."""
        if len(image.values) != 1:
            raise UserError(f"'{path}' has {len(image.values)} bands, expected one of class values")
        values, ignore = image.values[0], [*self.ignore, *([] if image.no_data is None else [image.no_data])]
        result = np.full(values.shape, IGNORED, np.uint8)
        strange = ~np.isin(values, ignore)
        for index, value in enumerate(self.classes.values()):
            result[values == value] = index
            strange &= values != value
        if strange.any():
            raise UserError(f"'{path}' holds {values[strange][0]}, which is no class of {NAME} "
                            f"({', '.join(f'{name} {value}' for name, value in self.classes.items())}); add it to "
                            "'classes' or to 'ignore'")
        return result


@dataclasses.dataclass(frozen=True)
class Description:
    """All of geotiff.json.

    Attributes:
      size: height and width of the images.
      images: 's1' and/or 's2' -> the images.
      labels: None if there are none.
      source: licence and attribution.
    """

    size: int
    images: Mapping[str, Images]
    labels: Labels | None
    source: Mapping[str, str]

    def files(self) -> Iterator[tuple[str, str]]:
        """Yields (name of the section, its pattern)."""
        for name, section in {**self.images, "label": self.labels}.items():
            if section is not None:
                yield name, section.files


def canonical(band: str) -> str:
    """Returns a band's name as the sensors spell it: 'b2' and 'B2' are 'B02', 'vv' is 'VV'."""
    return re.sub(r"^B(\d)$", r"B0\1", band.strip().upper())


def read(raw: pathlib.Path) -> Description:
    """Reads <raw>/geotiff.json.

    Raises:
      UserError: missing, no JSON, an unknown key, a value that is not allowed, bands that the sensor needs.
    """
    path = raw / NAME
    if not path.is_file():
        raise UserError(f"'{path}' is missing; it describes your GeoTIFFs, see data_prep/importers/geotiff.py for an "
                        "example")
    try:
        said = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"'{path}' is no JSON ({error}); see data_prep/importers/geotiff.py for an example") from error
    _check_keys(said, "", path)
    if not isinstance(size := said.get("size"), int) or size < 1:
        raise UserError(f"'{path}': size is {size!r}, expected the height and width of your images in pixels")
    images = {name: _images(said[name], name, path) for name in ("s1", "s2") if name in said}
    if not images:
        raise UserError(f"'{path}' describes neither s1 nor s2; see data_prep/importers/geotiff.py for an example")
    description = Description(size, images, _labels(said["label"], path) if "label" in said else None,
                              {key: str(said.get(key, f"not stated in {NAME}")) for key in ("licence", "attribution")})
    if len({bool(pattern) for _, pattern in description.files()}) > 1:
        without = next(name for name, pattern in description.files() if not pattern)
        raise UserError(f"'{path}': '{without}' has no 'files', another section has; give patterns for all or list the "
                        "files in pairs.csv")
    if "s2" in images and images["s2"].files and images["s2"].convention == COLUMN:
        raise UserError(f"'{path}': s2.offset is '{COLUMN}', names of files have no columns; list the files in "
                        "pairs.csv, or keep images with and without the offset in two folders")
    return description


def digest(raw: pathlib.Path, tables: Sequence[str]) -> str:
    """Returns 12 hex digits of a digest over this description and the first of `tables` that exists."""
    sha = hashlib.sha256((raw / NAME).read_bytes())
    table = next((raw / name for name in tables if (raw / name).is_file()), None)
    if table is not None and table.stat().st_size < _LARGE_TABLE:
        sha.update(table.read_bytes())
    return sha.hexdigest()[:12]


def _images(said: Any, name: str, path: pathlib.Path) -> Images:
    _check_keys(said, name, path)
    key, sensors = _SENSORS[name]
    spec = sensor(sensors[_choice(said, name, key, tuple(sensors), path)])
    bands = said.get("bands", {})
    if not isinstance(bands, dict | list) or not all(isinstance(band, str) for band in [*bands]):
        raise UserError(f"'{path}': {name}.bands is {bands!r}, expected the names of the bands")
    tokens = {canonical(band): bands[band] if isinstance(bands, dict) else band for band in bands}
    missing = [band for band in spec.bands if band not in tokens]
    if bands and missing:
        raise UserError(f"'{path}': {name}.bands lacks {' '.join(missing)}, which sensor '{spec.name}' has; add them")
    no_data = said.get("no_data")
    if no_data is not None and (not isinstance(no_data, int | float) or isinstance(no_data, bool)):
        raise UserError(f"'{path}': {name}.no_data is {no_data!r}, expected a number")
    convention = (_choice(said, name, "unit", _UNITS, path) if name == "s1" else
                  _choice(said, name, "offset", _OFFSETS, path))
    return Images(spec, tuple(tokens), tokens or {band: band for band in spec.bands}, _files(said, name, path),
                  no_data, convention)


def _labels(said: Any, path: pathlib.Path) -> Labels:
    _check_keys(said, "label", path)
    classes = said.get("classes")
    if not isinstance(classes, dict) or len(classes) < 2 or len(set(classes.values())) < len(classes):
        raise UserError(f"'{path}': label.classes is {classes!r}, expected two or more names, each with its value in "
                        'the files, such as {"land": 0, "water": 1}')
    files = _files(said, "label", path)
    if re.search(r"\{band\}|\*", files):
        raise UserError(f"'{path}': label.files is '{files}'; it may hold {{place}} and {{date}} only")
    return Labels(files, classes, said.get("ignore", []))


def _files(said: Mapping[str, Any], name: str, path: pathlib.Path) -> str:
    files = said.get("files", "")
    if not isinstance(files, str) or pathlib.PurePath(files).is_absolute():
        raise UserError(f"'{path}': {name}.files is {files!r}, expected a text relative to the folder of that file, "
                        f"such as '{name}/{{place}}_{{date}}.tif'")
    return files


def _choice(said: Mapping[str, Any], name: str, key: str, allowed: Sequence, path: pathlib.Path) -> Any:
    if said.get(key) not in allowed or isinstance(said.get(key), bool):
        raise UserError(f"'{path}': {name}.{key} is {said.get(key)!r}, expected one of "
                        f"{', '.join(map(repr, allowed))}; see data_prep/importers/geotiff.py")
    return said[key]


def _check_keys(said: Any, name: str, path: pathlib.Path) -> None:
    if not isinstance(said, dict):
        raise UserError(f"'{path}': {name or 'it'} is no JSON object; see data_prep/importers/geotiff.py for one")
    for key in said:
        if key not in _KEYS[name]:
            raise UserError(f"'{path}' has an unknown key '{f'{name}.' * bool(name)}{key}'; "
                            f"{nearest(key, _KEYS[name])}")
