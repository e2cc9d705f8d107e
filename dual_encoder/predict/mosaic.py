"""Joins maps of several scenes into one cloud-optimised GeoTIFF."""

import contextlib
import os
import pathlib
import warnings
from collections.abc import Sequence

from dual_encoder.imagery import gdal
from dual_encoder.predict.layers import NO_DATA

_MEMORY = 256  # MB that rasterio may use for a part of the mosaic


def write_mosaic(out: pathlib.Path, paths: Sequence[pathlib.Path]) -> None:
    """Writes one map of several; where they overlap, the first one that has data counts.

    Args:
      out: the file, in the coordinate system and with the pixels of the first map; others are brought there by the
        nearest pixel.
      paths: the maps.

    Raises:
      UserError: the disk refuses.
    """
    rasterio = gdal.load()
    from rasterio.merge import merge
    from rasterio.shutil import copy
    from rasterio.vrt import WarpedVRT

    flat, whole = out.with_name(f".{out.name}.flat"), out.with_name(f".{out.name}.cog")
    try:
        with contextlib.ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)  # rasterio multiplies transforms by `*`
            stack.enter_context(gdal.told(str(out), "name a folder that is writable and has free space"))
            files = [stack.enter_context(rasterio.open(path)) for path in paths]
            first = files[0]
            on_first = [file if file.crs == first.crs and file.transform.is_rectilinear
                        else stack.enter_context(WarpedVRT(file, crs=first.crs, nodata=NO_DATA)) for file in files]
            merge(on_first, res=first.res, nodata=NO_DATA, dtype="uint8", dst_path=flat, mem_limit=_MEMORY,
                  dst_kwds={"driver": "GTiff", "compress": "deflate", "tiled": True, "bigtiff": "if_safer"})
            with rasterio.open(flat, "r+") as joined:
                joined.write_colormap(1, first.colormap(1))
                joined.set_band_description(1, first.descriptions[0])
                joined.update_tags(**{key: value for key, value in first.tags().items() if key.startswith("CLASS_")},
                                   INPUTS=", ".join(path.name for path in paths))
            copy(flat, whole, driver="COG", compress="DEFLATE", bigtiff="IF_SAFER", overview_resampling="MODE")
        os.replace(whole, out)
    finally:
        for path in (flat, whole):
            path.unlink(missing_ok=True)
