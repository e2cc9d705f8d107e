"""Writes a map as a cloud-optimised GeoTIFF, by GDAL's COG driver."""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery import gdal
from dual_encoder.imagery.grid import Grid
from dual_encoder.predict.layers import NO_DATA

_BLOCK = 512


def write_cog(out: pathlib.Path, strips: Iterable[np.ndarray], grid: Grid, names: Sequence[str], folder: pathlib.Path,
              tags: Mapping[str, str], colours: Sequence[tuple[int, int, int]] = ()) -> None:
    """Writes layers; `out` appears when the file is complete.

    Args:
      out: the file.
      strips: uint8 [bands, rows, width] from top to bottom, 255 = no data.
      grid: position of all pixels.
      names: a description of each band.
      folder: for the files on the way, on the disk of `out`.
      tags: of the file.
      colours: red, green and blue of the values 0, 1, ..., for a map of classes.

    Raises:
      UserError: the disk refuses.
    """
    rasterio = gdal.load()
    from rasterio.shutil import copy
    from rasterio.windows import Window

    flat, whole = folder / f"{out.name}.flat", folder / f"{out.name}.cog"
    with gdal.told(str(out), "name a folder that is writable and has free space, and run the same command again"):
        with rasterio.open(flat, "w", driver="GTiff", count=len(names), height=grid.shape[0], width=grid.shape[1],
                           dtype="uint8", crs=grid.crs, transform=grid.transform, nodata=NO_DATA, compress="deflate",
                           zlevel=1, tiled=True, blockxsize=_BLOCK, blockysize=_BLOCK, bigtiff="if_safer") as file:
            file.update_tags(**tags)
            for number, name in enumerate(names, start=1):
                file.set_band_description(number, name)
            if colours:
                file.write_colormap(1, dict(enumerate(colours)) | {NO_DATA: (0, 0, 0, 0)})
            top = 0
            for strip in strips:
                file.write(strip, window=Window(0, top, grid.shape[1], strip.shape[1]))
                top += strip.shape[1]
        if top != grid.shape[0]:
            raise UserError(f"'{folder}' holds {top} of {grid.shape[0]} rows; delete it and run the same command again")
        copy(flat, whole, driver="COG", compress="DEFLATE", blocksize=_BLOCK, bigtiff="IF_SAFER",
             overview_resampling="MODE" if colours else "AVERAGE")
    with open(whole, "rb") as done:
        os.fsync(done.fileno())
    os.replace(whole, out)
    flat.unlink()
