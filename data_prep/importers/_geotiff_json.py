"""Reads geotiff.json, the description of a folder of own GeoTIFFs; geotiff.py has an example.

The description is checked whole, and all its faults are told in one message, before a raster is opened.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.importers._geotiff_bands import alternatives
from data_prep.importers._geotiff_image_labels import KINDS, ImageLabels, parse_image_labels
from data_prep.importers._geotiff_keys import check_keys, files, shown
from data_prep.importers._geotiff_labels import Labels, parse_labels
from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery.sensors import SensorSpec, sensor

NAME = "geotiff.json"
COLUMN = "column"
_PER_PIXEL = "pixel_classes"  # the kind of a label if none is stated
_LARGE_TABLE = 50_000_000  # bytes; reading one of these would take long
_SENSORS = {"s1": ("product", {"grd": "s1_grd", "rtc": "s1_rtc"}), "s2": ("level", {"l2a": "s2_l2a", "l1c": "s2_l1c"})}
_UNITS, _OFFSETS = ("dB", "linear"), (0, 1000, COLUMN)
_KEYS = {"": {"size", "s1", "s2", "label", "licence", "attribution"},
         "s1": {"files", "bands", "unit", "product", "no_data"}, "s2": {"files", "bands", "level", "offset", "no_data"}}
_HINT = "see data_prep/importers/geotiff.py for an example"


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of one sensor.

    Attributes:
      feature: 's1' or 's2'.
      spec: the sensor.
      names: bands in the order of a file that holds them all; () = by the file's own descriptions.
      tokens: band -> text in place of {band} in the path of a file of one band.
      files: pattern of the paths, '' = they are in a table.
      no_data: the value of a band without data, None = that of the file.
      convention: 'dB' or 'linear' of S1; 0, 1000 or 'column', the DN offset of S2.
    """

    feature: str
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


@dataclasses.dataclass(frozen=True)
class Description:
    """All of geotiff.json.

    Attributes:
      size: height and width of the images; 0 = not stated.
      images: 's1' and/or 's2' -> the images.
      labels: those of pixels; None if there are none.
      image_labels: those of whole images; None if there are none.
      source: licence and attribution.
    """

    size: int
    images: Mapping[str, Images]
    labels: Labels | None
    image_labels: ImageLabels | None
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
      UserError: missing, no JSON; or all its faults: unknown keys, values that are not allowed, bands that lack.
    """
    path = raw / NAME
    if not path.is_file():
        raise UserError(f"'{path}' is missing; it describes your GeoTIFFs, {_HINT}")
    faults: list[str] = []
    said = _parse(path, faults)
    if not isinstance(said, dict):
        raise UserError(f"'{path}': it is no JSON object but {shown(said)}; {_HINT}")
    check_keys(said, "", _KEYS[""], faults)
    description = Description(
        _size(said, faults), {name: _images(said[name], name, faults) for name in ("s1", "s2") if name in said},
        *_labels(said, faults),
        {key: _text(said, key, faults, f"not stated in {NAME}") for key in ("licence", "attribution")})
    if not description.images:
        faults.append(f"it describes neither s1 nor s2; {_HINT}")
    if not faults:  # else they would follow from others
        _check_together(description, faults)
    if faults:
        every = faults[0] if len(faults) == 1 else "; ".join(f"({i}) {text}" for i, text in enumerate(faults, start=1))
        raise UserError(f"'{path}'{f' has {len(faults)} faults' * (len(faults) > 1)}: {every}")
    return description


def digest(raw: pathlib.Path, said: Description, tables: Sequence[str]) -> str:
    """Returns 12 hex digits of a digest over this description, the first of `tables` that exists, and the labels'."""
    sha = hashlib.sha256((raw / NAME).read_bytes())
    chosen = [name for name in tables if (raw / name).is_file()][:1]
    if said.image_labels is not None and (raw / said.image_labels.table).is_file():
        chosen.append(said.image_labels.table)
    for name in dict.fromkeys(chosen):
        if (raw / name).stat().st_size < _LARGE_TABLE:
            sha.update((raw / name).read_bytes())
    return sha.hexdigest()[:12]


