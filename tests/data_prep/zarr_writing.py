"""Writes zarr v2 zips and tar shards byte for byte as xarray and webdataset do, without zarr."""

import io
import itertools
import json
import pathlib
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

import numcodecs
import numpy as np

BLOSC = {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1, "blocksize": 0}


def zarr_zip(arrays: Mapping[str, tuple[tuple[str, ...], Any]], chunks: Mapping[str, tuple[int, ...]] | None = None,
             attributes: Mapping[str, Mapping[str, Any]] | None = None, consolidated: bool = True,
             absent: tuple[str, ...] = (), **meta: Any) -> bytes:
    """Returns a zarr v2 group as the bytes of a zip.

    arrays: name -> (names of the dimensions, values); chunks: name -> shape, else one chunk; absent: keys of chunks
    that are not written; meta: compressor, filters, order, dimension_separator, fill_value.
    """
    entries: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": {}}
    data = {}
    for name, (dims, values) in arrays.items():
        values = np.asarray(values)
        shape = (chunks or {}).get(name, values.shape)
        description = {"zarr_format": 2, "shape": values.shape, "chunks": shape, "dtype": values.dtype.str,
                       "compressor": BLOSC if values.ndim else None, "filters": None, "order": "C",
                       "fill_value": "NaN" if values.dtype.kind == "f" else None} | meta
        entries[f"{name}/.zarray"] = description
        entries[f"{name}/.zattrs"] = {"_ARRAY_DIMENSIONS": dims} | dict((attributes or {}).get(name, {}))
        for place in itertools.product(*(range(-(-n // c)) for n, c in zip(values.shape, shape, strict=True))):
            chunk = np.zeros(shape, values.dtype)  # the last chunks reach over the edge
            part = values[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, shape, strict=True))]
            chunk[tuple(slice(0, n) for n in part.shape)] = part
            key = f"{name}/" + (description.get("dimension_separator", ".").join(map(str, place)) or "0")
            if key not in absent:
                coded = chunk.tobytes(order=description["order"])
                for config in [*(description["filters"] or []), description["compressor"]]:
                    coded = numcodecs.get_codec(dict(config)).encode(coded) if config else coded
                data[key] = bytes(coded)
    if consolidated:
        entries[".zmetadata"] = {"zarr_consolidated_format": 1, "metadata": dict(entries)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:  # stored, as zarr.ZipStore does
        for key, value in entries.items():
            file.writestr(key, json.dumps(value))
        for key, value in data.items():
            file.writestr(key, value)
    return buffer.getvalue()


def write_tar(path: pathlib.Path, members: Mapping[str, bytes]) -> None:
    """Writes a tar of `members`, names without .zarr.zip, in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{name}.zarr.zip")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
