"""Finds from some images what their files do not say: bands, unit, offset of Sentinel-2, size, classes of labels."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.describe.roles import STACK
from dual_encoder.imagery import geotiff_statements as statements
from dual_encoder.imagery import raster
from dual_encoder.imagery.geotiff_images import DECIBELS, MOST_REFLECTANCE
from dual_encoder.imagery.geotiff_json import REFLECTANCE, REFLECTANCE_10000, Images
from dual_encoder.imagery.grid import Grid
from dual_encoder.imagery.s2_offset import detect_s2_offset, shows_offset
from dual_encoder.imagery.sensors import SENSORS

_PIXELS = 128  # per side, of each image that is looked at
_SCENE = 2048  # of a larger image only the middle is read
_ORDERS = {"s1": {2: SENSORS["s1_grd"].bands}, "s2": {12: SENSORS["s2_l2a"].bands, 13: SENSORS["s2_l1c"].bands},
           STACK: {14: (*SENSORS["s1_grd"].bands, *SENSORS["s2_l2a"].bands),
                   15: (*SENSORS["s1_grd"].bands, *SENSORS["s2_l1c"].bands)}}
_LINEAR = 10  # median of calibrated power is far below it, of digital numbers far above
_LABELS = 500  # files that are read for the values of classes


@dataclasses.dataclass(frozen=True)
class Image:
    """A coarse look at one image.

    Attributes:
      values: float64 [bands, 128, 128], evenly spaced; NaN without data.
      dtype: of the file.
      names: the band that the file says of each of its bands, '' = none.
      texts: description of each band.
      shape: height and width of the finest band.
      said: statements of the file: descriptions, units, tags.
    """

    values: np.ndarray
    dtype: np.dtype
    names: tuple[str, ...]
    texts: tuple[str, ...]
    shape: tuple[int, int]
    said: raster.Said


def look(raw: pathlib.Path, files: Mapping[str, str], role: str) -> Image:
    """Looks at one image.

    Args:
      raw: the raw folder.
      files: band -> path, or {'': path} of a file of all bands.
      role: 's1', 's2' or 'stack'.
    """
    loaded = {band: _load(raw / path) for band, path in files.items()}
    values, shape, (name, first) = [], max(image.grid.shape for image in loaded.values()), next(iter(loaded.items()))
    for image in loaded.values():
        rows, columns = (np.arange(_PIXELS) * side // _PIXELS for side in image.values.shape[1:])
        values.append(np.where(image.holds_data(), image.values, np.nan)[:, rows[:, None], columns])
    names: tuple[str, ...] = tuple(files) if name else _names(first, raw / files[name], role)
    texts = tuple(text for image in loaded.values() for text in image.names)
    return Image(np.concatenate(values).astype(np.float64), first.values.dtype, names, texts, shape, first.said)


def _load(path: pathlib.Path) -> raster.Raster:
    with raster.opened(path, str(path)) as files:
        grid = raster.grid_of(files[0])
    if min(grid.shape) <= _SCENE or grid.crs is None:
        return raster.load(path)
    row, column = ((side - _SCENE // 2) // 2 for side in grid.shape)
    part = Grid(grid.crs, grid.transform @ grid.transform.translation(column, row), (_SCENE // 2,) * 2)
    return dataclasses.replace(raster.load(path, around=part), grid=grid)


def _names(image: raster.Raster, path: pathlib.Path, role: str) -> tuple[str, ...]:
    """Returns the band that a file says of each of its bands."""
    said = {}
    for name, spec in (("s1", "s1_grd"), ("s2", "s2_l1c")):
        if role in (name, STACK):
            images = Images(name, SENSORS[spec], (), {}, "", None, 0)
            said[name] = [band for band, _ in statements.seen(images, image, path)]
    return tuple(next(filter(None, of_band), "") for of_band in zip(*said.values(), strict=True))


def bands(images: Sequence[Image], role: str) -> tuple[list[str], str]:
    """Returns the bands of the files in order, and how they are known; ([], why not).

    A band of another kind (an angle, a mask) has its description as its name, or BAND<number>.
    """
    forms = {image.names for image in images}
    if len({len(form) for form in forms}) > 1:
        counts = sorted({len(form) for form in forms})
        return [], f"the files have {' or '.join(map(str, counts))} bands; describe each kind in a folder of its own"
    first = images[0]
    if any(first.names):
        if len(forms) > 1:
            return [], "the files name their bands in different orders; bring them into one order"
        named = [name or text.upper() or f"BAND{number}"
                 for number, (name, text) in enumerate(zip(first.names, first.texts, strict=True), start=1)]
        return named, "as the files name them"
    order = _ORDERS[role].get(len(first.names))
    if order is None:
        return [], f"the files do not name their {len(first.names)} bands; list them in the order of the files"
    return list(order), f"ASSUMED, the usual order of {len(order)} bands; the files do not name them, compare it"


def radar_unit(images: Sequence[Image], at: Sequence[int]) -> tuple[str, str]:
    """Returns 'dB' or 'linear' and why, or ('?', what is seen); `at`: numbers of the radar bands in the files."""
    medians = [float(np.nanmedian(image.values[at])) for image in images if np.isfinite(image.values[at]).any()]
    if not medians:
        return "?", "no image that was looked at holds data"
    seen = f"medians {min(medians):.3g} to {max(medians):.3g} in {len(medians)} images"
    if max(medians) < 0:
        return "dB", seen
    if min(medians) >= 0 and max(medians) < _LINEAR and images[0].dtype.kind == "f":
        return "linear", seen
    return "?", f"{seen}, neither dB nor calibrated power (digital numbers?); calibrate to sigma0 or gamma0"


def radar_no_data(images: Sequence[Image], at: Sequence[int]) -> float | None:
    """Returns a value far below any backscatter that many pixels share, such as -9999; None if there is none."""
    low = np.concatenate([image.values[at][image.values[at] < DECIBELS[0]] for image in images])
    return float(low[0]) if low.size and (low == low[0]).all() else None


def radar_product(images: Sequence[Image], names: Sequence[str]) -> tuple[str, str]:
    """Returns 'grd' or 'rtc' and the text of a file that says so, or ('?', '')."""
    texts = [text for image in images for of_band in image.said.texts for text in of_band] + list(names)
    found = statements.products_said(texts)
    return next(iter(found.items())) if len(found) == 1 else ("?", "")


def optical_unit(images: Sequence[Image], at: Sequence[int]) -> tuple[str, str]:
    """Returns the unit of S2 in geotiff.json and why, or ('?', what is seen)."""
    largest = max((float(np.nanmax(image.values[at])) for image in images if np.isfinite(image.values[at]).any()),
                  default=0)
    kind = images[0].dtype
    if kind.itemsize == 1:
        return "?", f"the files are {kind}, pictures stretched to 8 bit; export reflectance"
    if kind.kind == "f" and largest <= MOST_REFLECTANCE:
        return REFLECTANCE, f"floats up to {largest:.3g}"
    return REFLECTANCE_10000, f"{kind} up to {largest:.0f}"


def optical_offset(images: Sequence[Image], at: Sequence[int], names: Sequence[str], unit: str) -> tuple[Any, str]:
    """Returns the DN offset, 0 or 1000, and how many images show it; ('?', why not) if that is unclear.

    Args:
      images: that were looked at.
      at: numbers of the optical bands in the files.
      names: of these bands.
      unit: of the files.
    """
    if not shows_offset(names):
        return "?", f"bands {' '.join(names)} do not show it"
    votes = []
    for image in images:
        values = image.values[at] * (10000 if unit == REFLECTANCE else 1)
        dn = np.where(np.isfinite(values), values, 0).round().astype(np.int64)
        votes.append(detect_s2_offset(np.moveaxis(dn, 0, -1), names))
    with_it = sum(vote == 1000 for vote in votes)
    if 0 < with_it < len(votes):
        return "?", (f"{with_it} of {len(votes)} images look like 1000, the others like 0 (baseline 04.00 began in "
                     "January 2022; thick cloud misleads)")
    return votes[0], f"{len(votes)} of {len(votes)} images, by their darkest pixels"


def size(images: Sequence[Image]) -> tuple[int, int]:
    """Returns (the size that all images have, 0 if they differ or are not square; the least side of all)."""
    shapes = {image.shape for image in images}
    side = min(min(shape) for shape in shapes)
    return (side if shapes == {(side, side)} else 0), side


def label_values(raw: pathlib.Path, paths: Sequence[str]) -> tuple[list[int], int]:
    """Returns the whole numbers in the first label files, sorted, and how many files were read; no-data is left out."""
    found: set[int] = set()
    for path in paths[:_LABELS]:
        loaded = raster.load(raw / path)
        values = loaded.values[np.isfinite(loaded.values)] if loaded.values.dtype.kind == "f" else loaded.values
        found |= {int(value) for value in np.unique(values) if value == np.rint(value)}
    return sorted(found), min(len(paths), _LABELS)
