"""The vectors of a scene as a raster: one pixel per patch, one band per dimension, a cloud-optimised GeoTIFF."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from dual_encoder.embed import table
from dual_encoder.embed.table import Dtype
from dual_encoder.imagery import gdal
from dual_encoder.imagery.grid import Grid

_NO_DATA = {"float32": np.nan, "int8": -128}


def write(out: pathlib.Path, tables: Sequence[pathlib.Path], grid: Grid, dtype: Dtype) -> list[pathlib.Path]:
    """Writes the vectors of each sensor; a patch without a vector is no-data.

    With 'int8' all bands have one scale, the largest absolute value / 127: value = integer x scale. It is the scale of
    the bands in the file, so GDAL and QGIS apply it.

    Args:
      out: the file; if there are several sensors, '-<sensor>' is added to its name.
      tables: of the scene, as of `table.write`.
      grid: of the patches, one pixel each.
      dtype: of the raster.

    Returns:
      the files.

    Raises:
      UserError: the disk refuses.
    """
    parts = [(*table.read_vectors(path), table.records(path)) for path in tables]
    vectors, sensors, records = (np.concatenate(column) for column in zip(*parts, strict=True))
    names = sorted(set(sensors.tolist()))
    written = []
    for name in names:
        of = sensors == name
        path = out if len(names) == 1 else out.with_name(f"{out.stem}-{name}{out.suffix}")
        _write(path, vectors[of], records[of], grid, dtype, name)
        written.append(path)
    return written


def _write(path: pathlib.Path, vectors: np.ndarray, records: np.ndarray, grid: Grid, dtype: Dtype, sensor: str) -> None:
    """Writes float32 [n, dim] at the patches `records`, int [n]."""
    scale = float(np.abs(vectors).max() / 127) or 1.0
    bands = np.full((vectors.shape[1], *grid.shape), _NO_DATA[dtype], dtype)
    values = np.rint(vectors / scale) if dtype == "int8" else vectors
    bands.reshape(vectors.shape[1], -1)[:, records] = values.T
    rasterio = gdal.load()
    from rasterio.shutil import copy

    whole = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with (gdal.told(str(path), "name a folder that is writable and has free space"),
              rasterio.MemoryFile() as memory):
            with memory.open(driver="GTiff", count=len(bands), height=grid.shape[0], width=grid.shape[1], dtype=dtype,
                             crs=grid.crs, transform=grid.transform, nodata=_NO_DATA[dtype],
                             interleave="pixel") as file:
                file.write(bands)
                file.update_tags(sensor=sensor, content="embedding, one band per dimension")
                if dtype == "int8":
                    file.scales = (scale,) * len(bands)
            copy(memory.name, whole, driver="COG", compress="DEFLATE", blocksize=256, overviews="NONE")
        with open(whole, "rb") as done:
            os.fsync(done.fileno())
        os.replace(whole, path)
    finally:
        whole.unlink(missing_ok=True)
