"""The position of pixels on the Earth: grids, their extents, and points of one CRS in another."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery import gdal

_MARGIN = 4  # pixels around a window, so that interpolation finds its neighbours
_STRAIGHT = 0.5  # pixels that a ground control point may lie off a straight grid


@dataclasses.dataclass(frozen=True)
class Grid:
    """The position of an image's pixels on the Earth.

    Attributes:
      crs: rasterio CRS, None without georeference.
      transform: affine, (column, row) of a pixel's upper left corner -> (x, y) in `crs`.
      shape: (height, width) in pixels.
      note: what the file has in place of a georeference: 'it has 9 ground control points only, ...'.
    """

    crs: Any
    transform: Any
    shape: tuple[int, int]
    note: str = ""

    def matches(self, other: "Grid") -> bool:
        """Returns True for one CRS, one shape and corners less than a tenth of a pixel apart: no resampling needed."""
        if self.shape != other.shape or self.crs != other.crs:
            return False
        a, b = self.transform, other.transform
        apart = np.hypot(*(np.array(self._corners()) - np.array(other._corners())))
        return bool(apart.max() < 0.1 * min(math.hypot(a.a, a.d), math.hypot(b.a, b.d)))

    def fills(self, other: "Grid") -> bool:
        """Returns True if whole repeats of these pixels make those of `other`, a band of the same image and no coarser.

        True for one grid, or for one CRS and corners less than half a coarse pixel apart: 60 m pixels need not begin
        at a 10 m pixel. Without georeference only the shapes count.
        """
        if self.matches(other):
            return True
        if self.shape == other.shape or self.crs != other.crs or any(
                fine % coarse for fine, coarse in zip(other.shape, self.shape, strict=True)):
            return False
        apart = np.abs(np.array(self._corners()) - np.array(other._corners())).max()
        t = self.transform
        return self.crs is None or bool(apart < 0.5 * min(math.hypot(t.a, t.d), math.hypot(t.b, t.e)))

    def centre(self) -> tuple[float, float]:
        """Returns (latitude, longitude) in degrees (WGS 84) of the centre; NaN without georeference."""
        if self.crs is None:
            return math.nan, math.nan
        (longitude,), (latitude,) = to_crs(self.crs, "EPSG:4326", *self._points([0.5], [0.5]))
        return latitude, longitude

    def near(self, other: "Grid") -> "Grid":
        """Returns this grid with its longitudes counted so that it lies next to `other`: 290 degrees are -70."""
        turns = 0.0
        if self.crs is not None and other.crs is not None and self.crs.is_geographic:
            (there,), _ = to_crs(other.crs, self.crs, *other._points([0.5], [0.5]))
            turns = np.round((there - self._points([0.5], [0.5])[0][0]) / 360) if math.isfinite(there) else 0.0
        moved = type(self.transform).translation(360 * turns, 0) @ self.transform if turns else self.transform
        return dataclasses.replace(self, transform=moved)

    def extent(self) -> str:
        """Returns 'latitude 47.1 to 47.2, longitude 9.8 to 9.9', or the size in pixels without georeference."""
        note = f" ({self.note})" if self.note else ""
        if self.crs is None:
            return f"{self.shape[0]}x{self.shape[1]} pixels without georeference{note}"
        longitudes, latitudes = to_crs(self.crs, "EPSG:4326", *self._corners())
        return (f"latitude {min(latitudes):.4f} to {max(latitudes):.4f}, longitude {min(longitudes):.4f} to "
                f"{max(longitudes):.4f}{note}")

    def edge(self) -> tuple[list[float], list[float]]:
        """Returns x and y of points along the edge: straight lines are curves in another CRS."""
        steps = np.linspace(0, 1, 21)
        ends = np.zeros_like(steps), np.ones_like(steps)
        return self._points(np.concatenate([steps, steps, *ends]), np.concatenate([*ends, steps, steps]))

    def _corners(self) -> tuple[list[float], list[float]]:
        return self._points([0, 1, 0, 1], [0, 0, 1, 1])

    def _points(self, across, down) -> tuple[list[float], list[float]]:
        """Returns lists of x and y for fractions of width and height."""
        columns, rows, t = np.asarray(across) * self.shape[1], np.asarray(down) * self.shape[0], self.transform
        return (t.a * columns + t.b * rows + t.c).tolist(), (t.d * columns + t.e * rows + t.f).tolist()


def grid_of(file: Any) -> Grid:
    """Returns the grid of an open rasterio dataset.

    Ground control points count as a georeference if a straight grid fits them within half a pixel.
    """
    from affine import Affine

    shape, t = (file.height, file.width), file.transform
    points, of_points = file.gcps
    if file.crs is None and points:
        return _by_points(points, of_points, shape)
    if not all(map(math.isfinite, t[:6])) or t.a * t.e == t.b * t.d:
        return Grid(None, Affine.identity(), shape, "its geotransform gives the pixels no area")
    if file.crs is None and t.is_identity and file.rpcs is not None:
        return Grid(None, t, shape, "it has rational polynomial coefficients only; orthorectify it")
    if file.crs is None and not t.is_identity:
        return Grid(None, t, shape, "it has positions of pixels, but does not say in which coordinate system")
    return Grid(file.crs, t, shape)


def _by_points(points: Sequence[Any], crs: Any, shape: tuple[int, int]) -> Grid:
    from affine import Affine

    places = np.array([[point.col, point.row, 1] for point in points], float)
    earth = np.array([[point.x, point.y] for point in points], float)
    nowhere = f"it has {len(points)} ground control points only, "
    if crs is None or not np.isfinite(earth).all() or np.linalg.matrix_rank(places) < 3:
        return Grid(None, Affine.identity(), shape, nowhere + "which give no grid; correct its terrain or warp it")
    centre = earth.mean(axis=0)
    (a, d), (b, e), (c, f) = np.linalg.lstsq(places, earth - centre, rcond=None)[0].tolist()
    apart = np.hypot(*(places @ [[a, d], [b, e], [c, f]] - (earth - centre)).T).max()
    pixel = min(math.hypot(a, d), math.hypot(b, e))
    if not apart <= _STRAIGHT * pixel:
        off = f"{apart / pixel:.0f} pixels off" if pixel else "no area"
        return Grid(None, Affine.identity(), shape, nowhere + f"which no straight grid fits ({off}): radar geometry? "
                    "Correct its terrain or warp it")
    return Grid(crs, Affine(a, b, c + centre[0], d, e, f + centre[1]), shape,
                f"by its {len(points)} ground control points")


def window(grid: Grid, around: Grid, name: str) -> Any:
    """Returns the rasterio Window of the pixels of `grid` that cover `around`, and a few more.

    Raises:
      UserError: a grid has no georeference; they do not overlap (names both extents).
    """
    from rasterio.windows import Window

    if grid.crs is None or around.crs is None:
        raise UserError(f"'{name}': cannot align {grid.extent()} with {around.extent()}; write the georeference into "
                        "both files, or into none and give both the same size")
    xs, ys = np.array(to_crs(around.crs, grid.crs, *around.edge()))
    inverse = ~grid.transform
    if grid.crs.is_geographic:  # across the antimeridian they may be a turn away
        with np.errstate(invalid="ignore"):
            xs = xs + 360 * np.round((grid._points([0.5], [0.5])[0][0] - xs) / 360)
    with np.errstate(all="ignore"):  # points that do not exist in this CRS are infinite
        columns = inverse.a * xs + inverse.b * ys + inverse.c
        rows = inverse.d * xs + inverse.e * ys + inverse.f
    exist = np.isfinite(columns) & np.isfinite(rows)
    columns, rows = columns[exist], rows[exist]
    if not (exist.any() and columns.max() > 0 and columns.min() < grid.shape[1] and rows.max() > 0
            and rows.min() < grid.shape[0]):
        raise UserError(f"'{name}' covers {grid.extent()}, its partner {around.extent()}: they do not overlap; pair "
                        "images of one place")
    # A coarse image needs a margin of its own pixels, a fine one enough of them for the wide kernel.
    margin = _MARGIN * max(1, math.ceil(max(np.ptp(columns) / around.shape[1], np.ptp(rows) / around.shape[0])))
    left, top = max(0, math.floor(columns.min()) - margin), max(0, math.floor(rows.min()) - margin)
    right = min(grid.shape[1], math.ceil(columns.max()) + margin)
    bottom = min(grid.shape[0], math.ceil(rows.max()) + margin)
    return Window(left, top, right - left, bottom - top)


def to_crs(crs: Any, target: Any, xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """Transforms points; infinity for points that `target` cannot represent.

    Raises:
      UserError: PROJ does not know a CRS.
    """
    rasterio = gdal.load()
    from rasterio._err import CPLE_BaseError  # GDAL's error if it can transform none of them

    with gdal.told(f"coordinates in {crs}", "write the files in a coordinate system that PROJ knows"):
        try:
            return rasterio.warp.transform(crs, target, xs, ys)
        except CPLE_BaseError as error:
            if "proj.db" in str(error):
                raise
            return [math.inf] * len(xs), [math.inf] * len(ys)
