"""GeoTIFFs from files and from memory: their pixels, their grid, and resampling from one grid to another."""

import contextlib
import dataclasses
import math
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from dual_encoder.errors import UserError

_MARGIN = 4  # pixels around a window, so that interpolation finds its neighbours


@dataclasses.dataclass(frozen=True)
class Grid:
    """The position of an image's pixels on the Earth.

    Attributes:
      crs: rasterio CRS, None without georeference.
      transform: affine, (column, row) of a pixel's upper left corner -> (x, y) in `crs`.
      shape: (height, width) in pixels.
    """

    crs: Any
    transform: Any
    shape: tuple[int, int]

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
        (longitude,), (latitude,) = _to_crs(self.crs, "EPSG:4326", *self._points([0.5], [0.5]))
        return latitude, longitude

    def near(self, other: "Grid") -> "Grid":
        """Returns this grid with its longitudes counted so that it lies next to `other`: 290 degrees are -70."""
        turns = 0.0
        if self.crs is not None and other.crs is not None and self.crs.is_geographic:
            (there,), _ = _to_crs(other.crs, self.crs, *other._points([0.5], [0.5]))
            turns = np.round((there - self._points([0.5], [0.5])[0][0]) / 360) if math.isfinite(there) else 0.0
        moved = type(self.transform).translation(360 * turns, 0) @ self.transform if turns else self.transform
        return dataclasses.replace(self, transform=moved)

    def extent(self) -> str:
        """Returns 'latitude 47.1 to 47.2, longitude 9.8 to 9.9', or the size in pixels without georeference."""
        if self.crs is None:
            return f"{self.shape[0]}x{self.shape[1]} pixels without georeference"
        longitudes, latitudes = _to_crs(self.crs, "EPSG:4326", *self._corners())
        return (f"latitude {min(latitudes):.4f} to {max(latitudes):.4f}, longitude {min(longitudes):.4f} to "
                f"{max(longitudes):.4f}")

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


@dataclasses.dataclass(frozen=True)
class Raster:
    """An image with its grid.

    Attributes:
      values: [bands, height, width] in the file's dtype.
      grid: position of the pixels.
      names: the bands' descriptions, '' for a band without one.
      no_data: the file's no-data value or None.
    """

    values: np.ndarray
    grid: Grid
    names: tuple[str, ...]
    no_data: float | None

    def band(self, number: int) -> "Raster":
        """Returns one of the bands, counted from 0, as an image."""
        return Raster(self.values[number:number + 1], self.grid, self.names[number:number + 1], self.no_data)


def load(source: pathlib.Path | bytes, name: str = "", around: Grid | None = None) -> Raster:
    """Reads an image.

    Args:
      source: a file, or the bytes of one.
      name: its name in errors; '' = the path.
      around: read only the part that covers this grid and a few pixels more; both need a georeference.

    Raises:
      UserError: missing, truncated or unreadable; it and `around` do not overlap (names both extents).
    """
    with _opened(source, name or str(source)) as file:
        grid = Grid(file.crs, file.transform, (file.height, file.width))
        grid = grid if around is None else grid.near(around)
        window = None if around is None else _window(grid, around, name or str(source))
        if window is not None:
            moved = grid.transform @ grid.transform.translation(window.col_off, window.row_off)
            grid = Grid(file.crs, moved, (window.height, window.width))
        return Raster(file.read(window=window), grid, tuple(text or "" for text in file.descriptions), file.nodata)


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
    with _opened(path, str(path)) as file:
        array = file.read()  # without the grid, which takes as long
    if len(array) != bands:
        raise UserError(f"'{path}' has {len(array)} bands, {bands} expected; is it the file of another product?")
    return array


def centre(path: pathlib.Path) -> tuple[float, float]:
    """Returns (latitude, longitude) in degrees (WGS 84) of the image's centre; NaN without georeference."""
    with _opened(path, str(path)) as file:
        return Grid(file.crs, file.transform, (file.height, file.width)).centre()


