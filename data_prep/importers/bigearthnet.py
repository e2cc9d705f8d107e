"""BigEarthNet v1 and v2 (bigearth.net): Sentinel-1 and Sentinel-2 patches of 1200 m, in three layouts.

The v2 archive:
<raw>/BigEarthNet-S1/<scene>/<s1_name>/<s1_name>_{VV,VH}.tif               float dB
<raw>/BigEarthNet-S2/<scene>/<patch_id>/<patch_id>_{B01,...,B12}.tif       uint16 L2A, native resolution per band
<raw>/Reference_Maps/<scene>/<patch_id>/<patch_id>_reference_map.tif       CORINE codes; for tiles with their labels
<raw>/metadata.parquet                                                     patch_id, s1_name, split, labels

The v1 archive; no maps, and older atmospheric correction: do not mix its S2 statistics with those of v2:
<raw>/BigEarthNet-S1-v1.0/<s1_name>/<s1_name>_{VV,VH}.tif
<raw>/BigEarthNet-v1.0/<patch_id>/<patch_id>_{B01,...,B12}.tif
<raw>/BigEarthNet-v1.0/<patch_id>/<patch_id>_labels_metadata.json          "labels"; for --labels=land_cover_43
<raw>/{bigearthnet-,}{train,val,test}.csv                                  lines patch_id,s1_name

The v2 mini sets in configilm wheels (`python -m data_prep sample`), one or several under <raw>:
.../BENv2/BigEarthNet-V2-LMDB                  patch name -> safetensors, one array per band
.../BENv2/metadata.parquet                     (wheel 0.7.1)
.../BENv2/patch_id_{s1,split,label}_mapping.csv    (wheel 0.6.3)

The tables name the S1 patch of each S2 patch; the order of files has no meaning. If the second v2 table,
metadata_for_patches_with_snow_cloud_or_shadow.parquet, is in the same folder, its patches are taken too. Table rows of
which neither patch is on disk (a partial download) are left out and counted.

Tiles take the CORINE classes of the pixels from the reference maps. With --labels=land_cover they take the land cover
of the whole patch from the v2 tables instead: each of 19 classes that occurs in it. That needs no maps. With
--labels=land_cover_43 they take each of the 43 classes that the JSON files of the v1 patches name (those of the S1
patches if S2 is not built); v2 has only the 19.

Names: S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57 is column 26 and row 57 of a grid of 1200 m from the upper
left corner of tile 33UUP. v1 names lack the tile (it is in the S1 name), and the clock in them lost its leading zero.
"""

import dataclasses
import functools
import itertools
import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_prep.importers import Entry, Layout, Reject, Unmatched, no_such_kind
from data_prep.importers import _bigearthnet_tables as tables
from data_prep.importers import _bigearthnet_v1_labels as v1_labels
from data_prep.importers._bigearthnet_lmdb import Lmdbs
from data_prep.importers._unmatched import NamedPaths, UnmatchedFiles, is_data
from data_prep.record import Pair, Tile
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.grid import to_crs
from dual_encoder.imagery.radiometry import db_to_int16, remove_s2_offset, upsample_native
from dual_encoder.imagery.sensors import IGNORED, SENSORS

SIZE = 120
CORINE_LEVEL_1 = ("artificial surfaces", "agricultural areas", "forest and semi-natural areas", "wetlands",
                  "water bodies")
LAND_COVER, LAND_COVER_43 = "land_cover", "land_cover_43"  # names of the labels per patch, of v2 and of v1
_METRES = 1200
_SPECS = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}
_BANDS = {feature: spec.bands for feature, spec in _SPECS.items()}
_ROOTS = {2: {"s1": "BigEarthNet-S1", "s2": "BigEarthNet-S2"},
          1: {"s1": "BigEarthNet-S1-v1.0", "s2": "BigEarthNet-v1.0"}}
_MAPS, _NO_CODE = "Reference_Maps", 999


