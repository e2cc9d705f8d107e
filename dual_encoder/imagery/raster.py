"""Rasters from files and from memory: pixels, their validity and grid, and resampling from one grid to another.

GeoTIFF, JPEG 2000 and PNG are read, whatever the name of the file is. A pixel is valid if the file does not say
otherwise: by a mask (inside the file or beside it, '.msk'), an alpha band or one called 'dataMask', or a no-data value
of its band. The last one is a value of the pixel, so it is left in `Raster.no_data` for callers who know better.
"""

import contextlib
import dataclasses
import io
import math
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery import file_kinds, gdal, tiff_header
from dual_encoder.imagery.grid import Grid as Grid
from dual_encoder.imagery.grid import grid_of, window
from dual_encoder.imagery.radiometry import upsample_native

MOST_VALUES = 2**27  # of one image: 12 bands of 3,344 x 3,344 pixels; a header can promise any number
_DRIVERS = {file_kinds.TIFF: "GTiff", file_kinds.JPEG_2000: "JP2OpenJPEG", file_kinds.PNG: "PNG"}
_MOST_FACTS = 2**24  # bytes of a file '.aux.xml'
_HINT = "it looks truncated or damaged, fetch it again"
_NAME_TAGS = re.compile(r"name|band|channel|layer|description|polari[sz]ation", re.I)
_VALIDITY = re.compile(r"data[ _-]?mask|valid(ity)?([ _-]?mask)?", re.I)  # 'dataMask' of Sentinel Hub


@dataclasses.dataclass(frozen=True)
class Said:
    """The statements of a file about its bands, as GDAL gives them; one item per band.

    Attributes:
      texts: descriptions and tags that name the band, the description first.
      units: '' = not said.
      scales, offsets: value = stored x scale + offset; 1 and 0 if not said.
      colours: 'red', 'green', ...; '' = not said.
      tags: of the whole file.
    """

    texts: tuple[tuple[str, ...], ...]
    units: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    colours: tuple[str, ...]
    tags: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Raster:
    """An image with its grid.

    Attributes:
      values: [bands, height, width] in the file's dtype; without an alpha band.
      grid: position of the pixels.
      names: the bands' descriptions, '' for a band without one.
      no_data: the file's no-data value of each band, or None.
      valid: bool [bands, height, width], False for pixels without data by a mask or an alpha band; None = all True.
      said: all that the file says about its bands.
    """

    values: np.ndarray
    grid: Grid
    names: tuple[str, ...]
    no_data: tuple[float | None, ...]
    valid: np.ndarray | None
    said: Said

    def band(self, number: int) -> "Raster":
        """Returns one of the bands, counted from 0, as an image."""
        one, said = slice(number, number + 1), self.said
        return Raster(self.values[one], self.grid, self.names[one], self.no_data[one],
                      None if self.valid is None else self.valid[one],
                      Said(said.texts[one], said.units[one], said.scales[one], said.offsets[one], said.colours[one],
                           said.tags))

    def filled(self, missing: float) -> np.ndarray:
        """Returns the values with `missing` in place of pixels that are invalid by a mask or an alpha band."""
        return self.values if self.valid is None else np.where(self.valid, self.values, self.values.dtype.type(missing))

    def holds_data(self, no_data: float | None = None) -> np.ndarray:
        """Returns bool [bands, height, width], True for a pixel of a band that holds data.

        Args:
          no_data: a value of pixels without data, in place of the file's own; NaN also names NaN, which is never data.
        """
        result = np.isfinite(self.values) if self.values.dtype.kind in "fc" else np.ones(self.values.shape, bool)
        if self.valid is not None:
            result &= self.valid
        for band, values, own in zip(result, self.values, self.no_data, strict=True):
            value = own if no_data is None else no_data
            if value is not None:
                with np.errstate(over="ignore"):  # beyond the dtype: no value is equal
                    band &= values != (values.dtype.type(value) if values.dtype.kind == "f" else value)
        return result


