"""Arrays of an HDF5 file: declared forms are known before they take memory; damage of any kind is one line."""

import math
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from dual_encoder.errors import UserError, one_line

LARGEST_CHUNK = 1 << 28  # bytes


class Form(NamedTuple):
    """Shape, kind of dtype, bytes of all and of one chunk, as an array declares them."""

    shape: tuple[int, ...]
    kind: str
    bytes: int
    chunk: int

    def __str__(self) -> str:
        return f"of shape {self.shape}, chunks of {self.chunk} bytes" if self.shape else "missing"


def opened(path: pathlib.Path, names: Collection[str]) -> tuple[Any, Mapping[str, Form]]:
    """Opens a file to read.

    Args:
      path: the file.
      names: of arrays.

    Returns:
      The h5py file, and the form of each of the arrays; that of one that is missing has the shape ().

    Raises:
      UserError: it is no HDF5, or cut off.
    """
    import h5py  # here, because few importers need it

    try:
        file = h5py.File(path, "r")
        return file, {name: _form(file, name) for name in names}
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"'{path}' cannot be read as HDF5 ({one_line(error, 120)}); it looks truncated "
                        "or damaged, fetch it again") from error


def read(file: Any, path: pathlib.Path, name: str, row: int | None = None) -> np.ndarray:
    """Returns one row of an array of a file that `opened` gave, or all of it; UserError if that cannot be read."""
    try:
        return file[name][() if row is None else row]
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:  # of damaged HDF5
        raise UserError(f"'{path}': array '{name}'{'' if row is None else f', row {row},'} cannot be read "
                        f"({one_line(error, 120)}); fetch the file again") from error


def _form(file: Any, name: str) -> Form:
    import h5py

    item = file.get(name)
    if not isinstance(item, h5py.Dataset) or item.shape is None:
        return Form((), "", 0, 0)
    size, chunk = item.dtype.itemsize, math.prod(item.chunks) if item.chunks else 0
    return Form(item.shape, item.dtype.kind, math.prod(item.shape) * size, chunk * size)
