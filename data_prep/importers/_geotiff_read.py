"""Reads the images and the label of one entry of own GeoTIFFs; see data_prep/importers/geotiff.py."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from data_prep.importers import Entry
from data_prep.importers import _geotiff_statements as statements
from data_prep.importers._geotiff_json import NAME, REFLECTANCE, Description
from data_prep.record import Pair, Tile
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.radiometry import db_to_int16, linear_to_db, remove_s2_offset, zero_areas
from dual_encoder.imagery.sensors import IGNORED

_REFLECTANCE = 20  # floats up to this one are reflectances in 0..1, not x 10000
_LEAST_REFLECTANCE = 0.1  # products reach to -0.1, their offset


class Reader:
    """Reads entries of a raw folder."""

    def __init__(self, raw: pathlib.Path, kind: str, said: Description, features: Sequence[str], cut: bool):
        """Prepares to read the images `features` of the folder `raw`, which `said` describes.

        `cut`: patches will be cut from the images, which may have any size.
        """
        self._raw, self._kind, self._said, self._size = raw, kind, said, 0 if cut else said.size
        self._images = {feature: said.images[feature] for feature in features}

    def read(self, entry: Entry) -> Pair | Tile:
        """Returns the record of an entry; UserError for damaged files and for files that geotiff.json contradicts."""
        images, grid, remarks = {}, None, list[str]()
        if "s2" in self._images:
            images["s2"], grid = self._s2(entry, remarks)
        if "s1" in self._images:
            images["s1"], grid = self._s1(entry, grid, remarks)
        source, offset = "own GeoTIFFs", entry.where["s2_offset"]
        if self._kind == "pairs":
            return Pair.of(entry, images=images, source=source, s2_offset_removed=offset, remarks=tuple(remarks))
        if self._said.image_labels is not None:
            return Tile.of(entry, images=images, label=self._said.image_labels.array(entry), source=source,
                           s2_offset_removed=offset, remarks=tuple(remarks))
        assert grid is not None  # there is at least one image
        label = self._label(entry, grid, remarks)
        for feature, image in images.items():
            label[~self._images[feature].spec.holds_data(image)] = IGNORED
        return Tile.of(entry, images=images, label=label, source=source, s2_offset_removed=offset,
                       remarks=tuple(remarks))

    def _load(self, entry: Entry, feature: str, around: raster.Grid | None, remarks: list[str]
              ) -> dict[str, raster.Raster]:
        """Reads an image, or the part around a grid: band -> Raster of that band, in the sensor's order."""
        images, bands = self._images[feature], {}
        for band, relative in images.paths(entry.where[feature]).items():
            path = self._raw / relative
            loaded = raster.load(path, around=around, bands=len(images.names) if not band else 1)
            statements.check_count(images, band, loaded, pathlib.Path(relative) if band else path)
            statements.check_unit(images, loaded, path)
            loaded = _without_masked(loaded, images.names)
            if feature == "s2":
                statements.optical_offset(loaded, entry.where["s2_offset"], path)
            else:
                loaded = _scaled(loaded, images.no_data, relative)
            if not band:  # all in one file
                order, how = statements.order(images, loaded, path)
                remarks.append(how)
                return {band: loaded.band(i) for band, i in zip(images.spec.bands, order, strict=True)}
            statements.check_band(images, band, loaded, pathlib.Path(relative))
            bands[band] = loaded
            if loaded.values.size * len(images.spec.bands) > raster.MOST_VALUES:
                raise UserError(f"'{path}' is one of {len(images.spec.bands)} bands of {loaded.grid.shape[0]}x"
                                f"{loaded.grid.shape[1]} pixels, too many for one record; cut the images")
        remarks.append(f"{feature}: bands as the names of the files say")
        return bands

    def _s2(self, entry: Entry, remarks: list[str]) -> tuple[np.ndarray, raster.Grid]:
        """Returns the stored image and its grid."""
        bands, name = self._load(entry, "s2", None, remarks), entry.where["s2"]
        finest = max(bands, key=lambda band: bands[band].grid.shape)
        grid, said = bands[finest].grid, self._images["s2"].no_data
        self._check_size(name, grid)
        values, shown = [], []
        for band, image in bands.items():
            if said is None and image.no_data[0] == 0:
                image = dataclasses.replace(image, no_data=(None,))  # a tag of 0 means 0 in all bands, a dark surface
            brought = [raster.bring_to(of_band, image.grid, grid)
                       for of_band in (image.values[0], image.holds_data(said)[0])]
            if brought[0] is None or brought[1] is None:
                raise UserError(f"'{name}': {_apart(band, image.grid, finest, grid)}; expected all bands of one image "
                                "on one grid")
            values.append(brought[0])
            shown.append(brought[1])
        everywhere = np.all(shown, axis=0)
        stacked = np.stack(values, axis=-1)
        if self._images["s2"].unit == REFLECTANCE:
            stacked = _times_10000(stacked, everywhere, name)
        dn = _whole_numbers(stacked, everywhere, name)
        dn[~everywhere] = 0  # before the sign: -9999 may be the value of no data
        if (dn < 0).any():
            raise UserError(f"'{name}' holds {dn.min()}, expected reflectance x 10000; if it means no data, say so in "
                            f"s2.no_data of {NAME}")
        return remove_s2_offset(dn, entry.where["s2_offset"]), grid

    def _s1(self, entry: Entry, grid: raster.Grid | None, remarks: list[str]) -> tuple[np.ndarray, raster.Grid]:
        """Returns the stored image on `grid`, or on its own if that is None, and its grid."""
        bands, name = self._load(entry, "s1", _placed(grid), remarks), entry.where["s1"]
        own, linear = next(iter(bands.values())).grid, self._images["s1"].convention == "linear"
        if not all(own.matches(image.grid) for image in bands.values()):
            raise UserError(f"'{name}': its bands are not on one grid; expected the same pixels in all of them")
        shown = np.concatenate([image.holds_data(self._images["s1"].no_data) for image in bands.values()])
        values = np.where(shown, np.concatenate([image.values for image in bands.values()]), np.nan)
        if not linear and (border := zero_areas(values)).any():
            remarks.append("s1: areas of exactly 0 dB in all bands, taken for no data")
            values[:, border] = np.nan
        self._check_radar(values, linear, name)
        if grid is None:
            self._check_size(name, own)
        elif not own.matches(grid):
            power = np.where(values > 0, values, np.nan) if linear else 10 ** (values / 10)
            values, own, linear = raster.resample(power, own, grid, np.nan, name=name), grid, True
        return db_to_int16(np.moveaxis(linear_to_db(values) if linear else values, 0, -1)), own

    def _check_size(self, name: str, grid: raster.Grid) -> None:
        if self._size and grid.shape != (self._size,) * 2:
            raise UserError(f"'{name}' is {grid.shape[0]}x{grid.shape[1]} pixels, {NAME} says size {self._size}; cut "
                            "it, mend the size, or cut patches from all images with --size")

    def _check_radar(self, values: np.ndarray, linear: bool, name: str) -> None:
        low, high = (-np.inf, 1e6) if linear else (-100, 60)  # power may be tiny, and negative at the border
        if (strange := values[(values < low) | (values > high)]).size:
            raise UserError(f"'{name}' holds {strange[0]:.6g}, which is no {self._images['s1'].convention} of a radar "
                            f"image; if it means no data, say so in s1.no_data of {NAME}, else mend s1.unit")
        if np.isfinite(values).any() and (np.nanmedian(values) < 0) == linear:
            raise UserError(f"'{name}' has the median {np.nanmedian(values):.3g}, which is not '"
                            f"{self._images['s1'].convention}'; mend s1.unit or s1.no_data of {NAME}")

    def _label(self, entry: Entry, grid: raster.Grid, remarks: list[str]) -> np.ndarray:
        """Returns uint8 [height, width] on `grid`, class indices, 255 = ignored."""
        assert self._said.labels is not None  # `layout` refuses tiles without
        path = self._raw / entry.where["label"]
        loaded = raster.load(path, around=_placed(grid), by_pixel=True)
        label = self._said.labels.indices(loaded, path)
        if grid.crs is not None and loaded.grid.crs is None:  # as in every PNG
            remarks.append("label: no georeference, taken pixel by pixel")
            return label
        return label if loaded.grid.matches(grid) else raster.resample(
            label[None], loaded.grid, grid, IGNORED, "nearest", str(path))[0]


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
    if values.dtype.kind != "f" or largest > _REFLECTANCE:
        raise UserError(f"'{name}' is {values.dtype} up to {largest:.6g}, expected reflectance, floats in 0..1; mend "
                        f"s2.unit of {NAME}")
    clipped = np.where(values < -_LEAST_REFLECTANCE, values, np.maximum(values, 0))
    return np.rint(np.where(shown[..., None], clipped, 0) * 10000.0).astype(np.int32)


