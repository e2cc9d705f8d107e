"""Files beside those that an importer takes: counted, and the first ones named, so that nothing is left out in silence.

Files that are clearly no data are not counted: hidden ones, descriptions, tables and texts, licences, and what GDAL,
desktops and archives put beside images.
"""

import array
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterator

import numpy as np

from data_prep.importers import Unmatched

_EXAMPLES = 3
_NO_DATA = re.compile(
    r"\..*|~\$.*|(readme|licen[cs]e|copying|notice|citation|changelog|attribution|authors)([._-].*)?(?<!\.tif)"
    r"|thumbs\.db|desktop\.ini|__macosx|__pycache__|@eadir|lost\+found|\$recycle\.bin|system volume information"
    r"|.*\.(json|geojson|jsonl|csv|tsv|parquet|txt|md|rst|pdf|html?|xml|kml|bib|ya?ml|toml|ini|cfg|log|py|ipynb|sh|m|r|lock"
    r"|md5|sha1|sha256|ovr|msk|tfw|tifw|tiffw|pgw|wld|prj|qgz|qgs|qml|qpj|shp|shx|dbf|cpg|gpkg|xlsx?|ods|docx?)",
    re.IGNORECASE)


def is_data(name: str) -> bool:
    """Returns False for the name of a file or folder that is clearly not meant as an image or a label."""
    return _NO_DATA.fullmatch(name) is None


def shown(name: str) -> str:
    """Returns a name as one line of text that can be printed: line breaks and bytes that are no UTF-8 as escapes."""
    if name.isprintable():  # fast, and true of most
        return name
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
                   for c in name)


class UnmatchedFiles:
    """Counts files that fit no pattern; `expected` says in a few words what would have fitted.

    Its memory does not grow with their number.
    """

    def __init__(self, expected: str):
        self._expected, self._count = expected, 0
        self._first: list[str] = []  # in order of names, because folders list them in any order

    def add(self, path: str) -> None:
        """Counts one file, or one folder if `path` ends in '/'."""
        self._count += 1
        if len(self._first) < _EXAMPLES or path < self._first[-1]:
            self._first = sorted([*self._first, path])[:_EXAMPLES]

    def add_data(self, folder: str, name: str, is_folder: Callable[[], bool] = lambda: False) -> None:
        """Counts the file or folder `name` in `folder`, '' = the raw folder, unless it is clearly no data."""
        if is_data(name):
            self.add(f"{folder}/{name}".lstrip("/") + "/" * is_folder())

    def result(self) -> Iterator[Unmatched]:
        """Yields the count and the first examples, nothing if there is no such file."""
        if self._count:
            yield Unmatched(shown(self._first[0]), f"fits no pattern; expected {self._expected}", self._count,
                            tuple(map(shown, self._first)))


class NamedPaths:
    """A set of paths that a table names, 8 bytes each: two paths are confused with a chance of 1 in 10^19."""

    def __init__(self):
        self._digests = array.array("q")
        self._sorted = np.zeros(0, np.int64)

    def add(self, path: str) -> None:
        """Adds a path."""
        self._digests.append(hash(path))

    def __contains__(self, path: str) -> bool:
        if len(self._sorted) != len(self._digests):
            self._sorted = np.sort(np.array(self._digests, np.int64))
        at = np.searchsorted(self._sorted, hash(path))
        return bool(at < len(self._sorted) and self._sorted[at] == hash(path))


def in_folder(raw: pathlib.Path, folder: str, fits: Callable[[str], bool], beside: UnmatchedFiles) -> Iterator[str]:
    """Yields the names in a folder that fit, in no order; all others that may be data are counted in `beside`.

    Args:
      raw: the raw folder.
      folder: in it, '' = the raw folder itself.
      fits: name -> True if the importer takes it. Names are literal, letter case included. Hidden files never fit.
      beside: counts the others.
    """
    with os.scandir(raw / folder) as found:
        for item in found:
            if fits(item.name) and item.name[0] != ".":  # '._a.tif' is no image
                yield item.name
            else:
                beside.add_data(folder, item.name, item.is_dir)
