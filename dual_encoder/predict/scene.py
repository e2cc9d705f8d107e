"""A scene: an image of any size on one grid, of which windows are read and the whole never is.

The pixels go through `geotiff_images`, as those of the importer `geotiff` do, by the same geotiff.json.
"""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery import gdal, geotiff_images, raster
from dual_encoder.imagery.geotiff_json import NAME, Images
from dual_encoder.imagery.grid import Grid, grid_of
from dual_encoder.imagery.plausibility import RULES, judge, sample
from dual_encoder.imagery.sensors import SensorSpec

_PAD = 2  # pixels around a window: an area of 0 dB is recognised by its neighbours
_PIECE = 256  # rows and columns of the pieces that are tried one by one if a window cannot be read
_PLACES, _PLACE = 4, 128  # 4 x 4 places of 128 x 128 pixels are looked at before a map is begun
_STRANGE = 0.01  # share of values that the unit cannot have: more, and the unit is wrong
_RASTERS = (".tif", ".tiff", ".jp2")
_TIME = re.compile(r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)T(\d\d)-?:?(\d\d)-?:?(\d\d)(?!\d)")


@dataclasses.dataclass
class Faults:
    """Pixels of a scene that became no-data, although the file does not say so.

    Attributes:
      lost: 'file, rows a to b, columns c to d' -> why these pixels cannot be read.
      strange: pixels with values that the unit cannot have, counted once for each window that holds them.
    """

    lost: dict[str, str] = dataclasses.field(default_factory=dict)
    strange: int = 0