def load(source: pathlib.Path | bytes, name: str = "", around: Grid | None = None, bands: int = 0,
         by_pixel: bool = False) -> Raster:
    """Reads an image.

    Args:
      source: a file, or the bytes of one.
      name: its name in errors; '' = the path.
      around: read only the part that covers this grid and a few pixels more; both need a georeference.
      bands: so many bands are the image, also if the last one is called alpha; 0 = all but alpha.
      by_pixel: an image without georeference that has the shape of `around` lies on it pixel by pixel.

    Raises:
      UserError: missing, damaged, too large, no raster; it and `around` do not overlap (names both extents).
    """
    name = name or str(source)
    with opened(source, name) as files:
        grid, part = grid_of(files[0]), None
        if grid.crs is None and len(files) > 1:
            grid = dataclasses.replace(grid, note=f"its {len(files)} pages have none")
        grid = grid if around is None else grid.near(around)
        here = by_pixel and grid.crs is None and not grid.note
        if around is not None and not (here and grid.shape == around.shape):
            part = window(grid, around, name)
            moved = grid.transform @ grid.transform.translation(part.col_off, part.row_off)
            grid = Grid(grid.crs, moved, (part.height, part.width))
        return part_of(files, grid, part, bands, name)


def part_of(files: Sequence[Any], grid: Grid, part: Any, bands: int, name: str) -> Raster:
    """Reads a part of an open image, with what the file says about it.

    Args:
      files: datasets, as `opened` returns them.
      grid: position of the pixels of the part.
      part: rasterio Window; None = the whole image.
      bands, name: as of `load`.
    """
    chosen = [_bands(file, bands) for file in files]
    _check_size(sum(map(len, chosen)), *grid.shape, name)
    values = [file.read(of_file, window=part) for file, of_file in zip(files, chosen, strict=True)]
    valid = [_valid(file, of_file, part) for file, of_file in zip(files, chosen, strict=True)]
    numbers = [(file, number) for file, of_file in zip(files, chosen, strict=True) for number in of_file]
    return Raster(
        values[0] if len(values) == 1 else np.concatenate(values), grid,
        tuple(_description(file, number) for file, number in numbers),
        tuple(file.nodatavals[number - 1] for file, number in numbers), _joined(valid, values),
        _said(files[0], numbers, pages=len(files) > 1))


def read(path: pathlib.Path, bands: int, missing: float | None = None) -> np.ndarray:
    """Reads all bands of a raster of a published data set, whose no-data values are known.

    Args:
      path: the file.
      bands: how many bands it must hold, apart from alpha.
      missing: the value of all bands of a pixel that is invalid by a mask or an alpha band.

    Returns:
      [bands, height, width] in the file's dtype.

    Raises:
      UserError: the file is missing, damaged or no raster, or has another number of bands.
    """
    values, valid = _read(path, bands)
    if valid is not None and missing is not None:
        values = values.astype(np.result_type(values.dtype, np.min_scalar_type(missing)), copy=False)  # it must fit
        values[:, ~valid.all(axis=0)] = missing
    return values


def read_bands(paths: Mapping[str, pathlib.Path], size: int, missing: float) -> dict[str, np.ndarray]:
    """Reads the bands of one image from files of one band each, like `read`.

    Args:
      paths: band -> file.
      size: height and width in pixels of the finest band.
      missing: the value of a pixel that is invalid in any of the bands, in all of them.

    Returns:
      band -> [height, width]: at its own resolution, or at `size` if any file holds a mask.
    """
    found = {band: _read(path, 1) for band, path in paths.items()}
    hidden = [upsample_native(~valid[0], size) for _, valid in found.values() if valid is not None]
    if not hidden:
        return {band: values[0] for band, (values, _) in found.items()}
    kind = np.result_type(np.min_scalar_type(missing), *(values.dtype for values, _ in found.values()))
    result = {band: upsample_native(values[0], size).astype(kind) for band, (values, _) in found.items()}
    for values in result.values():
        values[np.any(hidden, axis=0)] = missing
    return result


def centre(path: pathlib.Path) -> tuple[float, float]:
    """Returns (latitude, longitude) in degrees (WGS 84) of the image's centre; NaN without georeference."""
    with opened(path, str(path)) as files:
        return grid_of(files[0]).centre()


def listed_centre(path: pathlib.Path) -> tuple[float, float]:
    """Like `centre`, by the header alone, for listings: NaN also for a file that cannot be read."""
    try:
        place = centre(path)
    except UserError:  # reading reports it
        return math.nan, math.nan
    return place if all(map(math.isfinite, place)) else (math.nan, math.nan)


