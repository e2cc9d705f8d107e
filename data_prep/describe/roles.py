"""Tells which rasters of a folder are radar, optical images or labels: by words in their paths, or by headers."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator

from data_prep.importers._unmatched import is_data
from dual_encoder.errors import UserError
from dual_encoder.imagery import geotiff_statements as statements
from dual_encoder.imagery import raster

STACK = "stack"  # radar and optical bands in one file
_SUFFIXES = {".tif", ".tiff", ".jp2", ".png"}
_SEPARATORS = re.compile(r"[_\-. /]+")
_BAND = re.compile(r"VV|VH|HH|HV|B\d{1,2}|B0?8A", re.I)
_WORDS = {
    "s1": re.compile(r"s1(?!\d|s2)\w*|sentinel-?1\w*|sar|radar|vv|vh|grdh?|rtc", re.I),
    "s2": re.compile(r"s2(?!\d)\w*|sentinel-?2\w*|optical|msi\w*|l2a|l1c|b\d{1,2}|b0?8a", re.I),
    "label": re.compile(r"labels?\w*|masks?|gt|ground-?truth|annotations?|targets?|classes", re.I),
}


@dataclasses.dataclass(frozen=True)
class Role:
    """The files of one kind of image.

    Attributes:
      paths: of the files, relative to the raw folder, sorted.
      per_band: True if each file holds one band, which its name says.
    """

    paths: tuple[str, ...]
    per_band: bool = False


def find(raw: pathlib.Path) -> dict[str, Role]:
    """Returns 's1', 's2', 'label' or 'stack' -> its files; a folder without a raster gives {}.

    Raises:
      UserError: a file whose name says nothing cannot be read.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(_rasters(raw)):
        found.setdefault(_by_words(path) or _by_header(raw / path), []).append(path)
    for name in ("s1", "s2"):  # a folder 's2' may hold stacks of all bands
        if name in found and STACK == _by_header(raw / found[name][0]):
            found.setdefault(STACK, []).extend(found.pop(name))
    return {name: _role(paths) for name, paths in found.items()}


def band_of(atom: str) -> str:
    """Returns the band that a part of a name is, as sensors spell it ('b2' is 'B02'); '' if it is none."""
    if _BAND.fullmatch(atom) is None:
        return ""
    return next(iter(statements.bands_said(atom, "s1") or statements.bands_said(atom, "s2")), "")


def _rasters(raw: pathlib.Path) -> Iterator[str]:
    for folder, folders, names in os.walk(raw):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if is_data(name) and pathlib.PurePath(name).suffix.lower() in _SUFFIXES:
                yield (pathlib.Path(folder) / name).relative_to(raw).as_posix()


def _by_words(path: str) -> str:
    """Returns the role that a path says, its last part first; '' if no part says exactly one."""
    for part in reversed(pathlib.PurePosixPath(path).with_suffix("").parts):
        atoms = [atom for atom in _SEPARATORS.split(part) if atom]
        said = {role for role, words in _WORDS.items() for atom in atoms if words.fullmatch(atom)}
        if len(said) == 1:
            return said.pop()
        if "label" in said:  # 's1_label' is the label of a radar image
            return "label"
    return ""


def _by_header(path: pathlib.Path) -> str:
    """Returns the role of a file by the names, the number and the type of its bands."""
    with raster.opened(path, str(path)) as files:
        count = sum(file.count for file in files)
        texts = [text or "" for file in files for text in file.descriptions]
        kind = files[0].dtypes[0]
    radar, optical = (any(len(statements.bands_said(text, name)) == 1 for text in texts) for name in ("s1", "s2"))
    if (radar and optical) or (not (radar or optical) and count in (14, 15)):
        return STACK
    if radar or optical:
        return "s1" if radar else "s2"
    if count <= 2:
        return "s1" if kind.startswith("float") else "label" if count == 1 else "s1"
    return "s2"


def _role(paths: list[str]) -> Role:
    """Returns a role; if most names say a band, the others (previews, cloud masks) do not belong to it."""
    with_band = [path for path in paths if any(map(band_of, _SEPARATORS.split(pathlib.PurePosixPath(path).stem)))]
    if 2 * len(with_band) > len(paths):
        return Role(tuple(with_band), per_band=True)
    return Role(tuple(paths))


def check_any(raw: pathlib.Path, roles: dict[str, Role]) -> None:
    """Raises UserError if there is no image to describe."""
    if not {"s1", "s2", STACK} & set(roles):
        labels = f", only {len(roles['label'].paths)} files like labels" if "label" in roles else ""
        raise UserError(f"'{raw}' holds no radar or optical raster ({', '.join(sorted(_SUFFIXES))}){labels}; give the "
                        "folder of your images")
