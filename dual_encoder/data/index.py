"""The index of a split, <split>.index.npy: which shard holds a record, where, and how long it is."""

import io
import os
import struct
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from dual_encoder.errors import UserError
from dual_encoder.storage import files

INDEX_DTYPE = np.dtype([("shard", "<i4"), ("offset", "<i8"), ("length", "<i4")])  # offset and length of the payload
HEADER = struct.Struct("<QI")  # before the payload: its length, and the masked crc32c of the length
FOOTER = struct.Struct("<I")  # after the payload: its masked crc32c


def read(path: epath.PathLike) -> np.ndarray:
    """Returns an index, INDEX_DTYPE [records]; mapped from a disk, not read.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no index.
      UserError: a bucket refuses.
    """
    path = os.fspath(path)
    try:
        with warnings.catch_warnings(action="error"):  # NumPy warns of a header that it had to guess
            if "://" in path:
                index = np.load(io.BytesIO(files.read(path)), allow_pickle=False)
            else:
                # np.memmap is ten times as slow to give one row
                index = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # NumPy parses the header as Python, and raises many types for a damaged one
        raise ValueError(f"it cannot be read: {type(error).__name__}") from error
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise ValueError(f"it holds {index.ndim} dimensions of {index.dtype}"[:100])
    return index


def fault(index: np.ndarray, entries: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns the first fault of an index as text; None if its records lie in the shards one behind the other.

    Args:
      index: INDEX_DTYPE [records].
      entries: of the shards, as in `DatasetInfo`.
    """
    expected = sum(entry["records"] for entry in entries)
    if len(index) != expected:
        return f"it has {len(index)} rows, the manifest says {expected} records"
    first = 0
    for shard, entry in enumerate(entries):
        rows = index[first:first + entry["records"]]
        ends = rows["offset"] + rows["length"] + FOOTER.size  # int64
        starts = np.concatenate([[0], ends[:-1]]) + HEADER.size if len(rows) else ends
        wrong = (rows["shard"] != shard) | (rows["length"] <= 0) | (rows["offset"] != starts)
        if len(rows):
            wrong[-1] |= ends[-1] != entry["bytes"]
        if wrong.any():
            row = int(np.argmax(wrong))
            seen, offset, length = rows[row].item()
            return f"row {first + row} says shard {seen}, byte {offset}, {length} bytes"
        first += len(rows)
    return None