def _whole_numbers(values: np.ndarray, shown: np.ndarray, name: str) -> np.ndarray:
    """Returns optical values [height, width, bands] as integers; UserError for values that are not x 10000.

    `shown` is bool [height, width], True for pixels with data.
    """
    if values.dtype.kind == "f" and not (shown.any() and values[shown].max() <= _REFLECTANCE):
        values = np.rint(np.where(shown[..., None], np.clip(values, -2**30, 2**30), 0)).astype(np.int32)
    if not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"'{name}' is {values.dtype}, expected integers, reflectance x 10000; convert it, or "
                        f"state \"unit\": \"reflectance\" of s2 in {NAME}")
    if values.dtype.itemsize == 1:
        raise UserError(f"'{name}' is {values.dtype}, a picture stretched to 8 bit, expected reflectance x 10000; "
                        "export the values themselves")
    return values


def _placed(grid: raster.Grid | None) -> raster.Grid | None:
    """Returns the grid if it has a georeference, which gives its part of another image; else None."""
    return None if grid is None or grid.crs is None else grid


def _apart(band: str, coarse: raster.Grid, finest: str, grid: raster.Grid) -> str:
    fills = not any(fine % pixels for fine, pixels in zip(grid.shape, coarse.shape, strict=True))
    size = "band of {}x{} pixels does not fill {}x{}: ".format(*coarse.shape, *grid.shape)
    return f"{'' if fills else size}{_where(band, coarse)}, {_where(finest, grid)}"


def _where(band: str, grid: raster.Grid) -> str:
    return f"{band} is {grid.shape[0]}x{grid.shape[1]} at {grid.extent()} in {grid.crs}"