class Scene:
    """The image of one sensor at one date. One thread at a time may read.

    Args:
      path: one file, a path with {band}, or a folder with a file for each band.
      images: what geotiff.json says about it.
      spec: the sensor of the model, which must be that of `images`.
      strict: a part that cannot be read, or holds impossible values, is an error.

    Attributes:
      name: of the file or folder.
      grid: position of the pixels, those of the finest band.
      spec: the sensor; its `no_data` fills pixels outside the scene.
      time: '2020-06-07T18:01:00Z', from the name; '' if it says none.
      faults: of all windows so far.

    Raises:
      UserError: a file is missing or damaged, has no coordinate system, or contradicts geotiff.json.
    """

    def __init__(self, path: str, images: Images, spec: SensorSpec, strict: bool = False):
        self.name, self.spec, self.faults, self._strict = pathlib.Path(path).name, spec, Faults(), strict
        self._images, self._path, self._offset = images, path, _offset(images)
        self._files: dict[str, tuple[pathlib.Path, list[Any], Grid]] = {}
        with contextlib.ExitStack() as stack:
            for band, file in band_files(path, images).items():
                datasets = stack.enter_context(raster.opened(file, str(file)))
                self._files[band] = file, datasets, grid_of(datasets[0])
            self.grid = max((grid for _, _, grid in self._files.values()), key=lambda grid: grid.shape)
            if self.grid.crs is None:
                raise UserError(f"'{path}' is {self.grid.extent()}; a map needs to know where its pixels lie: write "
                                "the coordinate system and the geotransform into the file")
            self._first = {band: self._sample(band) for band in self._files}
            self._open = stack.pop_all()
        self.time = next((_time_of(file.name) for file, _, _ in self._files.values() if _time_of(file.name)),
                         _time_of(self.name))

    @property
    def scene(self) -> "Scene":
        """The scene itself; of a scene on another grid (`OnGrid`), the one that is resampled."""
        return self

    @property
    def files(self) -> list[pathlib.Path]:
        """The files, in the order of the bands."""
        return [path for path, _, _ in self._files.values()]

    @property
    def facts(self) -> list[Any]:
        """JSON values that change if another answer can be expected: the files, and what geotiff.json says of them."""
        stats = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        return [*map(list, stats), repr(self._images)]

    def close(self) -> None:
        """Closes the files."""
        self._open.close()

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Returns a window as stored integers, [height, width, bands] of `spec`; it may reach beyond the scene."""
        whole = np.full((height, width, len(self.spec.bands)), self.spec.no_data, self.spec.dtype)
        rows = slice(max(0, top - _PAD), min(self.grid.shape[0], top + height + _PAD))
        columns = slice(max(0, left - _PAD), min(self.grid.shape[1], left + width + _PAD))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return whole
        part = self._stored(rows, columns)
        a, b = max(top, rows.start), max(left, columns.start)
        c, d = min(top + height, rows.stop), min(left + width, columns.stop)
        whole[a - top:c - top, b - left:d - left] = part[a - rows.start:c - rows.start,
                                                         b - columns.start:d - columns.start]
        return whole

    def check(self) -> None:
        """Looks at some places of the scene.

        Raises:
          UserError: their values contradict the description, such as linear power that is called dB.
        """
        height, width = self.grid.shape
        size = min(_PLACE, height, width)
        places = [(round(row), round(column)) for row in np.linspace(0, height - size, _PLACES)
                  for column in np.linspace(0, width - size, _PLACES)]
        if self._images.feature == "s1":
            bands = [self._bands(slice(row, row + size), slice(column, column + size)) for row, column in places]
            values = [geotiff_images.radar(self._images, of_place, self._path, []) for of_place in bands]
            joined = np.stack(values)
            strange = geotiff_images.impossible(self._images, joined)
            if not self._strict and strange.mean() < _STRANGE:  # single pixels become no data when they are read
                joined = np.where(strange, np.nan, joined)
            geotiff_images.check_radar(self._images, joined, self._path)
        samples = np.stack([sample(self.read(row, column, size, size)) for row, column in places])
        removed = np.full(len(places), self._offset)
        for outcome in judge(samples, self.spec, removed):
            judged, broken = int(outcome.judged.sum()), int((outcome.broken & outcome.judged).sum())
            if RULES[outcome.rule].stops and outcome.rule != "one_value" and 2 * broken > judged:
                first = int(np.flatnonzero(outcome.broken)[0])
                raise UserError(f"'{self._path}' is not what {NAME} says, at {broken} of {judged} places: "
                                f"{outcome.seen(first)}; {RULES[outcome.rule].advice}")

    def _stored(self, rows: slice, columns: slice) -> np.ndarray:
        bands = self._bands(rows, columns)
        if self._images.feature == "s2":
            return geotiff_images.optical(self._images, bands, _cut(self.grid, rows, columns), self._path, self._offset)
        values = geotiff_images.radar(self._images, bands, self._path, [])
        strange = geotiff_images.impossible(self._images, values).any(axis=0)
        if strange.any():
            if self._strict:
                geotiff_images.check_radar(self._images, values, self._path)
            self.faults.strange += int(strange.sum())
            values = np.where(strange, np.nan, values)
        return geotiff_images.stored_radar(values, self._images.convention == "linear")

    def _bands(self, rows: slice, columns: slice) -> dict[str, raster.Raster]:
        """Reads a window of all bands, in the sensor's order; coarse bands are brought to the finest grid."""
        bands: dict[str, raster.Raster] = {}
        for band, (path, _, grid) in self._files.items():
            if grid.shape == self.grid.shape:
                loaded = self._part(band, rows, columns)
            else:
                loaded = self._finer(band, grid, rows, columns)
            bands |= geotiff_images.bands_of(self._images, band, loaded, path, self._offset, [])
        return bands

    def _finer(self, band: str, grid: Grid, rows: slice, columns: slice) -> raster.Raster:
        """Reads a window of a coarse band, on the finest grid."""
        if not grid.fills(self.grid):
            raise UserError(f"'{self._files[band][0]}' is {grid.shape[0]}x{grid.shape[1]} pixels at {grid.extent()}, "
                            f"which do not fill the {self.grid.shape[0]}x{self.grid.shape[1]} of the finest band; "
                            "expected all bands of one image")
        down, across = (fine // coarse for fine, coarse in zip(self.grid.shape, grid.shape, strict=True))
        coarse = self._part(band, slice(rows.start // down, -(-rows.stop // down)),
                            slice(columns.start // across, -(-columns.stop // across)))

        def finer(values: np.ndarray) -> np.ndarray:
            repeated = values.repeat(down, axis=-2).repeat(across, axis=-1)
            first_row, first_column = rows.start % down, columns.start % across
            return repeated[..., first_row:first_row + rows.stop - rows.start,
                            first_column:first_column + columns.stop - columns.start]

        return dataclasses.replace(coarse, values=finer(coarse.values), grid=_cut(self.grid, rows, columns),
                                   valid=None if coarse.valid is None else finer(coarse.valid))

    def _part(self, band: str, rows: slice, columns: slice) -> raster.Raster:
        """Reads a window of a file. If a part of it is damaged, those pieces have no data."""
        try:
            return self._read(band, rows, columns)
        except UserError:
            if self._strict:
                raise
        path, _, grid = self._files[band]
        shape = len(self._first[band].values), rows.stop - rows.start, columns.stop - columns.start
        values, valid = np.zeros(shape, self._first[band].values.dtype), np.zeros(shape, bool)
        for down, across in _pieces(rows, columns):
            here = (slice(None), slice(down.start - rows.start, down.stop - rows.start),
                    slice(across.start - columns.start, across.stop - columns.start))
            try:
                piece = self._read(band, down, across)
            except UserError as error:
                block = (down.start // _PIECE * _PIECE, across.start // _PIECE * _PIECE)
                last = [min(start + _PIECE, size) - 1 for start, size in zip(block, grid.shape, strict=True)]
                where = f"'{path}', rows {block[0]} to {last[0]}, columns {block[1]} to {last[1]}"
                self.faults.lost.setdefault(where, one_line(error, 120))
                continue
            values[here], valid[here] = piece.values, True if piece.valid is None else piece.valid
        return dataclasses.replace(self._first[band], values=values, valid=valid, grid=_cut(grid, rows, columns))

    def _read(self, band: str, rows: slice, columns: slice) -> raster.Raster:
        from rasterio.windows import Window

        path, files, grid = self._files[band]
        part = Window.from_slices(rows, columns)
        count = 1 if band else len(self._images.names)
        with gdal.told(str(path), "it looks damaged, fetch it again; without --strict such pixels become no data"):
            return raster.part_of(files, _cut(grid, rows, columns), part, count, str(path))

    def _sample(self, band: str) -> raster.Raster:
        """Reads the first pixel that can be read, for all facts that do not change from window to window."""
        path, _, grid = self._files[band]
        error: UserError | None = None
        for row in dict.fromkeys(np.linspace(0, grid.shape[0] - 1, 9).astype(int).tolist()):
            try:
                return self._read(band, slice(row, row + 1), slice(grid.shape[1] // 2, grid.shape[1] // 2 + 1))
            except UserError as fault:
                error = fault
        raise UserError(f"nothing of '{path}' can be read: {error}")


class OnGrid:
    """A scene that is resampled to another grid, window by window.

    Args:
      scene: reflectance is resampled as it is, backscatter as linear power; both bilinear.
      grid: of the result.

    Raises:
      UserError: they do not overlap.
    """

    def __init__(self, scene: Scene, grid: Grid):
        self.scene, self.spec, self.grid = scene, scene.spec, grid
        self._own = scene.grid.near(grid)
        raster.window(self._own, grid, scene.name)

    def read(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Returns a window of the grid as stored integers; see `Scene.read`."""
        onto = _cut(self.grid, slice(top, top + height), slice(left, left + width))
        empty = np.full((height, width, len(self.spec.bands)), self.spec.no_data, self.spec.dtype)
        try:
            part = raster.window(self._own, onto, self.scene.name)
        except UserError:  # this window lies outside
            return empty
        rows, columns = (slice(int(start), int(start + length)) for start, length in (
            (part.row_off, part.height), (part.col_off, part.width)))
        stored = self.scene.read(rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        shown = self.spec.holds_data(stored)
        if not shown.any():
            return empty
        values = np.where(shown, np.moveaxis(stored, -1, 0), np.nan).astype(np.float32)
        own = _cut(self._own, rows, columns)
        if self.spec.modality == "sar":
            power = geotiff_images.radar_on(values * np.float32(self.spec.scale), False, own, onto, self.scene.name)
            return geotiff_images.stored_radar(power, linear=True)
        moved = np.moveaxis(raster.resample(values, own, onto, np.nan, name=self.scene.name), 0, -1)
        limits = np.iinfo(np.dtype(self.spec.dtype))
        shown = np.isfinite(moved).all(axis=-1, keepdims=True)
        return np.where(shown, np.clip(np.rint(np.where(shown, moved, 0)), limits.min, limits.max), empty).astype(
            self.spec.dtype)


def band_files(path: str, images: Images) -> dict[str, pathlib.Path]:
    """Returns band -> file of a scene, or {'': file} for one file with all bands.

    In a folder, the file of a band is the one whose name holds the band's text, as `bands` of geotiff.json has it.

    Raises:
      UserError: there is nothing, no file for a band, or several.
    """
    place = pathlib.Path(path)
    if "{" in path:
        return {band: pathlib.Path(file) for band, file in images.paths(path).items()}
    if not place.is_dir():
        if not place.exists():
            raise UserError(f"there is no scene '{path}'; give a file, a path with {{band}}, or a folder with a file "
                            "for each band")
        return {"": place}
    files = sorted(file for file in place.rglob("*") if file.suffix.lower() in _RASTERS)
    found: dict[str, pathlib.Path] = {}
    for band in images.spec.bands:
        token = images.tokens[band]
        of_band = [file for file in files
                   if re.search(rf"(?<![A-Za-z0-9]){re.escape(token)}(?![A-Za-z0-9])", file.stem)]
        if len(of_band) > 1:
            raise UserError(f"'{path}' has {len(of_band)} files for band {band}, '{of_band[0].name}' and "
                            f"'{of_band[1].name}'; say which by {images.feature}.bands of {NAME}, such as "
                            f'{{"{band}": "{of_band[0].stem[-12:]}"}}')
        if of_band:
            found[band] = of_band[0]
    if not found and len(files) == 1:
        return {"": files[0]}
    if missing := [band for band in images.spec.bands if band not in found]:
        raise UserError(f"'{path}' has no file for band {' '.join(missing)} ({len(files)} rasters); expected "
                        f"'{images.tokens[missing[0]]}' in a name, or mend {images.feature}.bands of {NAME}")
    return found


def holds_data(images: Mapping[str, np.ndarray], specs: Mapping[str, SensorSpec]) -> np.ndarray:
    """Returns bool [height, width], True for pixels with data in all images [height, width, bands]."""
    return np.logical_and.reduce([spec.holds_data(images[name]) for name, spec in specs.items()])


def _pieces(rows: slice, columns: slice) -> Iterator[tuple[slice, slice]]:
    """Yields the parts of a window in the squares of `_PIECE` pixels of the whole file."""
    for row in range(rows.start // _PIECE * _PIECE, rows.stop, _PIECE):
        for column in range(columns.start // _PIECE * _PIECE, columns.stop, _PIECE):
            yield (slice(max(row, rows.start), min(row + _PIECE, rows.stop)),
                   slice(max(column, columns.start), min(column + _PIECE, columns.stop)))


def _cut(grid: Grid, rows: slice, columns: slice) -> Grid:
    moved = grid.transform @ type(grid.transform).translation(columns.start, rows.start)
    return Grid(grid.crs, moved, (rows.stop - rows.start, columns.stop - columns.start))


def _offset(images: Images) -> int:
    if images.feature == "s1":
        return 0
    if not isinstance(images.convention, int):
        raise UserError(f"s2.offset of {NAME} is '{images.convention}', a scene has no table; write the offset of this "
                        "scene, 0 or 1000")
    return images.convention


def _time_of(name: str) -> str:
    match = _TIME.search(name)
    return "{}-{}-{}T{}:{}:{}Z".format(*match.groups()) if match else ""
