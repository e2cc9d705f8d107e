"""Pixels of described GeoTIFFs -> the stored integers of a sensor: an image, or a part of a scene.

The importer `geotiff` and the maps of whole scenes both read pixels through this file, so they treat masks, no-data,
units and offsets in the same way.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery import geotiff_statements as statements
from dual_encoder.imagery import raster
from dual_encoder.imagery.geotiff_json import NAME, REFLECTANCE, Images
from dual_encoder.imagery.radiometry import db_to_int16, linear_to_db, remove_s2_offset, zero_areas

DECIBELS = (-100.0, 60.0)  # no backscatter of a radar image lies outside
MOST_REFLECTANCE = 20  # floats up to this one are reflectances in 0..1, not x 10000
_LEAST_REFLECTANCE = 0.1  # products reach to -0.1, their offset


def bands_of(images: Images, band: str, loaded: raster.Raster, path: pathlib.Path, offset: int, remarks: list[str]
             ) -> dict[str, raster.Raster]:
    """Compares a file with the description of its images.

    Args:
      images: the description.
      band: the band that the file holds; '' = all bands.
      loaded: the content of the file, or a part of it.
      path: of the file.
      offset: the DN offset that is stated for S2.
      remarks: gets a sentence about the order of the bands, if the file holds all of them.

    Returns:
      band -> Raster of that band, in the sensor's order; radar as floats.

    Raises:
      UserError: what the file says about itself contradicts the description.
    """
    statements.check_count(images, band, loaded, path)
    statements.check_unit(images, loaded, path)
    loaded = _without_masked(loaded, images.names)
    if images.feature == "s2":
        statements.optical_offset(loaded, offset, path)
    else:
        loaded = _scaled(loaded, images.no_data, str(path))
    if band:
        statements.check_band(images, band, loaded, path)
        return {band: loaded}
    order, how = statements.order(images, loaded, path)
    remarks.append(how)
    return {name: loaded.band(number) for name, number in zip(images.spec.bands, order, strict=True)}


def finest(bands: Mapping[str, raster.Raster]) -> raster.Raster:
    """Returns the band with the most pixels."""
    return max(bands.values(), key=lambda band: band.grid.shape)


def optical(images: Images, bands: Mapping[str, raster.Raster], grid: raster.Grid, name: str, offset: int
            ) -> np.ndarray:
    """Returns an optical image as it is stored.

    Args:
      images: its description.
      bands: of `bands_of`; coarse bands are brought to `grid`.
      grid: of the finest band.
      name: of the image, for errors.
      offset: the DN offset to remove.

    Returns:
      uint16 [height, width, bands], reflectance x 10000; 0 in all bands = no data.

    Raises:
      UserError: the bands do not cover one area, or the values are no reflectance x 10000.
    """
    said, values, shown = images.no_data, [], []
    for band, image in bands.items():
        if said is None and image.no_data[0] == 0:
            image = dataclasses.replace(image, no_data=(None,))  # a tag of 0 means 0 in all bands, a dark surface
        brought = [raster.bring_to(of_band, image.grid, grid)
                   for of_band in (image.values[0], image.holds_data(said)[0])]
        if brought[0] is None or brought[1] is None:
            fine = next(other for other, of_other in bands.items() if of_other is finest(bands))
            raise UserError(f"'{name}': {_apart(band, image.grid, fine, grid)}; expected all bands of one image on one "
                            "grid")
        values.append(brought[0])
        shown.append(brought[1])
    everywhere = np.all(shown, axis=0)
    stacked = np.stack(values, axis=-1)
    if images.unit == REFLECTANCE:
        stacked = _times_10000(stacked, everywhere, name)
    dn = _whole_numbers(stacked, everywhere, name)
    dn[~everywhere] = 0  # before the sign: -9999 may be the value of no data
    if (dn < 0).any():
        raise UserError(f"'{name}' holds {dn.min()}, expected reflectance x 10000; if it means no data, say so in "
                        f"s2.no_data of {NAME}")
    return remove_s2_offset(dn, offset)


def radar(images: Images, bands: Mapping[str, raster.Raster], name: str, remarks: list[str]) -> np.ndarray:
    """Returns the values of a radar image in its own unit, float [bands, height, width]; NaN = no data.

    Args:
      images: its description.
      bands: of `bands_of`.
      name: of the image, for errors.
      remarks: gets a sentence about areas of exactly 0 dB.

    Raises:
      UserError: the bands are not on one grid.
    """
    own = next(iter(bands.values())).grid
    if not all(own.matches(image.grid) for image in bands.values()):
        raise UserError(f"'{name}': its bands are not on one grid; expected the same pixels in all of them")
    shown = np.concatenate([image.holds_data(images.no_data) for image in bands.values()])
    values = np.where(shown, np.concatenate([image.values for image in bands.values()]), np.nan)
    if images.convention != "linear" and (border := zero_areas(values)).any():
        remarks.append("s1: areas of exactly 0 dB in all bands, taken for no data")
        values[:, border] = np.nan
    return values


def impossible(images: Images, values: np.ndarray) -> np.ndarray:
    """Returns bool, True for values of `radar` that no radar image has in its unit."""
    low, high = (-np.inf, 1e6) if images.convention == "linear" else DECIBELS  # power may be tiny, and negative
    return (values < low) | (values > high)


def check_radar(images: Images, values: np.ndarray, name: str) -> None:
    """Raises UserError if the values of `radar` are not in the unit that the description states."""
    unit = images.convention
    if (strange := values[impossible(images, values)]).size:
        raise UserError(f"'{name}' holds {strange[0]:.6g}, which is no {unit} of a radar image; if it means no data, "
                        f"say so in s1.no_data of {NAME}, else mend s1.unit")
    if np.isfinite(values).any() and (np.nanmedian(values) < 0) == (unit == "linear"):
        raise UserError(f"'{name}' has the median {np.nanmedian(values):.3g}, which is not '{unit}'; mend s1.unit or "
                        f"s1.no_data of {NAME}")


def radar_on(values: np.ndarray, linear: bool, grid: raster.Grid, onto: raster.Grid, name: str) -> np.ndarray:
    """Returns the values of `radar` on another grid, always as linear power; arguments as of `raster.resample`.

    `linear`: True for values in linear power, False for decibels.
    """
    power = np.where(values > 0, values, np.nan) if linear else 10 ** (values / 10)
    return raster.resample(power, grid, onto, np.nan, name=name)


def stored_radar(values: np.ndarray, linear: bool) -> np.ndarray:
    """Returns values of `radar` as they are stored, int16 [height, width, bands]; see `db_to_int16`."""
    return db_to_int16(np.moveaxis(linear_to_db(values) if linear else values, 0, -1))


def _without_masked(image: raster.Raster, names: Sequence[str]) -> raster.Raster:
    """Returns the image without the pixels that are 0 in a band that is listed as 'dataMask' or the like."""
    for band, name in zip(image.values, names, strict=False):
        if raster.is_validity(name):
            image = dataclasses.replace(image, valid=(band != 0) & (True if image.valid is None else image.valid))
    return image


def _scaled(image: raster.Raster, no_data: float | None, name: str) -> raster.Raster:
    """Returns radar values as floats, by the file's scale and offset; `no_data` is the stated value before these."""
    factors = [np.array(numbers, np.float32).reshape(-1, 1, 1) for numbers in (image.said.scales, image.said.offsets)]
    kind, scaled = image.values.dtype.kind, any((factors[0] != 1) | (factors[1] != 0))
    if kind == "c" or (kind != "f" and not scaled):
        raise UserError(f"'{name}' is {image.values.dtype}{', single look complex' * (kind == 'c')}, expected floats, "
                        "dB or linear power; convert it")
    if not scaled:
        return image
    shown = image.holds_data(no_data)
    return dataclasses.replace(image, values=image.values * factors[0] + factors[1], valid=shown,
                               no_data=(None,) * len(image.values))


