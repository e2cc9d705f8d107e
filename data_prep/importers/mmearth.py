"""MMEarth v001 (github.com/vishalned/MMEarth-data): 1.2 million tiles, all in one HDF5 file.

<raw>/data_1M_v001.h5                  also data_1M_v001_64 (64 x 64) and data_100k_v001; <raw> may be the folder above
     /data_1M_v001_tile_info.json      tile_id -> S2_DATE, S2_type, lat, lon, BANDS
     /data_1M_v001_splits.json         {"train": [row, ...], "val": [...], "test": [...]}; optional

Arrays of the file, one chunk per tile:
  metadata    [tiles] tile_id and, in some files, S2_type
  sentinel2   [tiles, 13, H, W] uint16: B1 B2 B3 B4 B5 B6 B7 B8A B8 B9 B10 B11 B12; 0 = no data, B10 all 0 in L2A
  sentinel1   [tiles, 8, H, W] float32 dB: VV VH HH HV ascending, then descending; -inf = the tile has no such image

Each tile whose Sentinel-2 image is of the chosen level becomes a pair; the authors took L1C or L2A at random. Its radar
image is that of the orbit with more pixels in both VV and VH, the ascending one if they are equal.

Traps: the arrays carry no band names and B8A comes before B8. A pixel that Earth Engine masked is 0 dB. In L2A tiles
without the band MSK_CLDPRB the authors' converter counts one band too few and stores the cloud mask QA60 as the first
radar band, every other one a place late: such tiles are rejected. The days of the radar images were not kept.
"""

import calendar
import datetime
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_prep.importers import Entry, Layout, Reject, no_such_kind
from data_prep.importers import _hdf5 as hdf5
from data_prep.importers._unmatched import UnmatchedFiles
from data_prep.names import shown
from data_prep.record import Pair
from data_prep.text_files import read_json
from dual_encoder.errors import UserError
from dual_encoder.imagery.radiometry import db_to_int16, remove_s2_offset
from dual_encoder.imagery.sensors import SENSORS

_LARGEST_SIDE = 1024  # pixels of a tile
_LARGEST_TABLE = 1 << 30  # bytes
_SIZE = 128  # of the full data set; used without a raw folder
_S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B08", "B09", "B10", "B11", "B12")
_ORBITS = {"ascending": slice(0, 2), "descending": slice(4, 6)}  # VV and VH among the eight
_QA60 = (0, 1024, 2048, 3072)


