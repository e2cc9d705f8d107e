"""Reading arrays of a zarr v2 group in a zip file; the zip may be a member of an uncompressed tar, read in place."""

import bz2
import io
import itertools
import json
import math
import os
import pathlib
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from dual_encoder.errors import UserError, one_line

SUFFIX = ".zarr.zip"
# Never get_codec of any name: numcodecs also has 'pickle', which runs code from the file.
_CODECS = ("blosc", "bz2", "gzip", "lz4", "shuffle", "vlen-utf8", "zlib", "zstd")
_LARGEST = 1 << 28  # bytes of an array, or of one chunk
_LARGEST_TEXT, _LARGEST_JSON = 1 << 24, 1 << 24  # bytes
_LARGEST_MEMBER = 1 << 28  # bytes of a chunk as it is stored
# The errors that damaged bytes cause in zipfile, json, numcodecs and numpy.
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError,
           NotImplementedError, OverflowError, MemoryError, AttributeError)


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
        if not (isinstance(dims, list) and all(isinstance(name, str) for name in dims)):
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
            shape, chunks = _sizes(meta)
            fixed = {dims.index(name): position for name, position in index.items()}
            if any(not 0 <= position < shape[axis] for axis, position in fixed.items()):
                raise IndexError(f"{index} lies outside of {dict(zip(dims, shape, strict=True))}")
            grid = [[fixed[axis] // step] if axis in fixed else range(-(-length // step))
                    for axis, (length, step) in enumerate(zip(shape, chunks, strict=True))]
            wanted = [length for axis, length in enumerate(shape) if axis not in fixed]
            if math.prod(wanted) * np.dtype(meta["dtype"]).itemsize > _LARGEST:
                raise ValueError(f"{wanted} values are declared, at most {_LARGEST} bytes are read")
            out = np.zeros(wanted, meta["dtype"])
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
            value = np.array(float(fill) if np.dtype(meta["dtype"]).kind == "f" else fill, meta["dtype"])
            return np.broadcast_to(value, meta["chunks"])
        stored = self._zip.getinfo(key).file_size
        if stored > _LARGEST_MEMBER:
            raise ValueError(f"chunk '{key}' holds {stored} bytes, at most {_LARGEST_MEMBER} are read")
        data: Any = self._zip.read(key)
        size = math.prod(meta["chunks"]) * np.dtype(meta["dtype"]).itemsize
        for config in [meta["compressor"], *reversed(meta["filters"] or [])]:
            if config is not None:
                data = _decoded(_codec(config, self), config["id"], data, size)
        # Objects are the texts of vlen-utf8; all other codecs give bytes.
        flat = (data if isinstance(data, np.ndarray) and data.dtype == object else np.frombuffer(data, meta["dtype"]))
        return flat.reshape(meta["chunks"], order=meta["order"])

    def _json(self, key: str) -> dict[str, Any]:
        try:
            if (size := self._zip.getinfo(key).file_size) > _LARGEST_JSON:
                raise ValueError(f"it holds {size} bytes, at most {_LARGEST_JSON} are read")
            value = json.loads(self._zip.read(key))
            if not isinstance(value, dict):
                raise ValueError("no JSON object")
            return value
        except _DAMAGE as error:
            raise self._damaged(f"'{key}'", error) from error

    def _damaged(self, what: str, error: Exception) -> UserError:
        return UserError(f"{self}: {what} cannot be read ({type(error).__name__}: {one_line(error, 100)}); it looks "
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


def _sizes(meta: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Returns shape and chunks of an array; ValueError if they are no sizes, or too large to be read."""
    shape, chunks, dtype = meta["shape"], meta["chunks"], np.dtype(meta["dtype"])
    numbers = [*shape, *chunks]
    if len(shape) != len(chunks) or not all(type(number) is int for number in numbers) or min([0, *shape]) < 0 or (
            min([1, *chunks]) < 1):
        raise ValueError(f"shape {shape} and chunks {chunks} are no sizes")
    longest = 4096 if dtype.kind in "US" else 8
    if dtype.kind not in "iufbMmOUS" or dtype.itemsize > longest:
        raise ValueError(f"dtype {dtype} is not read here")
    if math.prod(chunks) * dtype.itemsize > _LARGEST or meta["order"] not in ("C", "F"):
        raise ValueError(f"chunks {chunks} in order {meta['order']!r} are not read; at most {_LARGEST} bytes are")
    return shape, chunks


def _decoded(codec: Any, name: str, data: Any, size: int) -> Any:
    """Decodes a chunk that is `size` bytes long then; ValueError for a longer one, before it takes memory."""
    if name == "vlen-utf8":  # the number of texts, then the length of each in 4 bytes and its letters
        if (texts := int.from_bytes(bytes(data[:4]), "little")) > min(size, len(data)) // 4:
            raise ValueError(f"a chunk of {len(data)} bytes declares {texts} texts")
        return codec.decode(data)
    if name in ("gzip", "zlib", "bz2"):
        unpack = bz2.BZ2Decompressor() if name == "bz2" else zlib.decompressobj(31 if name == "gzip" else 15)
        # A text may be longer than its place in the array.
        found = unpack.decompress(bytes(data), max(size, _LARGEST_TEXT) + 1)
        if len(found) > max(size, _LARGEST_TEXT):
            raise ValueError(f"a chunk unpacks to more than the {size} bytes of its shape")
        if not unpack.eof:
            raise EOFError("a chunk is cut off")
        return found
    if name in ("blosc", "lz4", "zstd"):  # their headers declare the size
        declared = _declared(name, bytes(data[:18]))
        if declared > max(size, _LARGEST_TEXT):
            raise ValueError(f"a chunk declares {declared} bytes, its shape has {size}")
    return codec.decode(data)


def _declared(name: str, head: bytes) -> int:
    """Returns the unpacked size that the head of a chunk declares; OverflowError if it says nothing.

    Sources: blosc's README_HEADER, numcodecs' lz4 (4 bytes in front), RFC 8878 section 3.1.1.1 (zstd).
    """
    if name == "blosc":
        return int.from_bytes(head[4:8], "little")
    if name == "lz4":
        return int.from_bytes(head[:4], "little")
    single, kind, dictionary = head[4] >> 5 & 1, head[4] >> 6, (0, 1, 2, 4)[head[4] & 3]
    start = 5 + (not single) + dictionary
    length = (1 if single else 0, 2, 4, 8)[kind]
    if not length:
        raise OverflowError("a chunk of zstd does not declare its size")
    return int.from_bytes(head[start:start + length], "little") + (256 if kind == 1 else 0)


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