def _times_10000(values: np.ndarray, shown: np.ndarray, name: str) -> np.ndarray:
    """Returns reflectance x 10000 of reflectances, int32; UserError for values that are none.

    Slightly negative reflectances, which atmospheric correction makes of dark surfaces, become 0.

    Args:
      values: [height, width, bands], reflectance.
      shown: bool [height, width], True for pixels with data.
      name: of the file.
    """
    largest = values[shown].max() if shown.any() else 0
    if values.dtype.kind != "f" or largest > MOST_REFLECTANCE:
        raise UserError(f"'{name}' is {values.dtype} up to {largest:.6g}, expected reflectance, floats in 0..1; mend "
                        f"s2.unit of {NAME}")
    clipped = np.where(values < -_LEAST_REFLECTANCE, values, np.maximum(values, 0))
    return np.rint(np.where(shown[..., None], clipped, 0) * 10000.0).astype(np.int32)


def _whole_numbers(values: np.ndarray, shown: np.ndarray, name: str) -> np.ndarray:
    """Returns optical values [height, width, bands] as integers; UserError for values that are not x 10000.

    `shown` is bool [height, width], True for pixels with data.
    """
    if values.dtype.kind == "f" and not (shown.any() and values[shown].max() <= MOST_REFLECTANCE):
        values = np.rint(np.where(shown[..., None], np.clip(values, -2**30, 2**30), 0)).astype(np.int32)
    if not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"'{name}' is {values.dtype}, expected integers, reflectance x 10000; convert it, or "
                        f"state \"unit\": \"reflectance\" of s2 in {NAME}")
    if values.dtype.itemsize == 1:
        raise UserError(f"'{name}' is {values.dtype}, a picture stretched to 8 bit, expected reflectance x 10000; "
                        "export the values themselves")
    return values


def _apart(band: str, coarse: raster.Grid, finest: str, grid: raster.Grid) -> str:
    fills = not any(fine % pixels for fine, pixels in zip(grid.shape, coarse.shape, strict=True))
    size = "band of {}x{} pixels does not fill {}x{}: ".format(*coarse.shape, *grid.shape)
    return f"{'' if fills else size}{_where(band, coarse)}, {_where(finest, grid)}"


def _where(band: str, grid: raster.Grid) -> str:
    return f"{band} is {grid.shape[0]}x{grid.shape[1]} at {grid.extent()} in {grid.crs}"
