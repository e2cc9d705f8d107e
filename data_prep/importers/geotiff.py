"""Your own GeoTIFFs: a folder with geotiff.json, and either a rule for the names of the files or a table of pairs.

A complete example: images of 256 x 256 pixels, radar and optical in two folders, one file for all bands of an image.

<raw>/geotiff.json
     /s1/lagos_20200607T180100.tif     /s1/lagos_20200702T180101.tif     /s1/oslo_20200605T053300.tif
     /s2/lagos_20200604T101031.tif     /s2/lagos_20200704T101031.tif     /s2/oslo_20200605T104031.tif
     /label/lagos.tif                  /label/oslo.tif

{"size": 256,
 "s1": {"files": "s1/{place}_{date}.tif", "bands": ["VV", "VH"], "unit": "dB", "product": "grd"},
 "s2": {"files": "s2/{place}_{date}.tif", "level": "l2a", "offset": 1000,
        "bands": ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]},
 "label": {"files": "label/{place}.tif", "classes": {"land": 0, "water": 1}, "ignore": [255]},
 "licence": "CC-BY-4.0", "attribution": "name of the authors"}

    size         height and width of the S2 images (of the S1 images, for tiles without S2)
    files        {place}: the same text in both folders; images of one place are paired, the nearest in time first, each
                 at most once; of slices of one pass (5 minutes) the one that covers more. {date}: 20200607T180100,
                 2020-06-07, 2020159 and others, UTC: see data_prep/dates.py. {band}: one file for each band; the text
                 of one * may differ with it (R10m, R20m). *: any other text. All else is literal, letter case too
    bands        in the order of the file; not needed if the file describes its bands. With {band}: the text in its
                 place, such as {"B02": "B02_10m", ...}; not needed if that is B01 ... B12, VV, VH
    unit         "dB" or "linear" (power, not amplitude)
    product      "grd" (sigma0, not terrain-flattened) or "rtc" (gamma0, terrain-flattened)
    level        "l2a" (12 bands) or "l1c" (13 bands)
    offset       the DN that processing baseline 04.00 (2022) and later add to S2: 1000 if they are still in your files,
                 0 if not, "column" if the column s2_offset of the table has it
    no_data      of s1 and s2, a number; left out = that of each file, else NaN in S1 and 0 in all bands in S2
    label        optional, for --kind=tiles; one of s1 and s2 is enough then. classes: name -> value in the file

Without "files", pairs.csv (or pairs.parquet) names the files, relative to <raw>:

s1,s2,s1_time,s2_time,label,id,location_id,split
s1/a.tif,s2/a.tif,2020-06-07T18:01:00Z,2020-06-04T10:10:31Z,label/a.tif,a,lagos,train

Needed are the columns of the images that are built; all others may be left out: s1_time, s2_time (data_prep/dates.py
has the forms), label, id, location_id, split, lat, lon (degrees), cloud (percent), s2_offset. data_prep/tables.py says
which tables are read: separators, quotes, rows that are rejected.

Files in the same folders that fit no pattern, or that no row names, are counted in a line with the first of them.

If the table has no lat and lon, they are the centre of the image, from the header of its file.

Radar and label may lie on any grid. If it is not that of S2, they are resampled by their georeference: radar bilinear
in linear power (not in decibels, and no-data pixels have no weight), classes by the nearest pixel. Only the necessary
part of a scene is read. S2 stays as it is; bands of 20 m and 60 m in files of their own are repeated to 10 m. Images
without georeference must have one size.
"""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from data_prep.importers import Entry, Layout, Reject, no_such_kind
from data_prep.importers import _geotiff_entry as geotiff_entry
from data_prep.importers import _geotiff_json as geotiff_json
from data_prep.importers import _geotiff_rows as geotiff_rows
from data_prep.importers._geotiff_json import COLUMN, NAME
from data_prep.record import Pair, Tile
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.radiometry import db_to_int16, linear_to_db, remove_s2_offset, upsample_native
from dual_encoder.imagery.sensors import IGNORED


class Importer:
    """Reads own GeoTIFFs. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        if raw is None:
            raise UserError("importer 'geotiff' has no fixed sensors and size; name them in the config's JSON or build "
                            "with `python -m data_prep build`")
        said = geotiff_json.read(raw)
        if kind == "pairs" and len(said.images) < 2:
            raise no_such_kind("geotiff", "pairs", f"'{raw / NAME}' describes {' '.join(said.images)} only; add the "
                               "other sensor or build --kind=tiles")
        label = None
        if kind == "tiles":
            if said.labels is None:
                raise no_such_kind("geotiff", "tiles", f"'{raw / NAME}' has no 'label'; add it or give "
                                   "--labels=water_weak")
            label = LabelSpec("pixel_classes", tuple(said.labels.classes))
        return Layout(
            sensors={feature: (images.spec.name,) for feature, images in said.images.items()},
            default=tuple(said.images), size=said.size, label=label,
            source={**said.source, "description": geotiff_json.digest(raw, geotiff_rows.TABLES),
                    "notes": "own GeoTIFFs; other grids than that of S2 were resampled to it, radar "
                             "bilinear in linear power, classes by the nearest pixel"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw, self._kind, self._said = raw, kind, geotiff_json.read(raw)
        self._images = {feature: self._said.images[feature] for feature in sensors}
        self._needed = [*sensors, *(["label"] if kind == "tiles" else [])]

    def entries(self) -> Iterator[Entry | Reject]:
        if any(pattern for _, pattern in self._said.files()):
            rows = geotiff_rows.by_name(self._raw, self._said, list(self._images), labels="label" in self._needed)
        else:
            offset = "s2" in self._images and self._images["s2"].convention == COLUMN
            rows = geotiff_rows.by_table(self._raw, self._said, self._needed + ["s2_offset"] * offset)
        for row in rows:
            yield row if isinstance(row, Reject) else geotiff_entry.make(row, self._raw, self._images, self._needed)

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
