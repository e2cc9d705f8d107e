"""A generic layout for your own data: a folder of .npz files, read image by image.

Every file holds, for N images (written by np.savez or np.savez_compressed, no object arrays):

    id            str [N]
    s1            float [N, bands, height, width], dB, not finite = no data   or
    s1_cdb        int16 [N, bands, height, width], hundredths of dB, -32768 = no data
    s1_bands      str [bands], e.g. VV VH: bands are picked by these names, in any order
    s2            uint16 [N, bands, height, width], reflectance x 10000, offset removed, 0 in all bands = no data
    s2_bands      str [bands], e.g. B01 ... B12
    optional      s1_before or s1_before_cdb, s2_before: as s1, s1_cdb, s2, the same places before a change;
                  label uint8 [N, height, width] (255 = ignored) with classes str [classes]; s1_time, s2_time int64 [N]
                  Unix seconds; lat, lon float [N] degrees; location_id, split str [N]; s1_sensor, s2_sensor str [],
                  names of dual_encoder.sensors (else s1_grd, and s2_l1c with a B10 or s2_l2a without); licence,
                  attribution str []

Files with some of a sensor's bands make a sensor of their own, named with them, as s2_l2a:B02+B03+B04.

Tiles may hold one sensor only. All files of a folder must agree in size and sensors.
"""

import math
import pathlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from data_prep.importers import LATEST_TIME, Entry, Layout, Reject, Unmatched, no_such_kind
from data_prep.importers._unmatched import UnmatchedFiles
from data_prep.npz_file import NpzFile
from data_prep.record import Pair, Tile
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery.radiometry import db_to_int16
from dual_encoder.imagery.sensors import SensorSpec, before, sensor

_EARLIER = {before(feature): feature for feature in ("s1", "s2")}
_IMAGES = ("s1", "s1_cdb", "s2", "s1_before", "s1_before_cdb", "s2_before", "label")  # the large ones, read row by row
_SMALL = ("id", "s1_bands", "s2_bands", "classes", "s1_time", "s2_time", "lat", "lon", "location_id", "split",
          "s1_sensor", "s2_sensor", "licence", "attribution")
_LARGEST_SIDE = 8192  # pixels
_TEXT, _DEGREES, _TIME = ("Uiu", "text"), ("fiu", "degrees"), ("iu", "integers, Unix seconds")  # kinds of dtype
_FACTS = {"location_id": _TEXT, "split": _TEXT, "lat": _DEGREES, "lon": _DEGREES, "s1_time": _TIME,
          "s2_time": _TIME}  # one of each per image


