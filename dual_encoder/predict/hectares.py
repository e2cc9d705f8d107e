"""Areas on the ellipsoid (WGS 84): of the pixels of a map, by class, and of polygons."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dual_encoder.imagery import gdal
from dual_encoder.imagery.grid import Grid, to_crs
from dual_encoder.predict.layers import NO_DATA

_APART = 256  # pixels between the places where the area of a pixel is computed; between them it is interpolated
_EDGE = 100  # pixels of the longest edge of a polygon: the edges of pixels are no shortest lines on the ellipsoid
_ROWS = 512  # that are read at a time
_HECTARE = 1e4


@dataclasses.dataclass(frozen=True)
class Content:
    """What a part of a map holds.

    Attributes:
      classes: hectares of each class, float64 [classes].
      no_data: hectares without data.
      pixels: number of pixels with data.
    """

    classes: np.ndarray
    no_data: float
    pixels: int


def by_class(path: Any, classes: int) -> np.ndarray:
    """Returns the area of each class in hectares, float64 [classes]; arguments as of `contents`."""
    return contents(path, classes, [None])[0].classes


def contents(path: Any, classes: int, shapes: Sequence[Any]) -> list[Content]:
    """Returns what some parts of a map hold.

    Args:
      path: a map, whose first band holds classes.
      classes: number of classes.
      shapes: shapely polygons in the map's coordinate system, which may overlap; None = the whole map. A pixel belongs
        to a polygon if its centre lies in it.
    """
    rasterio = gdal.load()
    from rasterio.windows import Window

    total, pixels = np.zeros((len(shapes), classes + 1)), np.zeros(len(shapes), np.int64)
    with rasterio.open(path) as file:
        grid = Grid(file.crs, file.transform, file.shape)
        spans = [_span(shape, grid) for shape in shapes]
        for top, weights in _pixel_areas(grid):
            values = file.read(1, window=Window(0, top, file.width, len(weights)))
            numbers = np.where(values == NO_DATA, classes, values)
            for number, (shape, (first, last, left, right)) in enumerate(zip(shapes, spans, strict=True)):
                rows = slice(max(first - top, 0), min(last - top, len(weights)))
                if rows.start >= rows.stop or left >= right:
                    continue
                inside = _inside(shape, grid, top + rows.start, left, rows.stop - rows.start, right - left)
                found, area = numbers[rows, left:right][inside], weights[rows, left:right][inside]
                total[number] += np.bincount(found, area, classes + 1)
                pixels[number] += int((found < classes).sum())
    return [Content(row[:classes] / _HECTARE, float(row[classes]) / _HECTARE, count)
            for row, count in zip(total, pixels.tolist(), strict=True)]


def of_polygon(polygon: Any, grid: Grid) -> float:
    """Returns the area of a shapely polygon in the coordinate system of `grid`, in hectares."""
    import shapely
    from pyproj import Geod

    t = grid.transform
    fine = shapely.segmentize(polygon, _EDGE * min(np.hypot(t.a, t.d), np.hypot(t.b, t.e)))
    earth = shapely.transform(fine, lambda points: np.transpose(to_crs(grid.crs, "EPSG:4326", *points.T)))
    area, _ = Geod(ellps="WGS84").geometry_area_perimeter(shapely.orient_polygons(earth))
    return abs(area) / _HECTARE


def _span(shape: Any, grid: Grid) -> tuple[int, int, int, int]:
    """Returns the first row of a polygon in a grid, the one behind its last, and the same of columns."""
    if shape is None:
        return 0, grid.shape[0], 0, grid.shape[1]
    import shapely

    inverse, points = ~grid.transform, shapely.get_coordinates(shape)
    columns = inverse.a * points[:, 0] + inverse.b * points[:, 1] + inverse.c
    rows = inverse.d * points[:, 0] + inverse.e * points[:, 1] + inverse.f
    if not np.isfinite([columns, rows]).all():
        return 0, 0, 0, 0
    (first, last), (left, right) = ((max(0, math.floor(at.min())), min(size, math.ceil(at.max())))
                                    for at, size in zip((rows, columns), grid.shape, strict=True))
    return first, last, left, right


def _inside(shape: Any, grid: Grid, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Returns bool [height, width], True for the pixels of a window whose centres lie in a polygon."""
    if shape is None:
        return np.ones((height, width), bool)
    from rasterio.features import geometry_mask

    moved = grid.transform @ type(grid.transform).translation(left, top)
    return geometry_mask([shape], (height, width), moved, invert=True)


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
