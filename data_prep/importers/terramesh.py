"""TerraMesh: over 9 million samples of Major TOM Core and SSL4EO-S12 v1.1 in many products (arXiv 2504.11172).

<raw>/{train,val}/{S1GRD,S1RTC,S2L1C,S2L2A,LULC}/{majortom,ssl4eos12}_shard_000001.tar, of <sample>.zarr.zip each with
      bands[time 1, band, y 264, x 264], file_id, time, sample, center_lat, center_lon, in S2 cloud_mask
<raw>/{S1RTC,S2L2A,LULC}/<tile>.tif    the example tiles of TerraMind, 224 pixels; bands have no names and stand in
      the order VV VH and B01 ... B08 B8A B09 B11 B12; S1RTC and LULC have a time, that of LULC is that of S2

A sample that lies in every product of the chosen sensors is a record: those of Major TOM have S1RTC, those of
SSL4EO-S12 S1GRD. Samples that lack a product are counted in a line; an example tile that lacks one is rejected. Samples
of SSL4EO-S12 are one date each, four to a place; `sample` names the place. Tiles take the land cover of LULC: that of
ESRI, with cloud and snow of the S2 image's date drawn in.

Traps. (1) Whether S2 values carry the +1000 offset differs from image to image: see
dual_encoder/imagery/s2_offset.py. (2) Until March 2026 S1GRD was published with S2 of other seasons; times come from
file_id if there is one, so that a limit on the time between the images (--max-gap-days) finds such pairs in old copies.
(3) Land cover 0 is no data.
"""

import contextlib
import math
import pathlib
import re
from collections.abc import Iterator, Mapping

import numpy as np

from data_prep.dates import acquisition_time
from data_prep.importers import Entry, Layout, Reject
from data_prep.importers import _zarr_samples as zarr_samples
from data_prep.importers._unmatched import UnmatchedFiles, in_folder
from data_prep.importers._zarr_samples import PRODUCTS, SPLITS
from data_prep.record import UNKNOWN_TIME, Pair, Tile
from data_prep.zarr_zip import ZarrZip
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery import gdal, raster
from dual_encoder.imagery.radiometry import db_to_int16, remove_s2_offset
from dual_encoder.imagery.s2_offset import detect_s2_offset
from dual_encoder.imagery.sensors import IGNORED, SensorSpec, sensor

SIZE, TILE_SIZE = 264, 224
CLASSES = ("no data", "water", "trees", "flooded vegetation", "crops", "built area", "bare ground", "snow or ice",
           "clouds", "rangeland")
_Read = tuple[dict[str, np.ndarray], np.ndarray | None, dict[str, int], float]  # images, label, times, cloud
_CF_UNITS = {"days": "D", "hours": "h", "minutes": "m", "seconds": "s", "milliseconds": "ms", "microseconds": "us",
             "nanoseconds": "ns"}