def listed_centre(path: pathlib.Path) -> tuple[float, float]:
    """Like `centre`, by the header alone, for listings: NaN also for a file that cannot be read."""
    try:
        place = centre(path)
    except UserError:  # reading reports it
        return math.nan, math.nan
    return place if all(map(math.isfinite, place)) else (math.nan, math.nan)


def resample(values: np.ndarray, grid: Grid, onto: Grid, no_data: float, method: str = "bilinear",
             name: str = "image") -> np.ndarray:
    """Resamples an image to another grid.

    Args:
      values: [bands, height, width]; backscatter as linear power, because the mean of decibels is not the mean.
      grid, onto: position of its pixels, and of those of the result.
      no_data: the value (NaN for floats) of pixels that have no weight in the result; also of pixels of `onto` whose
        nearest pixel has it or that lie outside the image. Each band is resampled on its own.
      method: 'bilinear', which widens its kernel if the new pixels are larger; 'nearest' for classes.
      name: the image's name in errors.

    Returns:
      [bands, height, width] of `onto`, dtype of `values`.

    Raises:
      UserError: a grid has no georeference; they do not overlap (names both extents).
    """
    import rasterio.warp

    _window(grid, onto, name)  # raises
    result = np.full((len(values), *onto.shape), no_data, values.dtype)
    for band, target in zip(values, result, strict=True):
        # One by one: with several bands, a pixel without data in only one of them would still have weight there.
        rasterio.warp.reproject(
            band, target, src_transform=grid.transform, src_crs=grid.crs, src_nodata=no_data,
            dst_transform=onto.transform, dst_crs=onto.crs, dst_nodata=no_data,
            resampling=rasterio.warp.Resampling[method])
    return result


@contextlib.contextmanager
def _opened(source: pathlib.Path | bytes, name: str) -> Iterator[Any]:
    """Opens an image; an error while it is open becomes a UserError."""
    import rasterio  # here, because commands that read no GeoTIFF should not load GDAL

    if isinstance(source, pathlib.Path) and not source.is_file():
        raise UserError(f"'{name}' is missing; restore it or take its entry out of the raw data")
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # callers handle it
        try:
            if isinstance(source, bytes):
                source = stack.enter_context(rasterio.MemoryFile(source)).name
            yield stack.enter_context(rasterio.open(source, driver="GTiff"))  # to try all drivers takes as long
        except rasterio.errors.RasterioError as error:
            raise UserError(f"'{name}' cannot be read as GeoTIFF ({str(error)[:120]}); it looks truncated, fetch it "
                            "again") from error


def _window(grid: Grid, around: Grid, name: str) -> Any:
    """The rasterio Window of `grid` that covers `around`."""
    from rasterio.windows import Window

    if grid.crs is None or around.crs is None:
        raise UserError(f"'{name}': cannot align {grid.extent()} with {around.extent()}; write the georeference into "
                        "both files or give both the same size")
    xs, ys = np.array(_to_crs(around.crs, grid.crs, *around.edge()))
    exist = np.isfinite(xs) & np.isfinite(ys)
    xs, ys, inverse = xs[exist], ys[exist], ~grid.transform
    if grid.crs.is_geographic:  # across the antimeridian they may be a turn away
        xs = xs + 360 * np.round((grid._points([0.5], [0.5])[0][0] - xs) / 360)
    columns = inverse.a * xs + inverse.b * ys + inverse.c
    rows = inverse.d * xs + inverse.e * ys + inverse.f
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


def _to_crs(crs: Any, target: Any, xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    """Transforms points; infinity for points that `target` cannot represent."""
    import rasterio.warp
    from rasterio._err import CPLE_BaseError  # GDAL's error if it can transform none of them

    try:
        return rasterio.warp.transform(crs, target, xs, ys)
    except CPLE_BaseError:
        return [math.inf] * len(xs), [math.inf] * len(ys)
