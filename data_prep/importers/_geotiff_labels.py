"""The labels that geotiff.json describes: which values in the files make which class; see geotiff.py."""

import dataclasses
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery import geotiff_keys as keys
from dual_encoder.imagery.palette import is_colour
from dual_encoder.imagery.raster import Raster
from dual_encoder.imagery.sensors import IGNORED

_KEYS = {"kind", "files", "classes", "ignore", "colours"}
_EXPECTED = 'expected two or more names, each with its value in the files, such as {"land": 0, "water": [1, 2]}'
_MOST_VALUES = 2**16  # of all ranges together
_RANGE = re.compile(r"\s*(-?\d{1,15})\s*(?:-|\.\.|:)\s*(-?\d{1,15})\s*")


@dataclasses.dataclass(frozen=True)
class Labels:
    """The label images.

    Attributes:
      files: pattern of the paths, '' = they are in a table.
      classes: name -> values in the file; a class's index is its place.
      ignore: values of pixels that have no class.
      colours: '#rrggbb' of each class in pictures, '' = that of the palette; () if none is described.
    """

    files: str
    classes: Mapping[str, tuple[int, ...]]
    ignore: Sequence[int]
    colours: tuple[str, ...] = ()

    def indices(self, image: Raster, path: pathlib.Path) -> np.ndarray:
        """Returns the class of each pixel.

        Args:
          image: one band of values; whole numbers, also stored as floats, in which NaN is ignored.
          path: its name in errors.

        Returns:
          uint8 [height, width], class indices and 255 = ignored.

        Raises:
          UserError: a value that is no class; a picture of the classes in colours.
        """
        if len(image.values) != 1:
            colours = " in colours (red, green, blue), a picture of the classes" if len(image.values) == 3 else ""
            raise UserError(f"'{path}' has {len(image.values)} bands{colours}, expected one of class values; write "
                            "the value of each pixel's class")
        values, shown = image.values[0], image.holds_data()[0]
        result = np.full(values.shape, IGNORED, np.uint8)
        # A value that is stated to be a class counts, also if the file has it as its no-data value.
        valid = (np.isfinite(values) if values.dtype.kind in "fc" else np.ones(values.shape, bool)) & (
            True if image.valid is None else image.valid[0])
        strange = shown & ~np.isin(values, list(self.ignore))
        for index, of_class in enumerate(self.classes.values()):
            here = np.isin(values, of_class) if len(of_class) > 1 else values == of_class[0]
            result[here & valid] = index
            strange &= ~here
        if strange.any():
            value = values[strange][0]
            if value != np.rint(value):
                raise UserError(f"'{path}' holds {value:.6g}, expected whole numbers, the values of classes; was it "
                                "resampled by a mean? Write it again by the nearest pixel")
            raise UserError(f"'{path}' holds {value:.15g}, which is no class of geotiff.json "
                            f"({', '.join(map(_described, self.classes.items()))}); add it to 'classes' or to 'ignore'")
        return result


def parse_labels(said: Mapping[str, Any], faults: list[str]) -> Labels:
    """Reads the section 'label' of geotiff.json, and adds its faults to `faults`.

    `classes` may be {"land": 0, "water": [80, 90], "town": "50-59"}, a list of names for 0, 1, ..., the reverse
    {"0": "land", "80": "water", "90": "water"}, or a list of {"name": ..., "value": ...}.
    """
    keys.check_keys(said, "label", _KEYS, faults)
    files = keys.files(said, "label", "label/{place}.tif", faults)
    if re.search(r"\{band\}|\*", files):
        faults.append(f"label.files is '{files}'; it may hold {{place}} and {{date}} only")
    ignore = () if said.get("ignore") is None else _values(said["ignore"], "label.ignore", faults)
    classes = class_values(said.get("classes"), faults, ignore)
    return Labels(files, classes, ignore, _colours(said.get("colours", {}), classes, faults))


def _colours(said: Any, classes: Collection[str], faults: list[str]) -> tuple[str, ...]:
    """Returns the colour of each class, '' for a class without one; () if none is described."""
    if not isinstance(said, dict) or not all(isinstance(text, str) and is_colour(text) for text in said.values()):
        faults.append(f"label.colours is {keys.shown(said)}, expected a colour per class, such as "
                      '{"water": "#2166c8"}')
        return ()
    if classes:
        keys.check_keys(said, "label.colours", classes, faults)
    return tuple(said.get(name, "") for name in classes) if said else ()


