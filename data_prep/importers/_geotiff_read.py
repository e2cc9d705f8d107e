"""Reads the images and the label of one entry of own GeoTIFFs; see data_prep/importers/geotiff.py."""

import pathlib
from collections.abc import Sequence

import numpy as np

from data_prep.importers import Entry
from data_prep.importers._geotiff_json import NAME, Description
from data_prep.record import Pair, Tile
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.radiometry import db_to_int16, linear_to_db, remove_s2_offset, upsample_native
from dual_encoder.imagery.sensors import IGNORED


class Reader:
    """Reads entries of a raw folder."""

    def __init__(self, raw: pathlib.Path, kind: str, said: Description, features: Sequence[str]):
        """Prepares to read the images `features` of the folder `raw`, which `said` describes."""
        self._raw, self._kind, self._said = raw, kind, said
        self._images = {feature: said.images[feature] for feature in features}

    def read(self, entry: Entry) -> Pair | Tile:
        images, grid = {}, None
        if "s2" in self._images:
            images["s2"], grid = self._s2(entry)
        if "s1" in self._images:
            images["s1"], grid = self._s1(entry, grid)
        source, offset = "own GeoTIFFs", entry.where["s2_offset"]
        if self._kind == "pairs":
            return Pair.of(entry, images=images, source=source, s2_offset_removed=offset)
        assert grid is not None  # there is at least one image
        label = self._label(entry, grid)
        for feature, image in images.items():
            label[~self._images[feature].spec.holds_data(image)] = IGNORED
        return Tile.of(entry, images=images, label=label, source=source, s2_offset_removed=offset)

    def _load(self, entry: Entry, feature: str, around: raster.Grid | None) -> dict[str, raster.Raster]:
        """Reads an image, or the part around a grid: band -> Raster of that band, in the sensor's order."""
        images, bands = self._images[feature], {}
        for band, relative in images.paths(entry.where[feature]).items():
            loaded = raster.load(self._raw / relative, around=around)
            if not band:  # all in one file
                order = images.order(loaded, self._raw / relative)
                return {band: loaded.band(i) for band, i in zip(images.spec.bands, order, strict=True)}
            if len(loaded.values) != 1:
                raise UserError(f"'{relative}' has {len(loaded.values)} bands, expected {band} only")
            bands[band] = loaded
        return bands

    def _s2(self, entry: Entry) -> tuple[np.ndarray, raster.Grid]:
        """Returns the stored image and its grid."""
        bands, name = self._load(entry, "s2", None), entry.where["s2"]
        finest = max(bands, key=lambda band: bands[band].grid.shape)
        grid = bands[finest].grid
        self._check_size(name, grid)
        try:
            dn = np.stack([upsample_native(image.values[0], self._said.size) for image in bands.values()], axis=-1)
        except UserError as error:
            raise UserError(f"'{name}': {error}") from error
        for band, image in bands.items():
            if not image.grid.fills(grid):
                raise UserError(f"'{name}': {_where(band, image.grid)}, {_where(finest, grid)}; expected all bands of "
                                "one image on one grid")
        if not np.issubdtype(dn.dtype, np.integer):
            raise UserError(f"'{name}' is {dn.dtype}, expected integers, reflectance x 10000; convert it")
        no_data = [self._no_data("s2", image) or None for image in bands.values()]  # 0 in one band: a dark surface
        dn[np.stack([dn[..., at] == value for at, value in enumerate(no_data)]).any(axis=0)] = 0
        if (dn < 0).any():
            raise UserError(f"'{name}' holds {dn.min()}, expected reflectance x 10000; if it means no data, say so in "
                            f"s2.no_data of {NAME}")
        return remove_s2_offset(dn, entry.where["s2_offset"]), grid

    def _s1(self, entry: Entry, grid: raster.Grid | None) -> tuple[np.ndarray, raster.Grid]:
        """Returns the stored image on `grid`, or on its own if that is None, and its grid."""
        bands, name = self._load(entry, "s1", _placed(grid)), entry.where["s1"]
        own, linear = next(iter(bands.values())).grid, self._images["s1"].convention == "linear"
        if not all(own.matches(image.grid) for image in bands.values()):
            raise UserError(f"'{name}': its bands are not on one grid; expected the same pixels in all of them")
        values = np.stack([image.values[0] for image in bands.values()])
        if not np.issubdtype(values.dtype, np.floating):
            raise UserError(f"'{name}' is {values.dtype}, expected floats, dB or linear power; convert it")
        for image, band in zip(values, bands.values(), strict=True):
            image[~np.isfinite(image) | (image == self._no_data("s1", band))] = np.nan
        low, high = (-np.inf, 1e6) if linear else (-100, 60)  # power may be tiny, and negative at the border
        if (strange := values[(values < low) | (values > high)]).size:
            raise UserError(f"'{name}' holds {strange[0]:.6g}, which is no {self._images['s1'].convention} of a radar "
                            f"image; if it means no data, say so in s1.no_data of {NAME}, else mend s1.unit")
        if np.isfinite(values).any() and (np.nanmedian(values) < 0) == linear:
            raise UserError(f"'{name}' has the median {np.nanmedian(values):.3g}, which is not '"
                            f"{self._images['s1'].convention}'; mend s1.unit or s1.no_data of {NAME}")
        if grid is None:
            self._check_size(name, own)
        elif not own.matches(grid):
            power = np.where(values > 0, values, np.nan) if linear else 10 ** (values / 10)
            values, own, linear = raster.resample(power, own, grid, np.nan, name=name), grid, True
        return db_to_int16(np.moveaxis(linear_to_db(values) if linear else values, 0, -1)), own

    def _label(self, entry: Entry, grid: raster.Grid) -> np.ndarray:
        """Returns uint8 [height, width] on `grid`, class indices, 255 = ignored."""
        assert self._said.labels is not None  # `layout` refuses tiles without
        path = self._raw / entry.where["label"]
        loaded = raster.load(path, around=_placed(grid))
        label = self._said.labels.indices(loaded, path)
        return label if loaded.grid.matches(grid) else raster.resample(
            label[None], loaded.grid, grid, IGNORED, "nearest", str(path))[0]

    def _no_data(self, feature: str, band: raster.Raster) -> float | None:
        said = self._images[feature].no_data
        return band.no_data if said is None else said

    def _check_size(self, name: str, grid: raster.Grid) -> None:
        if grid.shape != (self._said.size,) * 2:
            raise UserError(f"'{name}' is {grid.shape[0]}x{grid.shape[1]} pixels, {NAME} says size {self._said.size}; "
                            "cut it or mend the size")


def _placed(grid: raster.Grid | None) -> raster.Grid | None:
    """Returns the grid if it has a georeference, which gives its part of another image; else None."""
    return None if grid is None or grid.crs is None else grid


def _where(band: str, grid: raster.Grid) -> str:
    return f"{band} is {grid.shape[0]}x{grid.shape[1]} at {grid.extent()} in {grid.crs}"
