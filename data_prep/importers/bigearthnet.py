"""BigEarthNet v2 (bigearth.net): Sentinel-1 and Sentinel-2 patches of 1200 m, in two layouts.

The archive:
<raw>/BigEarthNet-S1/<scene>/<s1_name>/<s1_name>_{VV,VH}.tif               float dB
<raw>/BigEarthNet-S2/<tile>/<patch_id>/<patch_id>_{B01,...,B12}.tif        uint16 L2A, native resolution per band
<raw>/Reference_Maps/<tile>/<patch_id>/<patch_id>_reference_map.tif        CORINE codes; needed for tiles only
<raw>/metadata.parquet                                                     patch_id, s1_name, split

The mini sets in configilm wheels (`python -m data_prep sample`), one or several under <raw>:
.../BENv2/BigEarthNet-V2-LMDB                  patch name -> safetensors, one array per band
.../BENv2/metadata.parquet                     (wheel 0.7.1)
.../BENv2/patch_id_{s1,split}_mapping.csv      (wheel 0.6.3)

The table says which S1 patch belongs to an S2 patch; the order of files says nothing. Where the second table,
metadata_for_patches_with_snow_cloud_or_shadow.parquet, is beside the first, its patches are taken too. Table rows of
which neither patch is on disk (a partial download) are left out and counted.
"""

import calendar
import csv
import math
import pathlib
import re
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep import geotiff
from data_prep.importers import Entry, Layout, no_such_kind
from data_prep.radiometry import db_to_int16, remove_s2_offset, upsample_native
from data_prep.record import Pair, Tile
from dual_encoder.errors import UserError
from dual_encoder.sensors import IGNORED, SENSORS

SIZE = 120
CORINE_LEVEL_1 = ("artificial surfaces", "agricultural areas", "forest and semi-natural areas", "wetlands",
                  "water bodies")
_S1_BANDS, _S2_BANDS = SENSORS["s1_grd"].bands, SENSORS["s2_l2a"].bands
_LMDB = "BigEarthNet-V2-LMDB"