def _parse(path: pathlib.Path, faults: list[str]) -> Any:
    """Returns the content; keys that stand twice in one object, and half characters, are faults."""
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                faults.append(f"the key {shown(key)} stands twice in one object")
            found[key] = value
        return found

    try:
        data = path.read_bytes()
        text = data.decode(json.detect_encoding(data))
        said = json.loads(text, object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is no UTF-8 text (byte {error.object[error.start]:#04x} at {error.start}); save it "
                        "as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is no JSON ({one_line(error, 120)}); {_HINT}") from error
    if "\\u" in text and re.search("[\ud800-\udfff]", json.dumps(said, ensure_ascii=False)):
        faults.append(r"a text holds half a character (\ud800 to \udfff)")
    return said


def _labels(said: Mapping[str, Any], faults: list[str]) -> tuple[Labels | None, ImageLabels | None]:
    """Returns the labels of pixels, and those of whole images; at least one of the two is None."""
    if not _is_section(said, "label", faults):
        return None, None
    kind = said["label"].get("kind", _PER_PIXEL)
    if kind in KINDS:
        return None, parse_image_labels(said["label"], faults)
    if kind != _PER_PIXEL:
        faults.append(f"label.kind is {shown(kind)}, expected one of {', '.join(map(repr, (_PER_PIXEL, *KINDS)))}")
    return parse_labels(said["label"], faults), None


def _size(said: Mapping[str, Any], faults: list[str]) -> int:
    size = said.get("size", 0)
    if "size" in said and (not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= 2**15):
        faults.append(f"size is {shown(size)}, expected the height and width of your images in pixels")
        return 0
    return size


def _check_together(description: Description, faults: list[str]) -> None:
    patterns = dict(description.files())
    if len({bool(pattern) for pattern in patterns.values()}) > 1:
        without = next(name for name, pattern in patterns.items() if not pattern)
        faults.append(f"'{without}' has no 'files', another section has; give patterns for all or list the files in "
                      "pairs.csv")
    s2 = description.images.get("s2")
    if s2 is not None and s2.files and s2.convention == COLUMN:
        faults.append(f"s2.offset is '{COLUMN}', names of files have no columns; list the files in pairs.csv, or keep "
                      "images with and without the offset in two folders")


def _images(said: Any, name: str, faults: list[str]) -> Images:
    if not _is_section({name: said}, name, faults):
        said = {}
    else:
        check_keys(said, name, _KEYS[name], faults)
    key, sensors = _SENSORS[name]
    quiet = faults if said else []  # of a section that is none, only that is told
    product = _choice(said, name, key, tuple(sensors), quiet)
    spec = sensor(sensors[product])
    tokens = _tokens(said.get("bands", {}), name, faults)
    if tokens:
        try:
            spec = spec.stored_as(list(tokens))
        except UserError as error:
            faults.append(f"{name}.bands: {error}")
    convention = (_choice(said, name, "unit", _UNITS, quiet) if name == "s1" else
                  _choice(said, name, "offset", _OFFSETS, quiet))
    pattern = files(said, name, f"{name}/{{place}}_{{date}}.tif", faults)
    return Images(name, spec, tuple(tokens), tokens or {band: band for band in spec.bands}, pattern,
                  _no_data(said, name, faults), convention)


def _tokens(bands: Any, name: str, faults: list[str]) -> dict[str, str]:
    """Returns band -> its text in paths, in order; {} if none are named."""
    items = bands.items() if isinstance(bands, dict) else [(band, band) for band in bands] if isinstance(
        bands, list) else None
    if items is None or not all(isinstance(text, str) and text.strip() for item in items for text in item):
        faults.append(f"{name}.bands is {shown(bands)}, expected the names of the bands")
        return {}
    tokens = {canonical(band): text for band, text in items}
    if len(tokens) < len(items):
        names = [canonical(band) for band, _ in items]
        faults.append(f"{name}.bands names {next(band for band in names if names.count(band) > 1)} twice; name each "
                      "band once")
    elif len(texts := list(tokens.values())) > len(set(texts)):
        faults.append(f"{name}.bands has the text '{next(text for text in texts if texts.count(text) > 1)}' for two "
                      "bands; give each band its own")
    return tokens


def _no_data(said: Mapping[str, Any], name: str, faults: list[str]) -> float | None:
    value = said.get("no_data")
    if isinstance(value, str) and value.strip().lower() == "nan":  # JSON has no other way to say it
        return math.nan
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        faults.append(f"{name}.no_data is {shown(value)}, expected a number")
        return None
    try:
        return None if value is None else float(value)
    except OverflowError:
        faults.append(f"{name}.no_data is {shown(value)}, more than any image can hold")
        return None


def _text(said: Mapping[str, Any], key: str, faults: list[str], default: str) -> str:
    value = said.get(key, default)
    if not isinstance(value, str):
        faults.append(f"{key} is {shown(value)}, expected a text")
        return ""
    return value


def _choice(said: Mapping[str, Any], name: str, key: str, allowed: Sequence, faults: list[str]) -> Any:
    """Returns one of `allowed`, in any case of letters."""
    value = said.get(key)
    for choice in allowed:
        if type(value) is type(choice) and str(value).casefold() == str(choice).casefold():
            return choice
    faults.append(f"{name}.{key} is {shown(value)}, expected one of {', '.join(map(repr, allowed))}; see "
                  "data_prep/importers/geotiff.py")
    return allowed[0]


def _is_section(said: Mapping[str, Any], name: str, faults: list[str]) -> bool:
    if name in said and not isinstance(said[name], dict):
        faults.append(f"{name} is no JSON object but {shown(said[name])}")
        return False
    return name in said
