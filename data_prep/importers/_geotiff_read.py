"""Reads the images and the label of one entry of own GeoTIFFs; see data_prep/importers/geotiff.py."""

import pathlib
from collections.abc import Sequence

import numpy as np

from data_prep.importers import Entry
from data_prep.importers._geotiff_json import Description
from data_prep.record import Pair, Tile
from dual_encoder.errors import UserError
from dual_encoder.imagery import geotiff_images, raster
from dual_encoder.imagery.geotiff_json import NAME
from dual_encoder.imagery.sensors import IGNORED


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
        images, bands = self._images[feature], dict[str, raster.Raster]()
        files = images.paths(entry.where[feature])
        for band, relative in files.items():
            path = self._raw / relative
            loaded = raster.load(path, around=around, bands=len(images.names) if not band else 1)
            bands |= geotiff_images.bands_of(images, band, loaded, path, entry.where["s2_offset"], remarks)
            if band and loaded.values.size * len(images.spec.bands) > raster.MOST_VALUES:
                raise UserError(f"'{path}' is one of {len(images.spec.bands)} bands of {loaded.grid.shape[0]}x"
                                f"{loaded.grid.shape[1]} pixels, too many for one record; cut the images")
        if "" not in files:
            remarks.append(f"{feature}: bands as the names of the files say")
        return bands

    def _s2(self, entry: Entry, remarks: list[str]) -> tuple[np.ndarray, raster.Grid]:
        """Returns the stored image and its grid."""
        bands, name = self._load(entry, "s2", None, remarks), entry.where["s2"]
        grid = geotiff_images.finest(bands).grid
        self._check_size(name, grid)
        return geotiff_images.optical(self._images["s2"], bands, grid, name, entry.where["s2_offset"]), grid

    def _s1(self, entry: Entry, grid: raster.Grid | None, remarks: list[str]) -> tuple[np.ndarray, raster.Grid]:
        """Returns the stored image on `grid`, or on its own if that is None, and its grid."""
        images = self._images["s1"]
        bands, name = self._load(entry, "s1", _placed(grid), remarks), entry.where["s1"]
        own, linear = next(iter(bands.values())).grid, images.convention == "linear"
        values = geotiff_images.radar(images, bands, name, remarks)
        geotiff_images.check_radar(images, values, name)
        if grid is None:
            self._check_size(name, own)
        elif not own.matches(grid):
            values, own, linear = geotiff_images.radar_on(values, linear, own, grid, name), grid, True
        return geotiff_images.stored_radar(values, linear), own

    def _check_size(self, name: str, grid: raster.Grid) -> None:
        if self._size and grid.shape != (self._size,) * 2:
            raise UserError(f"'{name}' is {grid.shape[0]}x{grid.shape[1]} pixels, {NAME} says size {self._size}; cut "
                            "it, mend the size, or cut patches from all images with --size")

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


def _placed(grid: raster.Grid | None) -> raster.Grid | None:
    """Returns the grid if it has a georeference, which gives its part of another image; else None."""
    return None if grid is None or grid.crs is None else grid