class Importer:
    """Reads BigEarthNet v2. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        return Layout(
            sensors={"s1": "s1_grd", "s2": "s2_l2a"}, default=("s1", "s2"), size=SIZE,
            classes=CORINE_LEVEL_1 if kind == "tiles" else (),
            source={"licence": "CDLA-Permissive-1.0",
                    "attribution": "Clasen et al. 2024, reBEN, arXiv 2407.03653; contains modified Copernicus Sentinel "
                                   "data 2017-2018; CORINE Land Cover 2018, European Environment Agency",
                    "notes": "S1 GRD of BigEarthNet-S1 (terrain-corrected, dB); S2 L2A without the +1000 offset; bands "
                             "of 20 m and 60 m repeated to 10 m; neighbouring patches of a scene touch"})

    def __init__(self, raw: pathlib.Path, kind: str, features: tuple[str, ...]):
        self._kind, self._features = kind, features
        archive = (raw / "BigEarthNet-S1").is_dir() or (raw / "BigEarthNet-S2").is_dir()
        self._store = _Folders(raw, kind) if archive else _Lmdbs(raw)
        if kind == "tiles" and not archive:
            raise no_such_kind("bigearthnet", "tiles", f"'{raw}' is a mini set without Reference_Maps; give "
                               "--labels=water_weak or the whole archive")

    def entries(self) -> list[Entry]:
        return self._store.entries()

    def read(self, entry: Entry) -> Pair | Tile:
        images = {}
        if "s1" in self._features:
            images["s1"] = db_to_int16(_stack(self._store.bands(entry, "s1"), _S1_BANDS, entry))
        if "s2" in self._features:
            images["s2"] = remove_s2_offset(_stack(self._store.bands(entry, "s2"), _S2_BANDS, entry), 0)
        lat, lon = self._store.centre(entry)
        common = dict(id=entry.id, s1_time=acquisition_time(entry.where["s1_name"]),
                      s2_time=acquisition_time(entry.id), location_id=entry.location_id, lat=lat, lon=lon,
                      source="BigEarthNet v2", s2_offset_removed=0, split=entry.split)
        if self._kind == "pairs":
            return Pair(s1=images["s1"], s2=images["s2"], **common)
        return Tile(images=images, label=_level_1(self._store.reference_map(entry)), **common)


def acquisition_time(name: str) -> int:
    """Returns the first time in a product or patch name, as Unix seconds UTC; UserError when there is none."""
    match = re.search(r"_(\d{4})(\d\d)(\d\d)T(\d{5,6})_", f"{name}_")
    if match is None:
        raise UserError(f"no acquisition time in the name '{name}'; expected ..._20170613T101031_...")
    clock = match[4].zfill(6)  # BigEarthNet v1 names drop the leading zero of the hour
    return calendar.timegm((*map(int, match.groups()[:3]), int(clock[:2]), int(clock[2:4]), int(clock[4:])))


def place(patch_id: str) -> str:
    """Returns the place of a patch, 'T33UUP_26_57': tile and position, the same for all dates."""
    match = re.search(r"_(T\w{5})_(\d+)_(\d+)$", patch_id)
    if match is None:
        raise UserError(f"patch id '{patch_id}' names no tile and position; expected ..._T33UUP_26_57")
    return f"{match[1]}_{int(match[2])}_{int(match[3])}"


class _Folders:
    """The archive's folders."""

    def __init__(self, raw: pathlib.Path, kind: str):
        self._raw = raw
        for name in ("BigEarthNet-S1", "BigEarthNet-S2") + (("Reference_Maps",) if kind == "tiles" else ()):
            if not (raw / name).is_dir():
                raise UserError(f"'{raw / name}' is missing; --raw must name the folder that holds BigEarthNet-S1, "
                                "BigEarthNet-S2 and metadata.parquet"
                                + (" and, for tiles, Reference_Maps" if kind == "tiles" else ""))

    def entries(self) -> list[Entry]:
        entries, absent = [], 0
        for patch_id, (s1_name, split) in sorted(_table(self._raw).items()):
            s1 = self._raw / "BigEarthNet-S1" / s1_name.rsplit("_", 3)[0] / s1_name
            s2 = self._raw / "BigEarthNet-S2" / patch_id.rsplit("_", 2)[0] / patch_id
            on_disk = s1.is_dir(), s2.is_dir()
            if not any(on_disk):
                absent += 1
                continue
            if not all(on_disk):
                here, gone = (s1, s2) if on_disk[0] else (s2, s1)
                raise UserError(f"'{here}' has no partner '{gone}' (by the metadata table); restore it or remove both")
            entries.append(Entry(patch_id, place(patch_id), split, {"s1_name": s1_name, "s1": s1, "s2": s2}))
        if absent:
            print(f"left out {absent} of {absent + len(entries)} table rows: neither patch is on disk", flush=True)
        return entries

    def bands(self, entry: Entry, feature: str) -> dict[str, np.ndarray]:
        folder = entry.where[feature]
        return {band: geotiff.read(folder / f"{folder.name}_{band}.tif", 1)[0]
                for band in (_S1_BANDS if feature == "s1" else _S2_BANDS)}

    def centre(self, entry: Entry) -> tuple[float, float]:
        return geotiff.centre(entry.where["s2"] / f"{entry.id}_B02.tif")

    def reference_map(self, entry: Entry) -> np.ndarray:
        return geotiff.read(self._raw / "Reference_Maps" / entry.id.rsplit("_", 2)[0] / entry.id
                            / f"{entry.id}_reference_map.tif", 1)[0]


