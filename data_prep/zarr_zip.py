"""Reading arrays of a zarr v2 group in a zip file; the zip may be a member of an uncompressed tar, read in place."""

import io
import itertools
import json
import os
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from dual_encoder.errors import UserError

SUFFIX = ".zarr.zip"
# Never get_codec of any name: numcodecs also has 'pickle', which runs code from the file.
_CODECS = ("blosc", "bz2", "gzip", "lz4", "shuffle", "vlen-utf8", "zlib", "zstd")
# The errors that damaged bytes cause in zipfile, json, numcodecs and numpy.
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError,
           NotImplementedError, OverflowError, MemoryError)


class ZarrZip:
    """One zarr v2 group, open for reading; its file is closed with it."""

    def __init__(self, path: pathlib.Path, offset: int = 0, size: int | None = None):
        """Opens the zip file `path`, or the zip of `size` bytes at `offset` in it (a member of a tar).

        Raises:
          UserError: the file is missing or holds no zip there.
        """
        self._name = f"'{path}'" + ("" if size is None else f" at byte {offset}")
        if not path.is_file():
            raise UserError(f"'{path}' is missing; restore it or take its entries out of the raw data")
        try:
            self._zip = zipfile.ZipFile(path if size is None else _Window(os.open(path, os.O_RDONLY), offset, size))
            self._names = frozenset(self._zip.namelist())
        except _DAMAGE as error:
            raise self._damaged("zip", error) from error

    def __str__(self) -> str:
        return self._name

    def __contains__(self, array: str) -> bool:
        return f"{array}/.zarray" in self._names

    def attributes(self, array: str) -> dict[str, Any]:
        """Returns the attributes of an array, {} if it has none."""
        key = f"{array}/.zattrs"
        return self._json(key) if key in self._names else {}

    def dims(self, array: str) -> tuple[str, ...]:
        """Returns the names of an array's dimensions, as xarray writes them; UserError if it has no names."""
        dims = self.attributes(array).get("_ARRAY_DIMENSIONS")
        if dims is None:
            raise UserError(f"{self}: array '{array}' names no dimensions (_ARRAY_DIMENSIONS); expected a zarr v2 file "
                            "as xarray writes it")
        return tuple(dims)

    def read(self, array: str, **index: int) -> np.ndarray:
        """Reads an array, and of that only the chunks that `index` touches.

        Args:
          array: the array's name.
          **index: position by name of a dimension, e.g. time=2; these dimensions are dropped.

        Returns:
          The array without the dimensions of `index`, in the stored order and dtype; absent chunks hold the fill value.

        Raises:
          UserError: no such array, dimension or position; a damaged file; a codec that is not read here.
        """
        if array not in self:
            hint = "zarr v3, expected v2" if "zarr.json" in self._names else "is it another product's file?"
            raise UserError(f"{self} has no array '{array}'; {hint}")
        meta = self._json(f"{array}/.zarray")
        dims = self.dims(array) if index else ()
        try:
            shape, chunks = meta["shape"], meta["chunks"]
            fixed = {dims.index(name): position for name, position in index.items()}
            if any(not 0 <= position < shape[axis] for axis, position in fixed.items()):
                raise IndexError(f"{index} lies outside of {dict(zip(dims, shape, strict=True))}")
            grid = [[fixed[axis] // step] if axis in fixed else range(-(-length // step))
                    for axis, (length, step) in enumerate(zip(shape, chunks, strict=True))]
            out = np.empty([length for axis, length in enumerate(shape) if axis not in fixed], meta["dtype"])
            for place in itertools.product(*grid):
                stops = [min(step, length - at * step) for at, step, length in zip(place, chunks, shape, strict=True)]
                inner = tuple(fixed[axis] % chunks[axis] if axis in fixed else slice(stop)
                              for axis, stop in enumerate(stops))
                outer = tuple(slice(place[axis] * chunks[axis], place[axis] * chunks[axis] + stop)
                              for axis, stop in enumerate(stops) if axis not in fixed)
                out[outer] = self._chunk(array, meta, place)[inner]
        except UserError:
            raise
        except _DAMAGE as error:
            raise self._damaged(f"array '{array}'", error) from error
        return out

    def _chunk(self, array: str, meta: dict[str, Any], place: tuple[int, ...]) -> np.ndarray:
        key = f"{array}/" + (meta.get("dimension_separator", ".").join(map(str, place)) or "0")
        if key not in self._names:
            fill = 0 if meta["fill_value"] is None else meta["fill_value"]
            return np.full(meta["chunks"], float(fill) if np.dtype(meta["dtype"]).kind == "f" else fill, meta["dtype"])
        data: bytes | np.ndarray = self._zip.read(key)
        for config in [meta["compressor"], *reversed(meta["filters"] or [])]:
            if config is not None:
                data = _codec(config, self).decode(data)
        # Objects are the texts of vlen-utf8; all other codecs give bytes.
        flat = (data if isinstance(data, np.ndarray) and data.dtype == object else np.frombuffer(data, meta["dtype"]))
        return flat.reshape(meta["chunks"], order=meta["order"])

    def _json(self, key: str) -> dict[str, Any]:
        try:
            value = json.loads(self._zip.read(key))
            if not isinstance(value, dict):
                raise ValueError("no JSON object")
            return value
        except _DAMAGE as error:
            raise self._damaged(f"'{key}'", error) from error

    def _damaged(self, what: str, error: Exception) -> UserError:
        return UserError(f"{self}: {what} cannot be read ({type(error).__name__}: {str(error)[:100]}); it looks "
                         "truncated or damaged, fetch it again")


def tar_members(path: pathlib.Path) -> Iterator[tuple[str, int, int]]:
    """Lists the zarr zips of an uncompressed tar by its headers alone.

    Yields:
      (member's name without folder and .zarr.zip, offset and size in bytes of the zip in the tar), in the tar's order.

    Raises:
      UserError: the tar is damaged; after the members before the damage.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(SUFFIX):
                    yield pathlib.PurePosixPath(member.name).name.removesuffix(SUFFIX), member.offset_data, member.size
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"'{path}' cannot be read as an uncompressed tar ({error}); it looks truncated, fetch it "
                        "again") from error


def _codec(config: dict[str, Any], name: object) -> Any:
    import numcodecs  # here, because most commands read no zarr

    if config.get("id") not in _CODECS:
        raise UserError(f"{name}: codec '{config.get('id')}' is not read here, only {' '.join(_CODECS)}; write the "
                        "array with one of these")
    return numcodecs.get_codec(dict(config))


class _Window(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, descriptor: int, offset: int, size: int):
        self._descriptor, self._offset, self._size, self._at = descriptor, offset, size, 0

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if self._at < 0:
            raise OSError(f"position {self._at} before the start")
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), max(self._size - self._at, 0))
        count = os.preadv(self._descriptor, [memoryview(buffer)[:length]], self._offset + self._at)
        self._at += count
        return count