def class_values(said: Any, faults: list[str], ignore: Sequence[int] = ()) -> dict[str, tuple[int, ...]]:
    """Returns class -> its values, in order; no two classes share one, and none has one of `ignore`."""
    pairs = _pairs(said)
    if pairs is None or len({name for name, _ in pairs}) < 2:
        faults.append(f"label.classes is {repr(said)[:120]}, {_EXPECTED}")
        return {}
    classes: dict[str, tuple[int, ...]] = {}
    several = isinstance(said, list)
    for name, value in pairs:
        if several and name in classes:
            faults.append(f"label.classes names '{name}' twice; give each class a name of its own")
        classes[name] = classes.get(name, ()) + _values(value, f"label.classes, '{name}'", faults)
    _check_distinct(classes, ignore, faults)
    return classes


def _pairs(said: Any) -> list[tuple[str, Any]] | None:
    """Returns (name, value or values) of each class of the forms that people write; None for another form."""
    pairs: list[tuple[Any, Any]]
    if isinstance(said, list) and all(isinstance(item, dict) for item in said):
        keys = [next((key for key in ("value", "values", "id") if key in item), "") for item in said]
        if not all(keys) or any("name" not in item for item in said):
            return None
        pairs = [(item["name"], item[key]) for item, key in zip(said, keys, strict=True)]
    elif isinstance(said, list):
        pairs = [(name, value) for value, name in enumerate(said)]
    elif isinstance(said, dict):
        pairs = list(said.items())
        if all(_is_text_of_values(key) and isinstance(value, str) and not _is_text_of_values(value)
               for key, value in pairs):
            pairs = [(name, value) for value, name in pairs]
    else:
        return None
    return pairs if all(isinstance(name, str) and name.strip() for name, _ in pairs) else None


def _is_text_of_values(text: str) -> bool:
    return bool(re.fullmatch(r"\s*-?\d+(\.0*)?\s*", text) or _RANGE.fullmatch(text))


def _values(said: Any, where: str, faults: list[str]) -> tuple[int, ...]:
    """Returns the whole numbers that a number, a text of one, a range '10-19' or a list of these means."""
    found: list[int] = []
    for item in said if isinstance(said, list) else [said]:
        if isinstance(item, int | float) and not isinstance(item, bool) and item == item // 1 and abs(item) < 2**53:
            found.append(int(item))
        elif isinstance(item, str) and re.fullmatch(r"\s*-?\d{1,15}(\.0*)?\s*", item):
            found.append(int(float(item)))
        elif isinstance(item, str) and (ends := _RANGE.fullmatch(item)) and (
                0 <= int(ends[2]) - int(ends[1]) < _MOST_VALUES):
            found.extend(range(int(ends[1]), int(ends[2]) + 1))
        else:
            faults.append(f"{where} is {repr(item)[:80]}, expected a whole number, several in a list, or a range such "
                          "as '10-19'")
            return ()
    if not found and where != "label.ignore":
        faults.append(f"{where} has no value; {_EXPECTED}")
    return tuple(found)


def _check_distinct(classes: Mapping[str, tuple[int, ...]], ignore: Sequence[int], faults: list[str]) -> None:
    owner: dict[int, str] = {}
    for name, values in classes.items():
        for value in values:
            if owner.setdefault(value, name) != name:
                faults.append(f"label.classes gives the value {value} to '{owner[value]}' and to '{name}'; {_EXPECTED}")
                return
    if both := sorted(set(ignore) & set(owner)):
        faults.append(f"label.ignore has the value {both[0]}, which is class '{owner[both[0]]}' in label.classes; "
                      "leave it out of one of them")
    if len(classes) > IGNORED:
        faults.append(f"label.classes has {len(classes)} classes, more than {IGNORED}; merge some")


def _described(item: tuple[str, tuple[int, ...]]) -> str:
    name, values = item
    shown = " ".join(map(str, values[:5])) + " ..." * (len(values) > 5)
    return f"{name} {shown}"
