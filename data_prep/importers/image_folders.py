"""Folders of images: one folder per class, as EuroSAT has them, or one folder per sensor with the images of pairs.

Tiles with a class per image. All images have one form, which the first one shows; the folders are the classes, by the
alphabet:

<raw>/<class>/<name>.jpg           EuroSAT RGB: red, green, blue in grey levels of 8 bits; also .png and .tif: s2_rgb
<raw>/<class>/<name>.tif           EuroSAT multispectral: 13 bands L1C, reflectance x 10000, no offset: s2_l1c
<raw>/<class>/<name>.tif           EuroSAT-SAR: VV and VH in dB, NaN = no data: s1_grd

Pairs of grey levels. A folder has the name of its sensor, the two images of a pair have one name:

<raw>/s1_vh/<name>.jpg             grey; also .png and .tif
<raw>/s2_rgb/<name>.jpg            red, green, blue

Optional, for both:

<raw>/images.csv                   id and any of location_id, split, lat, lon, s1_time, s2_time (data_prep/dates.py)

An id is <class>/<name> or <name>, without the ending of the file. Images are square and of one size; a picture is found
by its content, not by its ending. Letters after a dot such as .JPG and .jpg count as one.

Traps: the 13 bands of EuroSAT are B01 ... B08, B09, B10, B11, B12 and then B8A: the mean of the last band is that of
near infrared. EuroSAT publishes no splits, and no places of its JPEG pictures: without images.csv each image is a place
of its own, and images of one scene may be in two splits. GeoTIFFs have the coordinates of their centre.
"""

import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_prep import tables
from data_prep.importers import Entry, Layout, Reject, _pictures, _row_facts, no_such_kind
from data_prep.importers._unmatched import UnmatchedFiles, in_folder, is_data, shown
from data_prep.record import Pair, Tile
from data_prep.tables import Row
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery import file_kinds, raster
from dual_encoder.imagery.radiometry import db_to_int16, remove_s2_offset
from dual_encoder.imagery.sensors import SENSORS

TABLE = "images.csv"
_COLUMNS = ("id", "location_id", "split", "lat", "lon", "s1_time", "s2_time")
_GEOTIFF = (".tif", ".tiff")
_ENDINGS = (".jpg", ".jpeg", ".png", *_GEOTIFF)
_GREY_LEVELS = [name for name, spec in SENSORS.items() if spec.dtype == "uint8"]
_EUROSAT = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
_L1C_ORDER = [_EUROSAT.index(band) for band in SENSORS["s2_l1c"].bands]
_FORMS = {(3, "u1"): "s2_rgb", (13, "u2"): "s2_l1c", (2, "f4"): "s1_grd", (2, "f8"): "s1_grd"}  # bands, dtype