class Importer:
    """Reads .npz files. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        if raw is None:
            raise UserError("importer 'npz' has no fixed sensors and size; name them in the config's JSON or build "
                            "with `python -m data_prep build`")
        path = _files(raw)[0]
        small = _small(path)
        sensors = _sensors(small, path)
        if kind == "pairs" and len(sensors) < 2:
            raise UserError(f"'{path}' holds only {sorted(sensors)} (by its *_bands arrays), pairs need s1 and s2; add "
                            "the other or build --kind=tiles")
        if kind == "tiles" and ("label" not in small["shapes"] or "classes" not in small):
            raise no_such_kind("npz", "tiles", f"'{path}' lacks the arrays label and classes; add them or give "
                               "--labels=water_weak")
        image = next((name for name in ("s2", "s1", "s1_cdb") if name in small["shapes"]), None)
        shape = small["shapes"].get(image)
        if shape is not None and not (len(shape) == 4 and 0 < shape[-1] <= _LARGEST_SIDE):
            raise UserError(f"'{path}': {image} has the shape {list(shape)}, expected [images, bands, height, width] "
                            f"with sides of at most {_LARGEST_SIDE}")
        if image is None or not sensors:
            raise UserError(f"'{path}' holds no s1, s1_cdb or s2 with its s1_bands or s2_bands; see "
                            "data_prep/importers/npz.py")
        return Layout(
            sensors={feature: (name,) for feature, name in sensors.items()}, default=tuple(sensors),
            size=small["shapes"][image][-1], by_name=True,
            label=LabelSpec("pixel_classes", tuple(map(str, small["classes"]))) if kind == "tiles" else None,
            source={"licence": str(small.get("licence", "not stated in the files")),
                    "attribution": str(small.get("attribution", "not stated in the files")),
                    "notes": "from .npz files"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw, self._kind = raw, kind
        self._sensors = {feature: sensor(name) for feature, name in sensors.items()}
        self._open: NpzFile | None = None  # entries come file by file

    def entries(self) -> Iterator[Entry | Reject]:
        yield from _beside(self._raw)
        first, expected = _files(self._raw)[0].name, self.layout(self._kind, self._raw).sensors
        for path in _files(self._raw):
            small = _small(path)
            if (seen := {feature: (name,) for feature, name in _sensors(small, path).items()}) != expected:
                raise UserError(f"'{path}' holds {seen}, '{first}' in the same folder holds {expected}; keep files of "
                                "different sensors in different folders")
            ids = _need(small, "id", path).astype(str)
            ids = ids.reshape(-1)
            lengths = {name: shape[0] if shape else 0 for name, shape in small["shapes"].items()}
            for name, length in (lengths | {name: small[name].size for name in _FACTS if name in small}).items():
                if length != len(ids):
                    raise UserError(f"'{path}': {name} has {length} entries, id has {len(ids)}; make them equal")
            small |= {name: _fact(small[name], name, path) for name in _FACTS if name in small}
            locations, splits = small.get("location_id", ids), small.get("split", np.full(len(ids), ""))
            for row, name in enumerate(ids):
                lat, lon = (small[key][row].item() if key in small else math.nan for key in ("lat", "lon"))
                times = {key.removesuffix("_time"): small[key][row].item() for key in ("s1_time", "s2_time")
                         if key in small}
                yield Entry(str(name), str(locations[row]), str(splits[row]), {"file": path.name, "row": row},
                            lat=lat, lon=lon, times=times)

    def read(self, entry: Entry) -> Pair | Tile:
        path, row = self._raw / entry.where["file"], entry.where["row"]
        if self._open is None or self._open.path != path:
            if self._open is not None:
                self._open.close()
            self._open = NpzFile(path)
        images = {feature: _image(self._open, feature, spec, row) for feature, spec in self._sensors.items()}
        if self._kind == "pairs":
            return Pair.of(entry, images=images, source=path.stem)
        return Tile.of(entry, images=images, label=_row(self._open, "label", row), source=path.stem)


def _files(raw: pathlib.Path) -> list[pathlib.Path]:
    if raw.is_file():
        raise UserError(f"'{raw}' is a file; --raw must name the folder that holds it, '{raw.parent}'")
    files = sorted(path for path in raw.glob("*.npz") if path.name[0] != ".")
    if not files:
        raise UserError(f"'{raw}' holds no .npz file; see data_prep/importers/npz.py for the layout")
    return files


def _beside(raw: pathlib.Path) -> Iterator[Unmatched]:
    """Yields the count of files beside the .npz files, and of folders that hold some."""
    beside = UnmatchedFiles("a name that ends in .npz, in the folder itself")
    for item in raw.iterdir():
        if next(item.glob("[!.]*.npz"), None) if item.is_dir() else item.suffix != ".npz":
            beside.add_data("", item.name, item.is_dir)
    yield from beside.result()


def _sensors(small: dict, path: pathlib.Path) -> dict[str, str]:
    """Returns feature -> sensor name of the images in a file; UserError for names of bands that are no part of it."""
    usual = {"s1": "s1_grd", "s2": "s2_l1c" if "B10" in small.get("s2_bands", ()) else "s2_l2a"}
    sensors = {feature: _stored_as(str(small.get(f"{feature}_sensor", usual[feature])), f"{feature}_bands", small, path)
               for feature in usual if f"{feature}_bands" in small}
    return sensors | {earlier: sensors[feature] for earlier, feature in _EARLIER.items()
                      if feature in sensors and {earlier, f"{earlier}_cdb"} & set(small["shapes"])}


def _stored_as(name: str, key: str, small: dict, path: pathlib.Path) -> str:
    """Returns the name of the sensor whose bands a file has, out of those of sensor `name`."""
    bands = small[key].astype(str).reshape(-1).tolist()
    of = sensor(name)
    try:
        return of.stored_as(bands).name
    except UserError as error:
        raise UserError(f"'{path}': {key}: {error}, or set {key.removesuffix('bands')}sensor") from error


def _small(path: pathlib.Path) -> dict:
    """Returns the arrays of a file without the images, and 'shapes' of the images."""
    file = NpzFile(path)
    try:
        shapes = {name: file.headers[name].shape for name in _IMAGES if name in file.headers}
        return {name: file.whole(name) for name in file.headers if name in _SMALL} | {"shapes": shapes}
    finally:
        file.close()


def _fact(values: np.ndarray, name: str, path: pathlib.Path) -> np.ndarray:
    """Returns [images] of one of _FACTS; UserError for values of another kind."""
    kinds, expected = _FACTS[name]
    if values.dtype.kind not in kinds:
        raise UserError(f"'{path}': {name} is {values.dtype}, expected {expected}; convert it")
    if name.endswith("_time") and values.size and values.max() > LATEST_TIME:
        raise UserError(f"'{path}': {name} holds {values.max()}, expected Unix seconds; divide milliseconds by 1000")
    return values.reshape(-1)


def _need(arrays: dict, name: str, path: pathlib.Path) -> np.ndarray:
    _require(name, arrays, path)
    return arrays[name]


def _require(name: str, held: Collection[str], path: pathlib.Path) -> None:
    if name not in held:
        raise UserError(f"'{path}' lacks the array '{name}'; see data_prep/importers/npz.py for the layout")


def _row(file: NpzFile, name: str, row: int) -> np.ndarray:
    _require(name, file.headers, file.path)
    return file.row(name, row)


def _image(file: NpzFile, feature: str, spec: SensorSpec, row: int) -> np.ndarray:
    path, of = file.path, _EARLIER.get(feature, feature)
    _require(f"{of}_bands", file.headers, path)
    bands = file.whole(f"{of}_bands").astype(str).reshape(-1).tolist()
    missing = [band for band in spec.bands if band not in bands]
    if missing:
        raise UserError(f"'{path}': {of}_bands is {' '.join(bands)}, sensor '{spec.name}' needs also "
                        f"{' '.join(missing)}; add them, or keep files of other bands in another folder")
    order = [bands.index(band) for band in spec.bands]
    stored = of == "s1" and f"{feature}_cdb" in file.headers
    values = _row(file, f"{feature}_cdb" if stored else feature, row)
    if values.ndim != 3 or len(values) != len(bands):
        raise UserError(f"'{path}': {feature} of row {row} has the shape {list(values.shape)}, expected {len(bands)} "
                        f"bands for {of}_bands")
    image = np.moveaxis(values[order], 0, -1)
    if of == "s1" and not stored and spec.dtype == "int16":
        if not np.issubdtype(image.dtype, np.floating):
            raise UserError(f"'{path}': {feature} is {image.dtype}, expected float dB; name hundredths of dB "
                            f"'{feature}_cdb'")
        return db_to_int16(image)
    image = np.ascontiguousarray(image)
    if stored:  # one band without data: the pixel has none
        image[(image == spec.no_data).any(axis=-1)] = spec.no_data
    return image