def bring_to(band: np.ndarray, grid: Grid, onto: Grid) -> np.ndarray | None:
    """Brings a band to the finer pixels of another band of its image, by the nearest pixel.

    Args:
      band: [height, width], any dtype.
      grid, onto: position of its pixels, and of those of the result. If its size divides that of the result, whole
        pixels are repeated. Else the georeference decides: 11 pixels of 60 m cover 64 of 10 m.

    Returns:
      [height, width] of `onto`; None if the two are not one image: another CRS, or more than half a coarse pixel of
      `onto` outside the band.
    """
    if grid.fills(onto):
        down, across = (fine // coarse for fine, coarse in zip(onto.shape, grid.shape, strict=True))
        return band if down == across == 1 else band.repeat(down, axis=0).repeat(across, axis=1)
    if grid.crs is None or grid.crs != onto.crs or not all(np.less(grid.shape, onto.shape)):
        return None
    t = ~grid.transform @ onto.transform
    columns, rows = np.arange(onto.shape[1]) + 0.5, np.arange(onto.shape[0])[:, None] + 0.5
    places = t.d * columns + t.e * rows + t.f, t.a * columns + t.b * rows + t.c
    if any(place.min() < -0.5 or place.max() > length + 0.5 for place, length in zip(places, grid.shape, strict=True)):
        return None
    down, across = (np.clip(np.floor(place), 0, length - 1).astype(int)
                    for place, length in zip(places, grid.shape, strict=True))
    return band[down, across]


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
    rasterio = gdal.load()
    window(grid, onto, name)  # raises
    result = np.full((len(values), *onto.shape), no_data, values.dtype)
    with gdal.told(name, "GDAL cannot bring it onto the grid of its partner"):
        for band, target in zip(values, result, strict=True):
            # One by one: with several bands, a pixel without data in only one of them would still have weight there.
            rasterio.warp.reproject(
                band, target, src_transform=grid.transform, src_crs=grid.crs, src_nodata=no_data,
                dst_transform=onto.transform, dst_crs=onto.crs, dst_nodata=no_data,
                resampling=rasterio.warp.Resampling[method])
    return result


@contextlib.contextmanager
def opened(source: pathlib.Path | bytes, name: str) -> Iterator[list[Any]]:
    """Opens an image as rasterio datasets: one, or one for each page of a TIFF with one band a page.

    Args:
      source: a file, or the bytes of one.
      name: its name in errors.

    Raises:
      UserError: missing, damaged, no raster; also for an error of rasterio while it is open.
    """
    rasterio = gdal.load()
    if isinstance(source, pathlib.Path) and not source.is_file():
        raise UserError(f"'{name}' is missing; restore it or take its entry out of the raw data")
    kind = _kind(source, name)
    if isinstance(source, pathlib.Path):
        _check_beside(source)
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)  # callers handle it
        stack.enter_context(gdal.told(name, _HINT, kind))
        place = source if isinstance(source, pathlib.Path) else stack.enter_context(rasterio.MemoryFile(source)).name
        first = stack.enter_context(rasterio.open(place, driver=_DRIVERS[kind]))  # to try all drivers takes as long
        files = [first]
        if first.count == 1 and kind == file_kinds.TIFF and len(first.subdatasets) > 1:
            # 'GTIFF_DIR:12:path', listed in the order of the text: 1, 10, 11, 12, 2, ...
            pages = sorted(first.subdatasets, key=lambda page: int(page.split(":")[1]))
            files = [stack.enter_context(rasterio.open(page, driver="GTiff")) for page in pages]
            if len({file.shape for file in files}) > 1:
                sizes = ", ".join(f"{file.height}x{file.width}" for file in files[:4])
                raise UserError(f"'{name}' has {len(files)} pages of different sizes ({sizes} ...); expected one page, "
                                "or one page for each band")
        yield files


def _kind(source: pathlib.Path | bytes, name: str) -> str:
    """Returns the kind of a file by its first bytes.

    Raises:
      UserError: no raster that is read (names the kind), or a TIFF without the end of its header.
    """
    with contextlib.ExitStack() as stack:
        try:
            file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
        except OSError as error:
            raise UserError(f"'{name}' cannot be read ({error.strerror}); mend its permissions") from error
        stack.enter_context(file)
        head = file.read(file_kinds.HEAD)
        kind = file_kinds.kind_of(head)
        if kind not in _DRIVERS:
            raise UserError(f"'{name}' is {kind or f'no raster (its first bytes are {head[:8]!r})'}; expected a "
                            "GeoTIFF, a JPEG 2000 or a PNG: fetch it again or convert it")
        size = file.seek(0, io.SEEK_END)
        if kind == file_kinds.TIFF and (lost := tiff_header.cut_off(file, size)):
            raise UserError(f"'{name}' cannot be read as GeoTIFF (it has {size} bytes and lacks {lost}); {_HINT}")
    return kind