class Importer:
    """Reads folders of images. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        if raw is None:
            raise UserError("importer 'image_folders' has no fixed sensors and size; build with `python -m data_prep "
                            "build`")
        if kind == "pairs":
            sensors, label = {SENSORS[name].feature: (name,) for name in _sensor_folders(raw)}, None
            size = len(_first_image(raw, [name for (name,) in sensors.values()]))
        else:
            classes = _class_folders(raw)
            image, label = _first_image(raw, classes), LabelSpec("image_class", tuple(classes))
            name = _FORMS.get((image.shape[-1], image.dtype.str[1:]))
            if name is None:
                raise UserError(f"the images in '{raw}' have {image.shape[-1]} bands of {image.dtype}, expected 3 of "
                                "uint8, 13 of uint16 or 2 of float32; see data_prep/importers/image_folders.py")
            sensors, size = {SENSORS[name].feature: (name,)}, len(image)
        return Layout(
            sensors=sensors, default=tuple(sensors), size=size, label=label,
            source={"licence": "not stated in the folders (EuroSAT: MIT)",
                    "attribution": "not stated in the folders (EuroSAT: Helber et al. 2019, IEEE JSTARS 12(7), arXiv "
                                   "1709.00029; EuroSAT-SAR: Wang et al. 2024, FG-MAE, arXiv 2310.18653; both contain "
                                   "modified Copernicus Sentinel data)",
                    "notes": f"from folders of images; without {TABLE} the places are unknown and each image counts as "
                             "a place of its own, so images of one scene may be in two splits"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw, self._kind, self._sensors = raw, kind, sensors

    def entries(self) -> Iterator[Entry | Reject]:
        beside = UnmatchedFiles("an image in the folder of a class or sensor, such as <class>/<name>.jpg")
        folders = _class_folders(self._raw) if self._kind == "tiles" else list(self._sensors.values())
        for item in self._raw.iterdir():
            if item.name not in folders:
                beside.add_data("", item.name, item.is_dir)
        rows: dict[str, Row] = {}
        if (self._raw / TABLE).is_file():
            yield from _read_table(self._raw / TABLE, rows)
        absent = set(rows)
        for name, where in self._tiles(folders, beside) if self._kind == "tiles" else self._pairs(beside):
            absent.discard(name)
            yield where if isinstance(where, Reject) else _entry(self._raw, name, where, rows.get(name),
                                                                        tuple(self._sensors))
        if absent:
            print(f"left out {len(absent)} of {len(rows)} rows of {TABLE}: no image is on disk, first "
                  f"'{shown(min(absent))}'", flush=True)
        yield from beside.result()

    def _tiles(self, classes: Sequence[str], beside: UnmatchedFiles) -> Iterator[tuple[str, dict]]:
        (feature,) = self._sensors
        for number, folder in enumerate(classes):
            for name in sorted(in_folder(self._raw, folder, _is_image, beside)):
                yield f"{folder}/{_stem(name)}", {feature: f"{folder}/{name}", "class": number}

    def _pairs(self, beside: UnmatchedFiles) -> Iterator[tuple[str, dict | Reject]]:
        found = {feature: {_stem(name): f"{folder}/{name}" for name in in_folder(self._raw, folder, _is_image, beside)}
                 for feature, folder in self._sensors.items()}
        for name in sorted(set().union(*found.values())):
            gone = [feature for feature in found if name not in found[feature]]
            yield name, (Reject(shown(name), f"no image of {self._sensors[gone[0]]} has this name") if gone else
                         {feature: images[name] for feature, images in found.items()})

    def read(self, entry: Entry) -> Pair | Tile:
        images = {feature: _stored(self._raw / entry.where[feature], name) for feature, name in self._sensors.items()}
        if self._kind == "pairs":
            return Pair.of(entry, images=images, source="image folders")
        return Tile.of(entry, images=images, label=np.array(entry.where["class"], np.int32), source="image folders")


def _class_folders(raw: pathlib.Path) -> list[str]:
    """Returns the folders that hold images, by the alphabet; UserError for fewer than two."""
    found = sorted(item.name for item in raw.iterdir() if item.is_dir() and is_data(item.name)
                   and any(map(_is_image, os.listdir(item))))
    if len(found) < 2:
        raise UserError(f"'{raw}' holds {len(found)} folders with images; --raw must name the folder that holds one "
                        "folder per class, such as 2750 of EuroSAT")
    return found


def _sensor_folders(raw: pathlib.Path) -> list[str]:
    """Returns the folders of the radar and the optical images; UserError if there is not one of each."""
    found = sorted((name for name in _GREY_LEVELS if (raw / name).is_dir()), key=lambda name: SENSORS[name].feature)
    if [SENSORS[name].feature for name in found] != ["s1", "s2"]:
        raise no_such_kind("image_folders", "pairs here", f"'{raw}' has the folders {found}, expected two named as "
                           f"sensors of grey levels, such as s1_vh and s2_rgb (all: {', '.join(_GREY_LEVELS)}); images "
                           "in folders of classes are --kind=tiles")
    return found


def _first_image(raw: pathlib.Path, folders: Sequence[str]) -> np.ndarray:
    """Returns the first image that can be read and is square, looking at one of each folder."""
    reason = UserError(f"the folders {' '.join(folders)} of '{raw}' hold no images")
    for folder in folders:
        for name in sorted(filter(_is_image, os.listdir(raw / folder)))[:1]:
            try:
                image = _image(raw / folder / name)
                if image.shape[0] == image.shape[1]:
                    return image
                reason = UserError(f"'{raw / folder / name}' is {image.shape[0]}x{image.shape[1]} pixels, expected a "
                                   "square; cut your images to one size")
            except UserError as error:
                reason = error
    raise reason


def _is_image(name: str) -> bool:
    return name.lower().endswith(_ENDINGS) and name[0] != "."


def _stem(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _read_table(path: pathlib.Path, rows: dict[str, Row]) -> Iterator[Reject]:
    """Fills id -> row, and yields the rows that cannot be used."""
    for row in tables.read(path, _COLUMNS, ("id",)):
        if isinstance(row, tables.Fault):
            yield Reject(row.where, row.reason)
        elif (name := tables.text(row.cells["id"])) in rows:
            yield Reject(row.where, f"the id '{shown(name)}' stands in {rows[name].where}, too; keep one")
        else:
            rows[name] = row


def _entry(raw: pathlib.Path, name: str, where: dict, row: Row | None, features: Sequence[str]) -> Entry | Reject:
    cells = row.cells if row else {}
    try:
        facts, times = (_row_facts.numbers(row), _row_facts.times(row, features)) if row else ({}, {})
    except ValueError as error:
        return Reject(shown(name), f"{row.where if row else ''} of {TABLE}: {error}")
    lat, lon = facts.get("lat", math.nan), facts.get("lon", math.nan)
    if math.isnan(lat + lon) and (path := where[features[-1]]).lower().endswith(_GEOTIFF):
        lat, lon = raster.listed_centre(raw / path)
    return Entry(name, tables.text(cells.get("location_id")) or name, tables.text(cells.get("split")), where, lat=lat,
                 lon=lon, times=times)


def _kind(path: pathlib.Path) -> str:
    """Returns the kind of a file by its content."""
    try:
        with open(path, "rb") as file:
            return file_kinds.kind_of(file.read(file_kinds.HEAD))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error.strerror}); mend its permissions") from error


def _image(path: pathlib.Path) -> np.ndarray:
    """Returns the values of a file as it has them: [height, width, bands]."""
    if _kind(path) in _pictures.KINDS:
        return _pictures.read(path, ("L", "RGB"))
    return np.moveaxis(raster.load(path).values, 0, -1)


def _stored(path: pathlib.Path, name: str) -> np.ndarray:
    """Returns the values of a file as stored integers of sensor `name`; UserError if it has another form."""
    spec = SENSORS[name]
    if spec.dtype == "uint8" and _kind(path) in _pictures.KINDS:
        return _pictures.read(path, ("L" if len(spec.bands) == 1 else "RGB",))
    missing = {"s1_grd": math.nan, "s2_l1c": 0}.get(name)
    values = np.moveaxis(raster.read(path, len(spec.bands), missing), 0, -1)
    form = values.shape[-1], values.dtype.str[1:]
    if form[1] != "u1" if spec.dtype == "uint8" else _FORMS.get(form) != name:
        raise UserError(f"'{path}' has {form[0]} bands of {values.dtype}, other images here are '{name}'; keep images "
                        "of one form in a folder of their own")
    if name == "s1_grd":
        return db_to_int16(values)
    return remove_s2_offset(values[..., _L1C_ORDER], 0) if name == "s2_l1c" else np.ascontiguousarray(values)
