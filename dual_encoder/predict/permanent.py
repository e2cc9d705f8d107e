"""A mask of permanent water, as a raster or as polygons, on the grid of a map."""

import pathlib
from collections.abc import Callable

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.grid import Grid, to_crs
from dual_encoder.predict.aoi import read_polygons

_RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".png")


def permanent_water(path: str) -> Callable[[Grid], np.ndarray]:
    """Opens a mask.

    Args:
      path: a raster, in which every value but 0 and its no-data value is water, brought to a grid by the nearest pixel;
        or polygons of water.

    Returns:
      grid -> bool [height, width], True for water; outside the mask there is none.

    Raises:
      UserError: the file cannot be read.
    """
    if pathlib.Path(path).suffix.lower() in _RASTERS:
        with raster.opened(pathlib.Path(path), path):
            return lambda grid: _of_raster(path, grid)
    polygons, crs, _ = read_polygons(path, "--permanent-water")
    return lambda grid: _of_polygons(polygons, crs, grid)


def _of_raster(path: str, grid: Grid) -> np.ndarray:
    try:
        mask = raster.load(pathlib.Path(path), around=grid)
    except UserError as error:
        if "do not overlap" in str(error):
            return np.zeros(grid.shape, bool)
        raise
    water = (mask.holds_data()[:1] & (mask.values[:1] != 0)).astype(np.uint8)
    return (water if mask.grid.matches(grid) else raster.resample(water, mask.grid, grid, 0, "nearest", path))[0] == 1


def _of_polygons(polygons: list, crs: object, grid: Grid) -> np.ndarray:
    import shapely
    from rasterio.features import geometry_mask

    moved = [shapely.transform(polygon, lambda points: np.transpose(to_crs(crs, grid.crs, *points.T)))
             for polygon in polygons]
    return geometry_mask(moved, grid.shape, grid.transform, invert=True)
