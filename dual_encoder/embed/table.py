"""The tables of embeddings: GeoParquet 1.1 (geoparquet.org/releases/v1.1.0), one row per image.

    id            text, of the record; the images of a pair share it
    location_id   text, of the place; equal for all dates of a place
    sensor        text, feature of the image: 's1', 's2'; 's1_s2' for an encoder of stacked bands
    split         text, of the data set; '' = none
    time          timestamp in UTC of the image; null = unknown
    geometry      WKB in degrees (WGS 84, longitude first): the centre, or the footprint of a patch; null = unknown
    label         class or number of the whole image, classes as a list; only if the data have labels
    record        int64, number of the record in its split
    embedding     fixed-size list of float32, or of int8: then value = integer x scale
    scale         float32; only with int8

The metadata of each file hold 'geo', as the standard wants it, and 'dual_encoder': the origin as JSON.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError, one_line
from dual_encoder.storage import atomic

Dtype = Literal["float32", "int8"]
_FACTS = b"dual_encoder"
_ROWS = 16384  # of a row group: 8 MB of 128 dimensions
_LABELS = {"number": pa.float32(), "image_classes": pa.list_(pa.string())}


class Row(NamedTuple):
    """The facts of one image, as the columns of the table; `time` in Unix seconds, -1 = unknown."""

    id: str
    location_id: str
    sensor: str
    split: str
    time: int
    geometry: bytes | None
    label: Any
    record: int


def quantised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns int8 [n, dim] and float32 [n] whose product is within half a scale of the vectors.

    The scale of a row is its largest absolute value / 127; that of a row of zeros is 0.
    """
    scale = (np.abs(vectors).max(axis=1) / np.float32(127)).astype(np.float32)
    return np.rint(vectors / np.where(scale > 0, scale, np.float32(1))[:, None]).astype(np.int8), scale


def write(path: pathlib.Path, rows: Sequence[Row], vectors: np.ndarray, dtype: Dtype, label: LabelSpec | None,
          facts: Mapping[str, Any]) -> int:
    """Writes one file, whole or not at all; returns its size in bytes.

    Args:
      path: the file.
      rows: one per image.
      vectors: float32 [rows, dim].
      dtype: of the stored vectors.
      label: of the data; None = no column of labels.
      facts: the origin, as JSON values.

    Raises:
      UserError: the disk refuses.
    """
    columns: dict[str, pa.Array] = {
        name: pa.array([getattr(row, name) for row in rows], pa.string()).dictionary_encode()
        if name in ("sensor", "split") else pa.array([getattr(row, name) for row in rows], pa.string())
        for name in ("id", "location_id", "sensor", "split")}
    times = np.array([row.time for row in rows], np.int64)
    columns["time"] = pa.array(times * 1000, pa.timestamp("ms", "UTC"), mask=times < 0)
    columns["geometry"] = pa.array([row.geometry for row in rows], pa.binary())
    if label is not None:
        columns["label"] = pa.array([row.label for row in rows], _LABELS.get(label.kind, pa.string()))
    columns["record"] = pa.array([row.record for row in rows], pa.int64())
    stored = vectors
    if dtype == "int8":
        stored, scale = quantised(vectors)
        columns["scale"] = pa.array(scale)
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), vectors.shape[1])
    table = pa.table(columns).replace_schema_metadata(
        {b"geo": _geo([row.geometry for row in rows]), _FACTS: json.dumps(facts).encode()})
    with atomic.create(path) as file:
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd", row_group_size=_ROWS)
        file.write(buffer.getvalue())
    return file.size


def _geo(geometries: Sequence[bytes | None]) -> bytes:
    """Returns the metadata 'geo': longitude and latitude in OGC:CRS84, the standard's default."""
    import shapely

    shapes = shapely.from_wkb([one for one in geometries if one is not None])
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": sorted({shape.geom_type for shape in shapes})}
    if len(shapes):
        column["bbox"] = [float(value) for value in shapely.total_bounds(shapes)]
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}).encode()


def read_facts(path: pathlib.Path) -> dict[str, Any]:
    """Returns the origin of a file that `write` wrote; UserError if it is damaged or of something else."""
    try:
        return json.loads(pq.read_schema(path).metadata[_FACTS])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{path}' is no table of embeddings, or damaged ({type(error).__name__}: {one_line(error)}); "
                        "delete it and run `python -m dual_encoder.embed` again") from error


def count(path: pathlib.Path) -> int:
    """Returns the number of rows of a file."""
    return pq.read_metadata(path).num_rows


def sensor_counts(path: pathlib.Path) -> dict[str, int]:
    """Returns sensor -> number of rows of a file."""
    counts = pq.read_table(path, columns=["sensor"])["sensor"].value_counts()
    return {entry["values"].as_py(): entry["counts"].as_py() for entry in counts}


def records(path: pathlib.Path) -> np.ndarray:
    """Returns the column `record` of a file, int64 [rows]."""
    return pq.read_table(path, columns=["record"])["record"].to_numpy()


def read_vectors(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the vectors float32 [rows, dim] and the sensor of each row, text [rows]."""
    names = pq.read_schema(path).names
    table = pq.read_table(path, columns=[name for name in ("sensor", "embedding", "scale") if name in names])
    lists = table["embedding"].combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    vectors = lists.flatten().to_numpy().reshape(len(table), lists.type.list_size).astype(np.float32, copy=False)
    if "scale" in names:
        vectors = vectors * table["scale"].to_numpy()[:, None]
    return vectors, np.array(table["sensor"].to_pylist())