class Importer:
    """Reads TerraMesh. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        return Layout(
            sensors={"s1": ("s1_rtc", "s1_grd"), "s2": ("s2_l2a", "s2_l1c")}, default=("s1", "s2"),
            size=TILE_SIZE if raw is not None and _is_tiles(raw) else SIZE,
            label=LabelSpec("pixel_classes", CLASSES) if kind == "tiles" else None,
            source={"licence": "CC-BY-SA-4.0",
                    "attribution": "Blumenstiel et al. 2025, TerraMesh, arXiv 2504.11172, from Major TOM Core and "
                                   "SSL4EO-S12 v1.1; contains modified Copernicus Sentinel data",
                    "notes": "S1 in dB, rounded to float16, gaps filled by their neighbours; bands of 20 m and 60 m "
                             "repeated to 10 m; the S2 offset is detected from the pixels of each image "
                             "(dual_encoder/imagery/s2_offset.py); cloud is the thin and thick cloud of the patch's "
                             "own mask (SEnSeI v2); land cover is that of ESRI, not checked by people"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        specs = {feature: sensor(name) for feature, name in sensors.items()}
        products = {feature: PRODUCTS[spec.name] for feature, spec in specs.items()}
        if kind == "tiles":
            products["label"] = "LULC"
        self._sensors = specs
        self._store = (_Tiles if _is_tiles(raw) else _Shards)(raw, products)

    def entries(self) -> Iterator[Entry | Reject]:
        return self._store.entries()

    def read(self, entry: Entry) -> Pair | Tile:
        images, label, times, cloud = self._store.read(entry, self._sensors)
        offset = 0
        if "s2" in images:
            offset = detect_s2_offset(images["s2"], self._sensors["s2"].bands)
            images["s2"] = remove_s2_offset(images["s2"], offset)
        if label is None:
            return Pair.of(entry, images=images, source="TerraMesh", s2_offset_removed=offset, times=times, cloud=cloud)
        if label.max() >= len(CLASSES):
            raise UserError(f"land cover of '{entry.id}' holds value {label.max()}, expected 0..{len(CLASSES) - 1}; is "
                            "it a LULC file?")
        return Tile.of(entry, images=images, label=np.where(label == 0, IGNORED, label).astype(np.uint8),
                       source="TerraMesh", s2_offset_removed=offset, times=times, cloud=cloud)


class _Shards:
    """The published form: zarr zips in tar shards."""

    def __init__(self, raw: pathlib.Path, products: Mapping[str, str]):
        self._raw, self._features = raw, tuple(products)
        self._products = tuple(products.values())
        self._folders = zarr_samples.split_folders(raw, self._products)

    def entries(self) -> Iterator[Entry | Reject]:
        for folder in self._folders:
            count, lacking = 0, 0
            for found in zarr_samples.samples(self._raw, folder, self._products):
                if isinstance(found, Reject):
                    yield found
                    continue
                name, refs = found
                count += 1
                where = {feature: ref for feature, ref in zip(self._features, refs, strict=True) if ref is not None}
                if len(where) < len(refs):
                    lacking += 1
                    continue
                try:
                    store = self._open(where.get("s2") or where[self._features[0]])
                    lat, lon = (float(store.read(name).reshape(-1)[0]) for name in ("center_lat", "center_lon"))
                    yield Entry(name, _place(name, store), SPLITS[folder], where, lat=lat, lon=lon)
                except UserError as error:
                    yield Reject(name, str(error))
            if lacking:
                print(f"TerraMesh {folder}: {lacking} of {count} samples of {self._products[-1]} are left out, they "
                      f"are not in all of {' '.join(self._products[:-1])}", flush=True)

    def _open(self, ref: zarr_samples.Ref) -> ZarrZip:
        return ZarrZip(self._raw / ref[0], *ref[1:])

    def read(self, entry: Entry, sensors: Mapping[str, SensorSpec]) -> _Read:
        images, label, cloud, date = {}, None, math.nan, {"time": 0}
        times: dict[str, int] = {}
        for feature, ref in entry.where.items():
            store = self._open(ref)
            if feature == "label":
                label = zarr_samples.image(store, date, ["LULC"])[..., 0]
                continue
            times[feature] = _time(store)
            if feature == "s1":
                images["s1"] = zarr_samples.radar(store, date, sensors["s1"])
            else:
                images["s2"] = zarr_samples.image(store, date, sensors["s2"].bands)
                cloud = zarr_samples.cloud_percent(store, date)
        return images, label, times, cloud


class _Tiles:
    """The example tiles: GeoTIFFs without band names."""

    def __init__(self, raw: pathlib.Path, products: Mapping[str, str]):
        self._raw, self._products = raw, products
        for product in products.values():
            if not (raw / product).is_dir():
                raise UserError(f"'{raw / product}' is missing; --raw must name the folder that holds "
                                f"{' and '.join(products.values())}")

    def entries(self) -> Iterator[Entry | Reject]:
        beside = UnmatchedFiles("a name like 433D_1160R_3_1.tif")
        tiles = {product: {name.removesuffix(".tif") for name in in_folder(
            self._raw, product, lambda name: name.endswith(".tif"), beside)} for product in self._products.values()}
        for tile in sorted(set().union(*tiles.values())):
            if lacking := [product for product, there in tiles.items() if tile not in there]:
                yield Reject(tile, f"no {' and no '.join(lacking)} of this tile")
            else:
                lat, lon = raster.listed_centre(self._raw / next(iter(tiles)) / f"{tile}.tif")
                yield Entry(tile, tile, "", {}, lat=lat, lon=lon)
        yield from beside.result()

    def read(self, entry: Entry, sensors: Mapping[str, SensorSpec]) -> _Read:
        paths = {feature: self._raw / product / f"{entry.id}.tif" for feature, product in self._products.items()}
        missing = {"s1": np.nan, "s2": 0}
        images = {feature: np.moveaxis(raster.read(paths[feature], len(spec.bands), missing[feature]), 0, -1)
                  for feature, spec in sensors.items()}
        times: dict[str, int] = {}
        if "s1" in images:
            images["s1"] = db_to_int16(images["s1"])
            times["s1"] = _tag_time(paths["s1"])
        if "s2" in images:
            times["s2"] = _tag_time(self._raw / "LULC" / f"{entry.id}.tif")
        return images, raster.read(paths["label"], 1, IGNORED)[0] if "label" in paths else None, times, math.nan


def _is_tiles(raw: pathlib.Path) -> bool:
    return ((raw / "S1RTC").is_dir() or (raw / "S2L2A").is_dir()) and not zarr_samples.is_split(raw)


def _place(name: str, store: ZarrZip) -> str:
    """Returns the sample's own name, or for the dates of SSL4EO-S12 that of the place, '0194630' of '0194630_1'."""
    if not name.startswith("ssl4eos12"):
        return name
    return str(store.read("sample").reshape(-1)[0]).rsplit("_", 1)[0]


def _time(store: ZarrZip) -> int:
    """Returns the time of a sample's source product, by its name or else by `time`; -1 if neither has one."""
    if "file_id" in store:
        with contextlib.suppress(UserError):
            return acquisition_time(str(store.read("file_id").reshape(-1)[0]))
    if "time" not in store:
        return UNKNOWN_TIME
    values = store.read("time").reshape(-1)
    if values.dtype.kind != "M":
        unit, _, since = store.attributes("time").get("units", "nanoseconds since 1970-01-01").partition(" since ")
        try:
            values = np.datetime64(since.strip().replace(" ", "T")) + values.astype(f"m8[{_CF_UNITS[unit]}]")
        except (KeyError, ValueError):
            return UNKNOWN_TIME
    seconds = int(values.astype("M8[s]").astype(np.int64)[0])
    return seconds if seconds > 0 else UNKNOWN_TIME  # 0: the authors had none


def _tag_time(path: pathlib.Path) -> int:
    """Returns the time in the tag of an example tile, '2021-07-21T08:40:10.000000000'; -1 if there is none."""
    rasterio = gdal.load()

    if not path.is_file():
        return UNKNOWN_TIME
    with contextlib.suppress(UserError), gdal.told(str(path), ""), rasterio.open(path) as file:
        return acquisition_time(re.sub("[-:]", "", file.tags().get("datetime", "")))
    return UNKNOWN_TIME