class _Lmdbs:
    """The LMDBs of configilm wheels."""

    def __init__(self, raw: pathlib.Path):
        # Bounded depth: a folder of half a million patches must not be walked to learn that it is no LMDB.
        self._paths = sorted(path for depth in range(6) for path in raw.glob("*/" * depth + _LMDB))
        if not self._paths:
            raise UserError(f"'{raw}' holds neither BigEarthNet-S1 and BigEarthNet-S2 nor a {_LMDB}; fetch a sample "
                            f"with `python -m data_prep sample --out={raw}`")
        self._environments, self._lock = {}, threading.Lock()

    def entries(self) -> list[Entry]:
        entries: dict[str, Entry] = {}
        for path in self._paths:
            with self._environment(path).begin() as transaction:
                stored = {bytes(key).decode() for key, _ in transaction.cursor()}
            for patch_id, (s1_name, split) in _table(path.parent).items():
                if patch_id in entries:
                    continue
                missing = [name for name in (patch_id, s1_name) if name not in stored]
                if missing:
                    raise UserError(f"'{path}' lacks '{missing[0]}', which its table pairs with "
                                    f"'{s1_name if missing[0] == patch_id else patch_id}'; fetch the sample again")
                entries[patch_id] = Entry(patch_id, place(patch_id), split, {"s1_name": s1_name, "lmdb": path})
        return [entries[patch_id] for patch_id in sorted(entries)]

    def bands(self, entry: Entry, feature: str) -> dict[str, np.ndarray]:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        name = entry.where["s1_name"] if feature == "s1" else entry.id
        with self._environment(entry.where["lmdb"]).begin() as transaction:
            try:
                bands = load(transaction.get(name.encode()))
            except SafetensorError as error:
                raise UserError(f"'{entry.where['lmdb']}': '{name}' is damaged ({error}); fetch the sample "
                                "again") from error
        missing = [band for band in (_S1_BANDS if feature == "s1" else _S2_BANDS) if band not in bands]
        if missing:
            raise UserError(f"'{entry.where['lmdb']}': '{name}' has no band {missing[0]}; fetch the sample again")
        return bands

    def centre(self, entry: Entry) -> tuple[float, float]:
        return math.nan, math.nan  # the LMDB has no georeference

    def _environment(self, path: pathlib.Path):
        import lmdb  # here, because the archive does not need it

        with self._lock:  # LMDB must not be opened twice in a process
            if path not in self._environments:
                try:
                    self._environments[path] = lmdb.open(str(path), readonly=True, lock=False)
                except lmdb.Error as error:
                    raise UserError(f"'{path}' cannot be read as LMDB ({error}); fetch the sample again") from error
            return self._environments[path]


def _stack(bands: Mapping[str, np.ndarray], names: Sequence[str], entry: Entry) -> np.ndarray:
    """Stacks bands by name at 10 m: [SIZE, SIZE, bands]."""
    try:
        return np.stack([upsample_native(bands[name], SIZE) for name in names], axis=-1)
    except UserError as error:
        raise UserError(f"patch '{entry.id}' (S1 '{entry.where['s1_name']}'): {error}") from error


def _table(folder: pathlib.Path) -> dict[str, tuple[str, str]]:
    """Reads patch_id -> (s1_name, split) from whichever tables `folder` holds."""
    table = {}
    parquets = [folder / "metadata.parquet", folder / "metadata_for_patches_with_snow_cloud_or_shadow.parquet"]
    s1_csv, split_csv = folder / "patch_id_s1_mapping.csv", folder / "patch_id_split_mapping.csv"
    if parquets[0].is_file():
        import pyarrow
        import pyarrow.parquet

        for path in filter(pathlib.Path.is_file, parquets):
            try:
                columns = pyarrow.parquet.read_table(path, columns=["patch_id", "s1_name", "split"]).to_pydict()
                table |= {row[0]: row[1:] for row in
                          zip(columns["patch_id"], columns["s1_name"], columns["split"], strict=True)}
            except (pyarrow.ArrowException, KeyError) as error:
                raise UserError(f"'{path}' is no table with patch_id, s1_name and split ({str(error)[:120]}); fetch it "
                                "again") from error
    elif s1_csv.is_file() and split_csv.is_file():
        splits = dict(_csv_rows(split_csv))
        table = {patch_id: (s1_name, splits.get(patch_id, "")) for patch_id, s1_name in _csv_rows(s1_csv)}
    else:
        raise UserError(f"'{parquets[0]}' is missing; the table says which S1 patch belongs to which S2 patch, fetch "
                        "it with the images")
    return {patch_id: (s1_name, "validation" if split == "val" else split)
            for patch_id, (s1_name, split) in table.items()}


def _csv_rows(path: pathlib.Path) -> list[tuple[str, str]]:
    with open(path, newline="") as file:
        return [(row[0], row[1]) for row in list(csv.reader(file))[1:] if row]


def _level_1(codes: np.ndarray) -> np.ndarray:
    """CORINE level 3 codes (111..523, 999 no data) -> level 1 class index, uint8; 255 where there is none."""
    level_1 = codes.astype(np.int64) // 100
    return np.where((level_1 >= 1) & (level_1 <= 5), level_1 - 1, IGNORED).astype(np.uint8)
