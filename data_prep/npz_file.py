"""Arrays in an .npz file: of one of more than 256 MiB only one row is in memory, whatever its header declares."""

import math
import pathlib
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from dual_encoder.errors import UserError, one_line

_LARGEST_ROW = 1 << 28  # bytes; 16 bands of 2,048 x 2,048 pixels in 32 bits
_LARGEST_ARRAY = 1 << 28  # bytes of an array that is read as a whole
# What damaged bytes cause in zipfile and numpy.
_DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError, TypeError, NotImplementedError,
           RuntimeError, OverflowError, MemoryError, SyntaxError, AttributeError, IndexError)


class Header(NamedTuple):
    """Shape and dtype that an array declares, and True if its first index runs fastest."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    @property
    def bytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """An open .npz file.

    Args:
      path: the file.

    Raises:
      UserError: it is damaged, or holds arrays of Python objects.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._streams: dict[str, _Stream] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._checked: set[str] = set()
        try:
            self._zip = zipfile.ZipFile(path)
            weakref.finalize(self, self._zip.close)  # an importer is not closed
            self.headers: dict[str, Header] = {}
            for name in self._zip.namelist():
                if name.endswith(".npy"):
                    self.headers[name.removesuffix(".npy")] = self._header(name)
                else:  # opening compares the name with the one next to the data; a damaged name would hide an array
                    self._zip.open(name).close()
        except _DAMAGE as error:
            raise self._wrong(error) from error

    def whole(self, name: str) -> np.ndarray:
        """Returns a small array, whose checksum is right; UserError for one of more than 256 MiB."""
        header = self.headers[name]
        if header.bytes > _LARGEST_ARRAY:
            raise UserError(f"'{self.path}': {name} is {_text(header)}, {header.bytes} bytes; expected at most "
                            f"{_LARGEST_ARRAY}")
        try:
            with self._zip.open(f"{name}.npy") as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
                if member.read(1):  # reading to the end compares the checksum
                    raise ValueError(f"{name} is longer than its header says")
                return array
        except _DAMAGE as error:
            raise self._wrong(error) from error

    def row(self, name: str, number: int) -> np.ndarray:
        """Returns one row of an array, array[number]. Rows that are read in order are read once.

        Raises:
          UserError: a damaged file, a row of more than 256 MiB, no such row.
        """
        header = self.headers[name]
        if not header.shape or not 0 <= number < header.shape[0]:
            raise UserError(f"'{self.path}': {name} is {_text(header)}, it has no row {number}")
        if header.fortran or header.bytes <= _LARGEST_ARRAY:  # rows of the first are scattered over all of it
            if name not in self._arrays:
                self._arrays[name] = self.whole(name)
            return self._arrays[name][number]
        if (size := header.bytes // header.shape[0]) > _LARGEST_ROW:
            raise UserError(f"'{self.path}': {name} is {_text(header)}, {size} bytes for each image; expected at most "
                            f"{_LARGEST_ROW}")
        try:
            if name not in self._checked:
                self._check(name)
            stream = self._streams.get(name)
            if stream is None or stream.row > number:
                if stream is not None:
                    stream.file.close()
                stream = self._streams[name] = _Stream(self._zip.open(f"{name}.npy"), 0)
                _read_header(stream.file)
            while stream.row < number:  # the bytes between are unpacked and dropped
                stream.skip(size)
            return stream.next(size).view(header.dtype).reshape(header.shape[1:])
        except _DAMAGE as error:
            self._streams.pop(name, None)
            raise self._wrong(error) from error

    def _check(self, name: str) -> None:
        """Reads an array once to its end, where its checksum stands: a row alone would not show damage."""
        with self._zip.open(f"{name}.npy") as member:
            while member.read(1 << 20):
                pass
        self._checked.add(name)

    def close(self) -> None:
        """Closes the file."""
        for stream in self._streams.values():
            stream.file.close()
        self._zip.close()

    def _header(self, name: str) -> Header:
        with self._zip.open(name) as member:
            header = _read_header(member)
        if header.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        if any(length < 0 for length in header.shape):
            raise ValueError(f"{name} has the shape {header.shape}")
        return header

    def _wrong(self, error: Exception) -> UserError:
        return UserError(f"'{self.path}' cannot be read as .npz ({one_line(error, 160)}); write it with "
                         "np.savez and no object arrays")


class _Stream:
    """An array's bytes, row by row."""

    def __init__(self, file: IO[bytes], row: int):
        self.file, self.row = file, row

    def next(self, size: int) -> np.ndarray:
        data = np.zeros(size, np.uint8)
        at = 0
        for part in self._parts(size):
            data[at:at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
        return data

    def skip(self, size: int) -> None:
        for _ in self._parts(size):
            pass

    def _parts(self, size: int) -> Iterator[bytes]:
        """Yields the bytes of the next row, at most 1 MiB at a time."""
        left = size
        while left:
            part = self.file.read(min(left, 1 << 20))
            if not part:
                raise EOFError(f"the array ends in row {self.row}")
            left -= len(part)
            yield part
        self.row += 1


def _read_header(file: Any) -> Header:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version} of an array is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return Header(shape, dtype, fortran and len(shape) > 1)


def _text(header: Header) -> str:
    return f"{header.dtype}{list(header.shape)}"
