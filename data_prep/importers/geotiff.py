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

    size         height and width of the S2 images (of the S1 images, for tiles without S2). `build --size` cuts whole
                 patches from images of any size; then it may be left out
    files        {place}: the same text in both folders; images of one place are paired, the nearest in time first, each
                 at most once; of slices of one pass (5 minutes) the one that covers more. {date}: 20200607T180100,
                 2020-06-07, 2020159 and others, UTC: see data_prep/dates.py. {band}: one file for each band; the text
                 of one * may differ with it (R10m, R20m). *: any other text. All else is literal, letter case too
    bands        in the order of the file; not needed if the file describes its bands. With {band}: the text in its
                 place, such as {"B02": "B02_10m", ...}; not needed if that is B01 ... B12, VV, VH. If only some of the
                 sensor's bands are named, only these are stored: a sensor of its own, as s2_l2a:B02+B03+B04
    unit         of s1 "dB" or "linear" (power, not amplitude); of s2 "reflectance x 10000", or "reflectance" for floats
                 in 0..1; left out = reflectance x 10000
    product      "grd" (sigma0, not terrain-flattened) or "rtc" (gamma0, terrain-flattened)
    level        "l2a" (12 bands) or "l1c" (13 bands)
    offset       the DN that processing baseline 04.00 (2022) and later add to S2: 1000 if they are still in your files,
                 0 if not, "column" if the column s2_offset of the table has it
    no_data      of s1 and s2, a number or "nan", which counts in each band: a pixel with it in one band has no data.
                 Left out = that of each file, else NaN in S1 and 0 in all bands in S2
    label        optional, for --kind=tiles; one of s1 and s2 is enough then. classes: name -> value in the file, or
                 several: {"land": [10, 20], "water": "80-89"}. Also {"10": "land", "20": "land", "80": "water"}, or a
                 list of names for 0, 1, ... A label is one band of whole numbers; NaN is ignored. colours, optional:
                 of classes in pictures, {"water": "#2166c8"}; the others have those of the palette
    decide       what `python -m data_prep describe` could not tell; a build does not read it

`python -m data_prep describe <raw>` writes a first geotiff.json. Words are understood in any letter case.

A label may be that of the whole image. Then a table gives it, which may be pairs.csv itself:

 "label": {"kind": "image_class", "table": "labels.csv", "classes": ["forest", "river"]}

id,label
lagos_20200604T101031,forest
oslo,river

    kind         "image_class": one class; "image_classes": any number, as forest;river or forest|river, empty = none
    table        CSV or Parquet with the columns id (of a record or a place) and label (names or values of classes)

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
part of a scene is read. S2 stays as it is; bands of 20 m and 60 m in files of their own are repeated to 10 m, or if
their size does not divide it (11 pixels of 60 m on 64 of 10 m), brought there by the nearest pixel. Images without
georeference must have one size; a label without one, such as a PNG, must have that of the image.

Files are GeoTIFFs (also with one page for each band), JPEG 2000 as in SAFE folders, or PNG for labels. Their masks,
inside them or beside them (.msk), alpha bands and no-data tags (also in .aux.xml) count. With an offset of 1000, a 0 in
any band is no data. Areas of exactly 0 dB in all radar bands are an untagged border, and no data.

What a file says about itself is compared with geotiff.json: descriptions, tags, units, scale and offset, colours, and
its name, if they hold exactly one band (Sigma0_VH_db, S2_B8A_20m), or db, linear, sigma0, gamma0, L1C, L2A. A
contradiction is an error that shows both. The build counts the images whose files say nothing.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

from data_prep.importers import Entry, Layout, Reject, no_such_kind
from data_prep.importers import _geotiff_entry as geotiff_entry
from data_prep.importers import _geotiff_json as geotiff_json
from data_prep.importers import _geotiff_rows as geotiff_rows
from data_prep.importers._geotiff_read import Reader
from data_prep.record import Pair, Tile
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery.geotiff_json import COLUMN, NAME
from dual_encoder.imagery.sensors import sensor


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
            if said.labels is None and said.image_labels is None:
                raise no_such_kind("geotiff", "tiles", f"'{raw / NAME}' has no 'label'; add it or give "
                                   "--labels=water_weak")
            label = (said.image_labels.spec if said.image_labels else
                     LabelSpec("pixel_classes", tuple(said.labels.classes), colours=said.labels.colours)
                     if said.labels else None)
        return Layout(
            sensors={feature: (images.spec.name,) for feature, images in said.images.items()},
            default=tuple(said.images), size=said.size, any_size=True, by_name=True,
            label=label,
            source={**said.source, "description": geotiff_json.digest(raw, said, geotiff_rows.TABLES),
                    "notes": "own GeoTIFFs; other grids than that of S2 were resampled to it, radar "
                             "bilinear in linear power, classes by the nearest pixel"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str], cut: bool = False):
        said = geotiff_json.read(raw)
        self._images = {feature: dataclasses.replace(said.images[feature], spec=sensor(name))
                        for feature, name in sensors.items()}
        self._raw, self._kind, self._said = raw, kind, dataclasses.replace(said, images={**said.images, **self._images})
        self._reader = Reader(raw, kind, self._said, list(sensors), cut)
        self._needed = [*sensors, *(["label"] if kind == "tiles" and self._said.labels else [])]

    def entries(self) -> Iterator[Entry | Reject]:
        if any(pattern for _, pattern in self._said.files()):
            rows = geotiff_rows.by_name(self._raw, self._said, list(self._images), labels="label" in self._needed)
        else:
            offset = "s2" in self._images and self._images["s2"].convention == COLUMN
            rows = geotiff_rows.by_table(self._raw, self._said, self._needed + ["s2_offset"] * offset)
        items = (row if isinstance(row, Reject) else geotiff_entry.make(row, self._raw, self._images, self._needed)
                 for row in rows)
        yield from items if self._kind == "pairs" or self._said.image_labels is None else self._labelled(items)

    def _labelled(self, items: Iterator[Entry | Reject]) -> Iterator[Entry | Reject]:
        assert self._said.image_labels is not None
        found, rejects = self._said.image_labels.read(self._raw)
        yield from rejects
        for item in items:
            yield item if isinstance(item, Reject) else self._said.image_labels.add(item, found)

    def read(self, entry: Entry) -> Pair | Tile:
        return self._reader.read(entry)
