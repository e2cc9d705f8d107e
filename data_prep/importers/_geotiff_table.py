"""The files that a table of own GeoTIFFs names: found on disk as written, and those beside them counted."""

import functools
import os
import pathlib
import posixpath
import sqlite3
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from data_prep.importers import Unmatched
from data_prep.importers._unmatched import NamedPaths, UnmatchedFiles, in_folder


def is_file(raw: pathlib.Path, path: str) -> bool:
    """Returns True if there is such a file below `raw`; False also for a text that can be no file's name."""
    try:
        return os.path.isfile(os.path.join(raw, path))  # fast; unlike Path.is_file, False for a name that is too long
    except ValueError:  # it holds NUL
        return False


class NamedFiles:
    """Remembers the files that a table names: 8 bytes each in memory, the folders in a database on disk."""

    def __init__(self, raw: pathlib.Path, table: str):
        self._raw, self._beside = raw, UnmatchedFiles(f"a row of {table}")
        self._named = NamedPaths()
        self._folders = sqlite3.connect("")
        self._folders.execute("CREATE TABLE folder (name TEXT PRIMARY KEY)")
        self._last: set[str] = set()  # folders of the last rows, to spare look-ups

    def close(self) -> None:
        """Removes the database."""
        self._folders.close()

    def resolve(self, paths: Sequence[str], text: str) -> tuple[str, bool]:
        """Returns a path of the table as the disk has it, and whether all its files exist; remembers them.

        Separators may be backslashes; accents may be written in either form of Unicode.

        Args:
          paths: the files that `text` stands for.
          text: the cell, perhaps with {band}.

        Returns:
          `text`, or the first of its other forms whose files all exist; True if there is such a form.
        """
        if not text:
            return "", False
        forms: list[Callable[[str], str]] = [*_FORMS, functools.partial(self._part_by_part, "NFC"),
                                             functools.partial(self._part_by_part, "NFD")]
        for form in forms:
            found = [form(path) for path in paths]
            if all(is_file(self._raw, path) for path in found):
                for path in found:
                    self._remember(path)
                return form(text), True
        for path in map(_plain, paths):
            self._remember(path)
        return _plain(text), False

    def unmatched(self) -> Iterator[Unmatched]:
        """Yields the count of files that lie in a folder of the table's files and that it does not name."""
        for (folder,) in self._folders.execute("SELECT name FROM folder ORDER BY name"):
            if (self._raw / folder).is_dir():
                for name in in_folder(self._raw, folder, lambda name: True, self._beside):
                    path = posixpath.join(folder, name)
                    if path not in self._named and not (self._raw / path).is_dir():
                        self._beside.add_data(folder, name)
        yield from self._beside.result()

    def _part_by_part(self, last: Literal["NFC", "NFD"], path: str) -> str:
        """Returns a path with each folder in the form of Unicode that exists, and the file in the form `last`."""
        found = ""
        *folders, name = _slashed(path).split("/")
        for folder in folders:
            forms = [posixpath.join(found, form) for form in (unicodedata.normalize("NFC", folder),
                                                              unicodedata.normalize("NFD", folder))]
            found = next((form for form in forms if os.path.isdir(os.path.join(self._raw, form))), forms[0])
        return posixpath.join(found, unicodedata.normalize(last, name))

    def _remember(self, path: str) -> None:
        self._named.add(path)
        folder = posixpath.dirname(path)
        if folder not in self._last:
            self._last = {*self._last, folder} if len(self._last) < 8 else {folder}
            self._folders.execute("INSERT OR IGNORE INTO folder VALUES (?)", (folder,))


def _plain(path: str) -> str:
    """Returns a path without './' and '//'."""
    return pathlib.PurePosixPath(path).as_posix() if "./" in path or "//" in path else path


def _slashed(path: str) -> str:
    return _plain(path.replace("\\", "/"))


_FORMS: tuple[Callable[[str], str], ...] = (
    _plain, _slashed, lambda path: unicodedata.normalize("NFC", _slashed(path)),
    lambda path: unicodedata.normalize("NFD", _slashed(path)))
