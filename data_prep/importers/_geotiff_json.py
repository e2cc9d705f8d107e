"""Reads geotiff.json, the description of a folder of own GeoTIFFs; geotiff.py has an example.

The description is checked whole, and all its faults are told in one message, before a raster is opened.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.importers._geotiff_image_labels import KINDS, ImageLabels, parse_image_labels
from data_prep.importers._geotiff_labels import Labels, parse_labels
from dual_encoder.imagery import geotiff_json
from dual_encoder.imagery.geotiff_json import COLUMN, HINT, NAME, SECTIONS, Images, is_section
from dual_encoder.imagery.geotiff_keys import check_keys, shown

_PER_PIXEL = "pixel_classes"  # the kind of a label if none is stated
_LARGE_TABLE = 50_000_000  # bytes; reading one of these would take long
_KEYS = {*SECTIONS, "size", "label", "licence", "attribution", "decide"}


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


def read(raw: pathlib.Path) -> Description:
    """Reads <raw>/geotiff.json.

    Raises:
      UserError: missing, no JSON; or all its faults: unknown keys, values that are not allowed, bands that lack.
    """
    path = raw / NAME
    faults: list[str] = []
    said = geotiff_json.parse(path, faults)
    check_keys(said, "", _KEYS, faults)
    description = Description(
        _size(said, faults), {name: geotiff_json.images(said[name], name, faults) for name in SECTIONS if name in said},
        *_labels(said, faults),
        {key: _text(said, key, faults, f"not stated in {NAME}") for key in ("licence", "attribution")})
    if not description.images:
        faults.append(f"it describes neither s1 nor s2; {HINT}")
    if not faults:  # else they would follow from others
        _check_together(description, faults)
    geotiff_json.tell(path, faults)
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


def _labels(said: Mapping[str, Any], faults: list[str]) -> tuple[Labels | None, ImageLabels | None]:
    """Returns the labels of pixels, and those of whole images; at least one of the two is None."""
    if not is_section(said, "label", faults):
        return None, None
    kind = said["label"].get("kind", _PER_PIXEL)
    kind = kind.casefold() if isinstance(kind, str) else kind
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


def _text(said: Mapping[str, Any], key: str, faults: list[str], default: str) -> str:
    value = said.get(key, default)
    if not isinstance(value, str):
        faults.append(f"{key} is {shown(value)}, expected a text")
        return ""
    return value
