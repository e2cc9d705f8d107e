"""Reading one GeoTIFF, with errors that name the file."""

import math
import pathlib

import numpy as np

from dual_encoder.errors import UserError


def read(path: pathlib.Path, bands: int) -> np.ndarray:
    """Reads all bands of a GeoTIFF.

    Args:
      path: the file.
      bands: how many bands it must hold.

    Returns:
      [bands, height, width] in the file's dtype.

    Raises:
      UserError: the file is missing, truncated or unreadable, or has another number of bands.
    """
    import rasterio  # here, because commands that read no GeoTIFF should not load GDAL

    if not path.is_file():
        raise UserError(f"'{path}' is missing; restore it or take its entry out of the raw data")
    try:
        with rasterio.open(path) as file:
            seen, array = file.count, file.read()
    except rasterio.errors.RasterioError as error:
        raise UserError(f"'{path}' cannot be read as GeoTIFF ({str(error)[:120]}); it looks truncated, fetch it "
                        "again") from error
    if seen != bands:
        raise UserError(f"'{path}' has {seen} bands, {bands} expected; is it the file of another product?")
    return array


def centre(path: pathlib.Path) -> tuple[float, float]:
    """Returns (latitude, longitude) in degrees (WGS 84) of the image's centre; NaN where it has no georeference."""
    import rasterio
    import rasterio.warp

    with rasterio.open(path) as file:
        if file.crs is None:
            return math.nan, math.nan
        x, y = file.transform @ (file.width / 2, file.height / 2)
        longitude, latitude = rasterio.warp.transform(file.crs, "EPSG:4326", [x], [y])
    return latitude[0], longitude[0]
