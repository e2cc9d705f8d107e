"""The part of geotiff.json that describes images: bands, units, levels, offsets, and the paths of their files.

data_prep/importers/geotiff.py has an example. What trains and what makes maps read the description here.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery.geotiff_keys import check_keys, files, shown
from dual_encoder.imagery.sensors import SensorSpec, sensor

NAME = "geotiff.json"
BAND = "{band}"
COLUMN = "column"
REFLECTANCE_10000, REFLECTANCE = "reflectance x 10000", "reflectance"  # units of S2
HINT = "see data_prep/importers/geotiff.py for an example"
SECTIONS = ("s1", "s2")
_SENSORS = {"s1": ("product", {"grd": "s1_grd", "rtc": "s1_rtc"}), "s2": ("level", {"l2a": "s2_l2a", "l1c": "s2_l1c"})}
_UNITS, _OFFSETS = ("dB", "linear"), (0, 1000, COLUMN)
_KEYS = {"s1": {"files", "bands", "unit", "product", "no_data"},
         "s2": {"files", "bands", "level", "unit", "offset", "no_data"}}


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
      unit: of S2, 'reflectance x 10000' or 'reflectance'.
    """

    feature: str
    spec: SensorSpec
    names: tuple[str, ...]
    tokens: Mapping[str, str]
    files: str
    no_data: float | None
    convention: str | int
    unit: str = REFLECTANCE_10000

    def paths(self, path: str) -> dict[str, str]:
        """Returns band -> path if `path` holds {band} or the alternatives of all bands, {'': path} otherwise."""
        if found := alternatives(path, self.spec.bands):
            return found
        if "{band}" not in path:
            return {"": path}
        return {band: path.replace("{band}", self.tokens[band]) for band in self.spec.bands}


def canonical(band: str) -> str:
    """Returns a band's name as the sensors spell it: 'b2' and 'B2' are 'B02', 'vv' is 'VV'."""
    return re.sub(r"^B(\d)$", r"B0\1", band.strip().upper())


def parse(path: pathlib.Path, faults: list[str]) -> dict[str, Any]:
    """Returns the content of a geotiff.json.

    Args:
      path: the file.
      faults: gets a text for each key that stands twice in one object, and for half a character.

    Raises:
      UserError: missing, no JSON, no object.
    """
    if not path.is_file():
        raise UserError(f"'{path}' is missing; it describes your GeoTIFFs, {HINT}")

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
        raise UserError(f"'{path}' is no JSON ({one_line(error, 120)}); {HINT}") from error
    if "\\u" in text and re.search("[\ud800-\udfff]", json.dumps(said, ensure_ascii=False)):
        faults.append(r"a text holds half a character (\ud800 to \udfff)")
    if not isinstance(said, dict):
        raise UserError(f"'{path}': it is no JSON object but {shown(said)}; {HINT}")
    return said


def tell(path: pathlib.Path, faults: Sequence[str]) -> None:
    """Raises a UserError that tells all faults of a description; none = it returns."""
    if faults:
        every = faults[0] if len(faults) == 1 else "; ".join(f"({i}) {text}" for i, text in enumerate(faults, start=1))
        raise UserError(f"'{path}'{f' has {len(faults)} faults' * (len(faults) > 1)}: {every}")


def images(said: Any, name: str, faults: list[str]) -> Images:
    """Returns the description of the images of one sensor.

    Args:
      said: the content of its section.
      name: 's1' or 's2'.
      faults: gets a text for each fault. With one, the result is of no use.
    """
    if not is_section({name: said}, name, faults):
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
    unit = REFLECTANCE_10000
    if name == "s2" and "unit" in said:
        unit = _choice(said, name, "unit", (REFLECTANCE_10000, REFLECTANCE), faults)
    return Images(name, spec, tuple(tokens), tokens or {band: band for band in spec.bands}, pattern,
                  _no_data(said, name, faults), convention, unit)


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


def alternatives(path: str, bands: Sequence[str]) -> dict[str, str] | None:
    """Returns band -> path of a path with alternatives, None of any other."""
    match = re.fullmatch(r"([^{}|]*)\{([^{}]*\|[^{}]*)\}([^{}|]*)", path)
    texts = match[2].split("|") if match else []
    if match is None or len(texts) != len(bands):
        return None
    return {band: f"{match[1]}{text}{match[3]}" for band, text in zip(bands, texts, strict=True)}


def _choice(said: Mapping[str, Any], name: str, key: str, allowed: Sequence, faults: list[str]) -> Any:
    """Returns one of `allowed`, in any case of letters."""
    value = said.get(key)
    for choice in allowed:
        if type(value) is type(choice) and str(value).casefold() == str(choice).casefold():
            return choice
    faults.append(f"{name}.{key} is {shown(value)}, expected one of {', '.join(map(repr, allowed))}; see "
                  "data_prep/importers/geotiff.py")
    return allowed[0]


def is_section(said: Mapping[str, Any], name: str, faults: list[str]) -> bool:
    """Returns True if a description has the section `name`; a section that is no object is a fault."""
    if name in said and not isinstance(said[name], dict):
        faults.append(f"{name} is no JSON object but {shown(said[name])}")
        return False
    return name in said