class Importer:
    """Reads MMEarth. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        if kind != "pairs":
            raise no_such_kind("mmearth", kind, "build --kind=pairs, or give --labels=water_weak")
        size = _SIZE
        if raw is not None:
            with _open(_find(raw)) as file:
                size = file["sentinel2"].shape[-1]
        return Layout(
            sensors={"s1": ("s1_grd",), "s2": ("s2_l2a", "s2_l1c")}, default=("s1", "s2"), size=size, label=None,
            source={"licence": "CC-BY-4.0",
                    "attribution": "Nedungadi et al. 2024, MMEarth, ECCV, arXiv 2405.02771; contains modified "
                                   "Copernicus Sentinel data 2017-2020",
                    "notes": "from Google Earth Engine: S1 GRD in dB, of the orbit with more data; S2 without the "
                             "+1000 offset, bands of 20 m and 60 m interpolated to 10 m; S2 times are days at 00:00 "
                             "UTC; S1 times were not published (the image nearest to S2, without a limit), so pairs "
                             "cannot be filtered by the time between them"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._path, self._level = _find(raw), sensors["s2"].removeprefix("s2_")
        self._bands = [_S2_BANDS.index(band) for band in SENSORS[sensors["s2"]].bands]

    def entries(self) -> Iterator[Entry | Reject]:
        beside = UnmatchedFiles(f"'{self._path.name}' and the tables of its name alone")
        for item in self._path.parent.iterdir():
            if item.is_file() and item.name != self._path.name:
                beside.add_data("", item.name)
        yield from beside.result()
        tiles = _read_tile_info(self._companion("tile_info"))
        metadata = self._metadata()
        splits, other_level, other_radar = self._splits(len(metadata)), 0, 0
        for row, tile in enumerate(metadata):
            name = tile["tile_id"].decode(errors="replace")
            if name not in tiles:
                yield Reject(name, f"row {row} of '{self._path.name}' is not in '{self._companion('tile_info').name}'")
                continue
            date, level, latitude, longitude, has_radar = tiles[name]
            if "S2_type" in (metadata.dtype.names or ()) and (stored := tile["S2_type"].decode(errors="replace")
                                                                       ) != level:
                yield Reject(name, f"S2_type is {shown(stored)} in the HDF5 file and {level} in its tile_info")
            elif level != self._level:
                other_level += 1
            elif not has_radar:
                other_radar += 1
            else:
                yield Entry(name, name, splits[row], {"row": row}, lat=latitude, lon=longitude, times={"s2": date})
        if other_level:
            print(f"left out {other_level} of {len(metadata)} tiles: their Sentinel-2 image is not "
                  f"{self._level.upper()} (the other sensor of s2 takes them)", flush=True)
        if other_radar:
            print(f"left out {other_radar} of {len(metadata)} tiles: neither orbit has VV and VH", flush=True)

    def read(self, entry: Entry) -> Pair:
        s2 = self._array("sentinel2", entry.where["row"])
        orbit, db = _radar(self._array("sentinel1", entry.where["row"]), entry.id)
        images = {"s1": db_to_int16(db), "s2": remove_s2_offset(np.moveaxis(s2[self._bands], 0, -1), 0)}
        return Pair.of(entry, images=images, source=f"{self._path.stem}, S1 {orbit}")

    @functools.cached_property
    def _file(self) -> Any:
        return _open(self._path)  # by the process that reads

    def _array(self, name: str, row: int | None = None) -> np.ndarray:
        """Reads one row of an array, or all of them."""
        return hdf5.read(self._file, self._path, name, row)

    def _metadata(self) -> np.ndarray:
        """Returns a row of the table for each tile, with tile_id and perhaps S2_type as bytes."""
        metadata = self._array("metadata")
        fields: Mapping[str, Any] = metadata.dtype.fields or {}
        texts = {"tile_id", "S2_type"} & set(fields)
        if "tile_id" not in texts or any(fields[name][0].kind != "S" for name in texts):
            raise UserError(f"'{self._path}': array 'metadata' is {metadata.dtype}, expected a table with the texts "
                            "tile_id and S2_type; fetch the file again")
        return metadata

    def _companion(self, what: str) -> pathlib.Path:
        return self._path.with_name(f"{self._path.stem}_{what}.json")

    def _splits(self, tiles: int) -> np.ndarray:
        splits = np.full(tiles, "", object)
        if self._companion("splits").is_file():
            path = self._companion("splits")
            said = read_json(path, "the list of the splits")
            if not isinstance(said, dict):
                raise UserError(f"'{path}' holds a {type(said).__name__}, expected rows by split; fetch it again")
            for split, rows in said.items():
                if not (isinstance(rows, list) and all(type(row) is int for row in rows)):
                    raise UserError(f"'{path}': split {shown(split)} is no list of row numbers; fetch it again")
                if rows and not 0 <= min(rows) <= max(rows) < tiles:
                    raise UserError(f"'{path}' has rows {min(rows)} to {max(rows)} in {shown(split)}, "
                                    f"'{self._path.name}' holds {tiles}; fetch the two of one variant")
                splits[rows] = split
        return splits


def _find(raw: pathlib.Path) -> pathlib.Path:
    files = sorted(raw.glob("data_*.h5")) or sorted(raw.glob("*/data_*.h5"))
    if len(files) != 1:
        seen = f"holds {' and '.join(path.name for path in files)}" if files else "holds no data_*.h5"
        raise UserError(f"'{raw}' {seen}; --raw must name the folder of one variant of MMEarth, such as data_1M_v001")
    return files[0]


def _open(path: pathlib.Path) -> Any:
    file, seen = hdf5.opened(path, ("sentinel2", "sentinel1", "metadata"))
    s2, s1, metadata = (seen[name] for name in ("sentinel2", "sentinel1", "metadata"))
    side = s2.shape[-1] if len(s2.shape) == 4 else 0
    for name, form, right in (
            ("sentinel2", s2, len(s2.shape) == 4 and s2.shape[1:] == (len(_S2_BANDS), side, side)
             and 0 < side <= _LARGEST_SIDE and s2.kind in "iuf"),
            ("sentinel1", s1, s1.shape == (s2.shape[0], 8, side, side) and s1.kind == "f" if s2.shape else False),
            ("metadata", metadata, metadata.shape == s2.shape[:1] and metadata.bytes <= _LARGEST_TABLE)):
        if not right or form.chunk > hdf5.LARGEST_CHUNK:
            raise UserError(f"'{path}': array '{name}' is {form}, expected MMEarth v001 (see data_prep/importers/"
                            "mmearth.py); fetch it again")
    return file


def _read_tile_info(path: pathlib.Path) -> dict[str, tuple[int, str, float, float, bool]]:
    """Reads tile_id -> (day of S2, 'l2a' or 'l1c', latitude, longitude, whether an orbit has VV and VH)."""
    def keep(found: dict) -> Any:  # while parsing: the whole content would take many times the file's size of memory
        if "S2_DATE" in found:
            day = datetime.date.fromisoformat(found["S2_DATE"])
            facts = found["S2_type"], float(found["lat"]), float(found["lon"]), bool(found["BANDS"])
            return calendar.timegm(day.timetuple()), *facts
        if "sentinel2" in found:  # BANDS
            return any({"VV", "VH"} <= set(found.get(f"sentinel1_{orbit}") or ()) for orbit in ("asc", "desc"))
        return found if any(isinstance(tile, tuple) for tile in found.values()) else None

    try:
        tiles = read_json(path, "the table of the tiles", keep)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}': a tile lacks or has another kind of S2_DATE, S2_type, lat, lon or BANDS "
                        f"({error}); fetch it again") from error
    found = tiles if isinstance(tiles, dict) else {}
    return {name: tile for name, tile in found.items() if isinstance(tile, tuple)}


def _radar(s1: np.ndarray, name: str) -> tuple[str, np.ndarray]:
    """Chooses between the orbits of a tile.

    Args:
      s1: float [8, height, width], dB, -inf or 0 = no data.
      name: the tile, for the error.

    Returns:
      The orbit and its image, float [height, width, 2] dB, NaN = no data.
    """
    present = [band for band in s1 if np.isfinite(band).any()]
    # Zeros alone may be a masked image; a cloud mask of zeros has radar behind it.
    if len(present) > 1 and np.isin(present[0], _QA60).all() and (present[0].any() or present[1].any()):
        raise UserError(f"tile '{name}': the first radar band holds the cloud mask QA60, not decibels; its bands were "
                        "shifted when the data set was made, leave it out")
    images = {orbit: np.where(np.isfinite(s1[bands]) & (s1[bands] != 0), s1[bands], np.nan)
              for orbit, bands in _ORBITS.items()}
    valid = {orbit: int(np.isfinite(image).all(axis=0).sum()) for orbit, image in images.items()}
    orbit = max(valid, key=lambda name: valid[name])  # the first one if they are equal
    return orbit, np.moveaxis(images[orbit], 0, -1)