class Importer:
    """Reads BigEarthNet. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        return Layout(
            sensors={"s1": ("s1_grd",), "s2": ("s2_l2a",)}, default=("s1", "s2"), size=SIZE,
            label=LabelSpec("pixel_classes", CORINE_LEVEL_1) if kind == "tiles" else None,
            other_labels={
                LAND_COVER: LabelSpec("image_classes", tables.LAND_COVER),
                LAND_COVER_43: LabelSpec("image_classes", v1_labels.LAND_COVER_43)} if kind == "tiles" else {},
            source={"licence": "CDLA-Permissive-1.0",
                    "attribution": "v2: Clasen et al. 2024, reBEN, arXiv 2407.03653; v1: Sumbul et al. 2021, "
                                   "BigEarthNet-MM, arXiv 2105.07921; contains modified Copernicus Sentinel data "
                                   "2017-2018; CORINE Land Cover 2018, European Environment Agency",
                    "notes": "S1 GRD of BigEarthNet-S1 (terrain-corrected, dB); S2 L2A without the +1000 offset, v1 "
                             "and v2 by different versions of sen2cor (see each record's source); bands of 20 m and "
                             "60 m repeated to 10 m; neighbouring patches of a tile touch, tiles overlap by 10 km"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str], labels: str = ""):
        self._kind, self._labels, self._features = kind, labels, tuple(sensors)
        maps, classes = kind == "tiles" and not labels, labels == LAND_COVER
        version = next((version for version, roots in _ROOTS.items()
                        if any((raw / root).is_dir() for root in roots.values())), None)
        if maps and version != 2:
            raise no_such_kind("bigearthnet", "tiles", f"'{raw}' is not the archive of v2 with its {_MAPS}; name that "
                               "or give --labels=water_weak or, for v2, --labels=land_cover")
        if classes and version == 1:
            raise no_such_kind("bigearthnet", "labels 'land_cover' of v1", "its lists name no classes; use the tables "
                               "of v2 or --labels=land_cover_43")
        if labels == LAND_COVER_43 and version != 1:
            raise no_such_kind("bigearthnet", "labels 'land_cover_43' of v2", "its tables name 19 classes; use the "
                               "archive of v1 or --labels=land_cover")
        self._store: Lmdbs | _Archive
        if version is None:
            self._store = Lmdbs(raw, classes)
        else:
            self._store = _Archive(raw, version, self._features, maps=maps, classes=classes)

    def entries(self) -> Iterator[Entry | Reject]:
        yield from self._store.entries()

    def read(self, entry: Entry) -> Pair | Tile:
        stacks = {feature: _stack(self._store.bands(entry, feature, _BANDS[feature]), _BANDS[feature], entry)
                  for feature in self._features}
        # Neither version's S2 products carry the offset of processing baseline 04.00.
        images = {feature: db_to_int16(stack) if feature == "s1" else remove_s2_offset(stack, 0)
                  for feature, stack in stacks.items()}
        source = f"BigEarthNet v{self._store.version}"
        if self._kind == "pairs":
            return Pair.of(entry, images=images, source=source)
        if self._labels == LAND_COVER:
            return Tile.of(entry, images=images, source=source,
                           label=_present(entry.where[LAND_COVER], len(tables.LAND_COVER)))
        assert isinstance(self._store, _Archive)  # the LMDBs have neither maps nor JSON files
        if self._labels == LAND_COVER_43:
            return Tile.of(entry, images=images, source=source,
                           label=_present(self._store.v1_labels(entry), len(v1_labels.LAND_COVER_43)))
        label = _level_1(self._store.reference_map(entry))
        for feature, image in images.items():
            label[~_SPECS[feature].holds_data(image)] = IGNORED
        return Tile.of(entry, images=images, label=label, source=source)


class _Archive:
    """The folders of an archive."""

    def __init__(self, raw: pathlib.Path, version: int, features: tuple[str, ...], *, maps: bool, classes: bool):
        """Prepares to read an archive; `maps`: its reference maps are read, too, `classes`: those of its tables."""
        self._raw, self.version, self._features, self._classes = raw, version, features, classes
        needed = [_ROOTS[version][feature] for feature in features] + ([_MAPS] if maps else [])
        for name in needed:
            if not (raw / name).is_dir():
                raise UserError(f"'{raw / name}' is missing; --raw must name the folder that holds "
                                f"{', '.join(needed)} and the tables")
        self._names = functools.lru_cache(maxsize=8)(self._read_names)
        self._corners: dict[str, tuple] = {}

    def entries(self) -> Iterator[Entry | Reject]:
        absent = total = 0
        named = NamedPaths()
        rows = tables.read(self._raw, self._classes) if self.version == 2 else tables.read_v1(self._raw)
        for _, scene in itertools.groupby(rows, key=lambda row: row.patch_id.rsplit("_", 2)[0]):
            found: list[Entry] = []
            for row in scene:
                total += 1
                folders = {feature: self._folder(feature, row) for feature in self._features}
                for folder in folders.values():
                    named.add(folder)
                here = [feature for feature, folder in folders.items() if self._is_there(folder)]
                if not here:
                    absent += 1
                    continue
                item = tables.entry(row, folders | {"s1_name": row.s1_name}, self._features, self._classes)
                if gone := [feature for feature in folders if feature not in here]:
                    item = Reject(row.patch_id, f"'{folders[here[0]]}' has no partner '{folders[gone[0]]}' (by the "
                                                "table)")
                if isinstance(item, Reject):
                    yield item
                else:
                    found.append(item)
            yield from self._located(found)
        if absent:
            print(f"left out {absent} of {total} table rows: no patch is on disk", flush=True)
        yield from self._beside(named)

    def _beside(self, named: NamedPaths) -> Iterator[Unmatched]:
        """Yields the count of the patches on disk that no row names, and of files beside them."""
        beside = UnmatchedFiles("a patch that the table names")
        for feature in self._features:
            root = _ROOTS[self.version][feature]
            scenes = [f"{root}/{name}" for name in self._folders(root, beside)] if self.version == 2 else [root]
            for scene in scenes:
                for name in self._folders(scene, beside):
                    if (patch := f"{scene}/{name}") not in named:
                        beside.add(f"{patch}/")
        yield from beside.result()

    def _folders(self, folder: str, beside: UnmatchedFiles) -> Iterator[str]:
        with os.scandir(self._raw / folder) as items:
            for item in items:
                if item.is_dir() and is_data(item.name):
                    yield item.name
                else:
                    beside.add_data(folder, item.name)

    def _folder(self, feature: str, row: tables.Row) -> str:
        name, parts = (row.s1_name, 3) if feature == "s1" else (row.patch_id, 2)
        scene = f"{name.rsplit('_', parts)[0]}/" if self.version == 2 else ""
        return f"{_ROOTS[self.version][feature]}/{scene}{name}"

    def _is_there(self, folder: str) -> bool:
        parent, name = folder.rsplit("/", 1)
        return name in self._names(parent)

    def _read_names(self, folder: str) -> frozenset[str]:
        # One listing of a folder is faster than a look at each of its patches.
        path = self._raw / folder
        return frozenset(child.name for child in path.iterdir()) if path.is_dir() else frozenset()

    def _located(self, scene: list[Entry]) -> Iterator[Entry]:
        """Adds latitudes and longitudes to the entries of a scene; one patch of each tile gives the grid of all."""
        for tile, grouped in itertools.groupby(scene, key=lambda item: item.location_id.split("_")[0]):
            items = list(grouped)
            if tile not in self._corners:
                self._corners[tile] = self._corner(items)
            crs, left, top = self._corners[tile]
            if crs is None:
                yield from items
                continue
            columns, lines = zip(*(map(int, item.location_id.split("_")[1:]) for item in items), strict=True)
            lons, lats = to_crs(crs, "EPSG:4326", [left + (x + 0.5) * _METRES for x in columns],
                                [top - (y + 0.5) * _METRES for y in lines])
            for item, lat, lon in zip(items, lats, lons, strict=True):
                yield dataclasses.replace(item, lat=lat, lon=lon)

    def _corner(self, items: list[Entry]) -> tuple:
        """Returns (CRS, x, y) of the upper left corner of a tile's grid; CRS is None if no patch has one."""
        feature = self._features[-1]
        band = {"s1": "VV", "s2": "B02"}[feature]  # of 10 m
        for item in items:
            folder = self._raw / item.where[feature]
            try:
                grid = raster.load(folder / f"{folder.name}_{band}.tif").grid
            except UserError:  # reading reports it
                continue
            column, line = map(int, item.location_id.split("_")[1:])
            return grid.crs, grid.transform.c - column * _METRES, grid.transform.f + line * _METRES
        return None, math.nan, math.nan

    def bands(self, entry: Entry, feature: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        folder = self._raw / entry.where[feature]
        return raster.read_bands({band: folder / f"{folder.name}_{band}.tif" for band in names}, SIZE,
                                 np.nan if feature == "s1" else 0)

    def v1_labels(self, entry: Entry) -> list[int]:
        return v1_labels.read(self._raw / entry.where["s2" if "s2" in self._features else "s1"])

    def reference_map(self, entry: Entry) -> np.ndarray:
        return raster.read(self._raw / _MAPS / entry.id.rsplit("_", 2)[0] / entry.id
                           / f"{entry.id}_reference_map.tif", 1, missing=_NO_CODE)[0]


def _stack(bands: Mapping[str, np.ndarray], names: Sequence[str], entry: Entry) -> np.ndarray:
    """Stacks bands by name at 10 m: [SIZE, SIZE, bands]."""
    try:
        return np.stack([upsample_native(bands[name], SIZE) for name in names], axis=-1)
    except UserError as error:
        raise UserError(f"patch '{entry.id}' (S1 '{entry.where['s1_name']}'): {error}") from error


def _present(numbers: Sequence[int], classes: int) -> np.ndarray:
    """Returns uint8 [classes], 1 for the numbers of the classes that occur."""
    present = np.zeros(classes, np.uint8)
    present[list(numbers)] = 1
    return present


def _level_1(codes: np.ndarray) -> np.ndarray:
    """CORINE level 3 codes (111..523, 999 no data) -> level 1 class index, uint8; 255 for codes without one."""
    level_1 = codes.astype(np.int64) // 100
    return np.where((level_1 >= 1) & (level_1 <= 5), level_1 - 1, IGNORED).astype(np.uint8)
