"""Areas on the ellipsoid (WGS 84): of the pixels of a map, by class, and of polygons."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from dual_encoder.imagery import gdal
from dual_encoder.imagery.grid import Grid, to_crs
from dual_encoder.predict.layers import NO_DATA

_APART = 256  # pixels between the places where the area of a pixel is computed; between them it is interpolated
_EDGE = 100  # pixels of the longest edge of a polygon: the edges of pixels are no shortest lines on the ellipsoid
_ROWS = 512  # that are read at a time
_HECTARE = 1e4


def by_class(path: Any, classes: int) -> np.ndarray:
    """Returns the area of each class in hectares, float64 [classes].

    Args:
      path: a map, whose first band holds classes.
      classes: number of classes.
    """
    rasterio = gdal.load()
    from rasterio.windows import Window

    total = np.zeros(classes)
    with rasterio.open(path) as file:
        grid = Grid(file.crs, file.transform, file.shape)
        for top, weights in _pixel_areas(grid):
            values = file.read(1, window=Window(0, top, file.width, len(weights)))
            shown = values != NO_DATA
            total += np.bincount(values[shown], weights[shown], classes)[:classes]
    return total / _HECTARE


def of_polygon(polygon: Any, grid: Grid) -> float:
    """Returns the area of a shapely polygon in the coordinate system of `grid`, in hectares."""
    import shapely
    from pyproj import Geod

    t = grid.transform
    fine = shapely.segmentize(polygon, _EDGE * min(np.hypot(t.a, t.d), np.hypot(t.b, t.e)))
    earth = shapely.transform(fine, lambda points: np.transpose(to_crs(grid.crs, "EPSG:4326", *points.T)))
    area, _ = Geod(ellps="WGS84").geometry_area_perimeter(shapely.orient_polygons(earth))
    return abs(area) / _HECTARE


def _pixel_areas(grid: Grid) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, square metres of each pixel, float64 [rows, width]), from top to bottom."""
    height, width = grid.shape
    rows, columns = (np.unique(np.append(np.arange(0, size, _APART), size - 1)) for size in grid.shape)
    areas = np.array([_of_pixels(grid, row, columns) for row in rows])
    full = np.array([np.interp(np.arange(width), columns, row) for row in areas])
    for top in range(0, height, _ROWS):
        wanted = np.arange(top, min(top + _ROWS, height))
        after = np.clip(np.searchsorted(rows, wanted, side="right"), 1, max(1, len(rows) - 1))
        low, high = rows[after - 1], rows[np.minimum(after, len(rows) - 1)]
        share = ((wanted - low) / np.maximum(high - low, 1))[:, None]
        yield top, full[after - 1] * (1 - share) + full[np.minimum(after, len(rows) - 1)] * share


def _of_pixels(grid: Grid, row: int, columns: np.ndarray) -> list[float]:
    """Returns the square metres of some pixels of a row."""
    from pyproj import Geod

    geod, t, areas = Geod(ellps="WGS84"), grid.transform, []
    for column in columns.tolist():
        corners = [t @ (column + across, row + down) for across, down in ((0, 0), (1, 0), (1, 1), (0, 1))]
        longitudes, latitudes = to_crs(grid.crs, "EPSG:4326", [x for x, _ in corners], [y for _, y in corners])
        areas.append(abs(geod.polygon_area_perimeter(longitudes, latitudes)[0]))
    return areas
