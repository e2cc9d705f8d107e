"""The area of interest: a rectangle of a scene, and the pixels in it that are wanted."""

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery.grid import Grid, to_crs

_EDGE = 64  # points along an edge: a straight line is a curve in another coordinate system


@dataclasses.dataclass(frozen=True)
class Area:
    """A part of a scene.

    Attributes:
      rows, columns: the pixels, (first, behind the last).
      shapes: polygons in the scene's coordinate system, outside which nothing is wanted; () = all of the rectangle.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    shapes: tuple[Any, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def grid(self, scene: Grid) -> Grid:
        """Returns the position of the area's pixels, a part of the scene's grid."""
        moved = scene.transform @ type(scene.transform).translation(self.columns[0], self.rows[0])
        return Grid(scene.crs, moved, self.shape)

    def wanted(self, scene: Grid, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Returns bool [height, width], True for the pixels of a window of the scene that lie in the area."""
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        inside = ((rows >= self.rows[0]) & (rows < self.rows[1]))[:, None] & (
            (columns >= self.columns[0]) & (columns < self.columns[1]))
        if self.shapes and inside.any():
            from rasterio.features import geometry_mask

            moved = scene.transform @ type(scene.transform).translation(left, top)
            inside = inside & geometry_mask(self.shapes, (height, width), moved, invert=True)
        return inside


def whole(scene: Grid) -> Area:
    """Returns all pixels of a scene."""
    return Area((0, scene.shape[0]), (0, scene.shape[1]))


def area(text: str, scene: Grid) -> Area:
    """Returns the area that --aoi names.

    Args:
      text: 'west,south,east,north' in degrees (west may be larger than east: across the antimeridian), or a file of
        polygons.
      scene: its grid.

    Raises:
      UserError: neither of both, no polygon, or the area does not overlap the scene.
    """
    import shapely

    polygons, crs = _box(text) if text.count(",") == 3 else read_polygons(text, "--aoi")[:2]
    shapes = [to_scene(polygon, crs, scene) for polygon in polygons]
    inverse = ~scene.transform
    points = np.concatenate([shapely.get_coordinates(shape) for shape in shapes])
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise UserError(f"--aoi={text} cannot be expressed in the scene's coordinate system, {scene.crs}")
    columns = inverse.a * points[:, 0] + inverse.b * points[:, 1] + inverse.c
    rows = inverse.d * points[:, 0] + inverse.e * points[:, 1] + inverse.f
    spans = [(max(0, math.floor(at.min() + 1e-6)), min(size, math.ceil(at.max() - 1e-6)))
             for at, size in zip((rows, columns), scene.shape, strict=True)]
    if any(first >= last for first, last in spans):
        raise UserError(f"--aoi={text} and the scene do not overlap; the scene covers {scene.extent()}")
    return Area(spans[0], spans[1], tuple(shapes))


def to_scene(polygon: Any, crs: Any, scene: Grid) -> Any:
    """Returns a polygon of the coordinate system `crs` in that of a scene; straight edges become curves."""
    import shapely

    fine = shapely.segmentize(polygon, max(polygon.length / _EDGE, 1e-9))
    moved = shapely.transform(fine, lambda points: np.transpose(to_crs(crs, scene.crs, *points.T)))
    return shapely.transform(moved, lambda points: _beside(points, scene))


def read_polygons(path: str, flag: str, column: str = "", key: str = "") -> tuple[list[Any], Any, list[Any]]:
    """Returns the polygons of a file, their coordinate system, and the values of a column ([] without one).

    Args:
      path: GeoPackage, GeoJSON, Shapefile or another format of GDAL.
      flag: that named it, for messages.
      column: name of a property of each polygon.
      key: the flag that named it, and what the property holds, for messages.

    Raises:
      UserError: the file cannot be read, or holds no polygon, no coordinate system, or no such property.
    """
    import pyogrio
    import shapely

    if not pathlib.Path(path).is_file():
        raise UserError(f"{flag}={path} is no file; give a file of polygons" + (
            ", or west,south,east,north in degrees" if flag == "--aoi" else ""))
    try:
        facts, _, geometry, fields = pyogrio.raw.read(path, columns=[column] if column else [])
    except Exception as error:  # pyogrio raises many types
        raise UserError(f"{flag}={path} cannot be read ({one_line(error, 160)}); give a GeoPackage, a GeoJSON or a "
                        "Shapefile") from error
    if column and not len(fields):
        known = ", ".join(pyogrio.read_info(path)["fields"]) or "none"
        raise UserError(f"{flag}={path} has no property '{column}', it has {known}; name the one {key}")
    every = shapely.from_wkb(geometry)
    kept = [number for number, shape in enumerate(every) if shape is not None
            and shape.geom_type in ("Polygon", "MultiPolygon") and not shape.is_empty]
    polygons = [every[number] for number in kept]
    if not polygons or not facts["crs"]:
        raise UserError(f"{flag}={path} has no {'coordinate system' if polygons else 'polygon'}; mend the file")
    return polygons, facts["crs"], [fields[0][number] for number in kept] if column else []


def _box(text: str) -> tuple[list[Any], str]:
    import shapely

    try:
        west, south, east, north = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--aoi={text} is no west,south,east,north in degrees; give four numbers or a file") from None
    east += 360 * (east < west)
    if not (-90 <= south < north <= 90 and -360 <= west < east <= 540):
        raise UserError(f"--aoi={text} is no area; expected west,south,east,north in degrees")
    return [shapely.box(west, south, east, north)], "EPSG:4326"


def _beside(points: np.ndarray, scene: Grid) -> np.ndarray:
    """Returns points with longitudes counted as those of the scene: 190 degrees may be -170."""
    if scene.crs.is_geographic:
        middle = scene.transform @ (scene.shape[1] / 2, scene.shape[0] / 2)
        points = points.copy()
        points[:, 0] += 360 * np.round((middle[0] - points[:, 0].mean()) / 360)
    return points