def _check_beside(path: pathlib.Path) -> None:
    """Raises UserError if a file beside an image, with its mask or no-data value, is damaged: GDAL would skip it."""
    mask, facts = f"{path}.msk", f"{path}.aux.xml"
    if os.path.exists(mask) and _kind(pathlib.Path(mask), mask) != file_kinds.TIFF:
        raise UserError(f"'{mask}', the mask of the image beside it, is no TIFF; write or fetch it again")
    if os.path.exists(facts):
        with open(facts, "rb") as file:
            text = file.read(_MOST_FACTS).strip()
        if not text.endswith((b"</PAMDataset>", b"/>")):
            raise UserError(f"'{facts}', which may hold the no-data value of the image beside it, is cut off; write or "
                            "fetch it again, or remove it")


def _read(path: pathlib.Path, bands: int) -> tuple[np.ndarray, np.ndarray | None]:
    with opened(path, str(path)) as files:
        chosen = [_bands(file, bands) for file in files]
        if (count := sum(map(len, chosen))) != bands:
            raise UserError(f"'{path}' has {count} bands, {bands} expected; is it the file of another product?")
        _check_size(bands, files[0].height, files[0].width, str(path))
        values = [file.read(of_file) for file, of_file in zip(files, chosen, strict=True)]  # not the grid: as long
        valid = [_valid(file, of_file, None) for file, of_file in zip(files, chosen, strict=True)]
        return values[0] if len(values) == 1 else np.concatenate(values), _joined(valid, values)


def is_validity(name: str) -> bool:
    """Returns True for the name of a band that says where the others hold data: 'dataMask', 0 = no data."""
    return bool(_VALIDITY.fullmatch(name.strip()))


def _bands(file: Any, wanted: int) -> list[int]:
    """Returns the numbers of the bands that are no alpha band and no other mask, or of all if so many are wanted."""
    numbers = list(range(1, file.count + 1))
    if file.count in (wanted, 1):
        return numbers
    colours = file.colorinterp
    return [number for number in numbers
            if colours[number - 1].name != "alpha" and not is_validity(_description(file, number))]


def _check_size(bands: int, height: int, width: int, name: str) -> None:
    if bands * height * width > MOST_VALUES:
        raise UserError(f"'{name}' promises {bands} bands of {height}x{width} pixels, more than {MOST_VALUES} values; "
                        "cut it into smaller images")


def _valid(file: Any, bands: Sequence[int], part: Any) -> np.ndarray | None:
    """Returns `Raster.valid` of some bands of a file."""
    kinds = [{flag.name for flag in file.mask_flag_enums[band - 1]} for band in bands]
    valid = None
    if any("alpha" not in kind and kind not in ({"all_valid"}, {"nodata"}) for kind in kinds):
        valid = file.read_masks(list(bands), window=part) > 0
    if len(bands) < file.count:  # the others are alpha bands or the like
        others = sorted(set(range(1, file.count + 1)) - set(bands))
        shown = (file.read(others, window=part) > 0).all(axis=0)
        valid = np.broadcast_to(shown, (len(bands), *shown.shape)).copy() if valid is None else valid & shown
    return None if valid is None or valid.all() else valid


def _joined(valid: Sequence[np.ndarray | None], values: Sequence[np.ndarray]) -> np.ndarray | None:
    if all(of_page is None for of_page in valid):
        return None
    return np.concatenate([np.ones(page.shape, bool) if of_page is None else of_page
                           for of_page, page in zip(valid, values, strict=True)])


def _said(first: Any, numbers: Sequence[tuple[Any, int]], pages: bool) -> Said:
    texts = []
    for file, number in numbers:
        tags = {**(_tags(file) if pages else {}), **_tags(file, number)}
        named = [value for key, value in tags.items() if _NAME_TAGS.search(key)]
        texts.append(tuple(dict.fromkeys(filter(None, (_description(file, number), *named)))))
    colours = [file.colorinterp[number - 1].name for file, number in numbers]
    return Said(tuple(texts), tuple(file.units[number - 1] or "" for file, number in numbers),
                tuple(file.scales[number - 1] for file, number in numbers),
                tuple(file.offsets[number - 1] for file, number in numbers),
                tuple("" if colour in ("undefined", "gray", "grey", "palette") else colour for colour in colours),
                _tags(first))


def _description(file: Any, band: int) -> str:
    try:
        return file.descriptions[band - 1] or ""
    except UnicodeDecodeError:
        return ""


def _tags(file: Any, band: int = 0) -> dict[str, str]:
    """Returns the tags of a band, of the file if it is 0; none if one of them is no UTF-8."""
    try:
        return file.tags(band)
    except UnicodeDecodeError:
        return {}
