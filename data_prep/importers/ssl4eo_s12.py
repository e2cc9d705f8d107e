"""SSL4EO-S12 v1.0: 251,079 places around cities, four dates each, one GeoTIFF per band (arXiv 2211.07044).

<raw>/s1/0000200/S1A_IW_GRDH_1SDV_20200607T010800_..._D457/{VV,VH}.tif + metadata.json     float32 dB, 0 = no data
     /s2c/0000200/20200604T054639_20200604T054831_T43RCP/{B1,B2,...,B8,B8A,B9,B10,B11,B12}.tif + metadata.json    L1C
     /s2a/0000200/<same form>/{B1,...,B8,B8A,B9,B11,B12}.tif + metadata.json    L2A; S2 is uint16, native resolution
     /void_ids.csv or data/void_ids.csv: numbers of gaps, left out; optional

Only s1 and the folder of the chosen Sentinel-2 product are needed. Places are numbered with 7 digits in the published
archives and with 6 by the authors' downloader. The dates of a place make pairs, nearest times first; a record is a
Sentinel-2 image with its radar image.

Traps. (1) Names of S1 images sort by satellite (S1A before S1B), those of S2 by time: pairing goes by the time in the
name. (2) A radar value of 0 is no data, not a very strong echo. (3) The coordinates of a place's S1 and S2 images are
3 to 4 pixels apart, yet their pixels correspond by index. (4) Both S2 products are older than the +1000 offset.
"""

import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.dates import acquisition_time
from data_prep.importers import Entry, Layout, Reject, no_such_kind
from data_prep.importers._unmatched import UnmatchedFiles
from data_prep.pairing import nearest_in_time
from data_prep.record import Pair
from data_prep.text_files import read_json, read_text
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.radiometry import db_to_int16, remove_s2_offset, upsample_native
from dual_encoder.imagery.sensors import sensor

SIZE = 264
_FOLDERS = {"s1_grd": "s1", "s2_l2a": "s2a", "s2_l1c": "s2c"}


class Importer:
    """Reads SSL4EO-S12 v1.0. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        if kind != "pairs":
            raise no_such_kind("ssl4eo_s12", kind, "build --kind=pairs or give --labels=water_weak")
        return Layout(
            sensors={"s1": ("s1_grd",), "s2": ("s2_l2a", "s2_l1c")}, default=("s1", "s2"), size=SIZE, label=None,
            source={"licence": "CC-BY-4.0",
                    "attribution": "Wang et al. 2023, SSL4EO-S12, arXiv 2211.07044; contains modified Copernicus "
                                   "Sentinel data",
                    "notes": "places lie within about 50 km of large cities and many overlap; S1 GRD of Earth Engine "
                             "in dB, ascending and descending; S2 without the +1000 offset, bands of 20 m and 60 m "
                             "repeated to 10 m; cloud is that of the whole Sentinel-2 scene; no splits by the "
                             "authors"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw = raw
        self._sensors = {feature: sensor(sensors[feature]) for feature in ("s1", "s2")}
        self._folders = [_FOLDERS[spec.name] for spec in self._sensors.values()]
        for folder in self._folders:
            if not (raw / folder).is_dir():
                raise UserError(f"'{raw / folder}' is missing; --raw must name the folder of SSL4EO-S12 v1.0 that "
                                f"holds {' and '.join(self._folders)}")

    def entries(self) -> Iterator[Entry | Reject]:
        places = UnmatchedFiles("a folder whose name is a number of 6 or 7 digits, each once")
        products = UnmatchedFiles("a folder with the name of a product")
        numbered: list[dict[int, str]] = []
        for folder in self._folders:
            numbered.append({})
            for name in _subfolders(self._raw, folder, re.compile(r"\d{6,7}"), places):
                if int(name) in numbered[-1]:  # 000200 and 0000200
                    places.add(f"{folder}/{name}/")
                else:
                    numbered[-1][int(name)] = f"{folder}/{name}"
        for number in sorted(set().union(*numbered) - _void(self._raw)):
            place, paths = f"{number:07d}", [folders[number] for folders in numbered if number in folders]
            if len(paths) < len(numbered):
                lacking = next(name for name, folders in zip(self._folders, numbered, strict=True)
                               if number not in folders)
                yield Reject(place, f"no folder in {lacking}")
                continue
            images = [[(name, f"{path}/{name}") for name in _subfolders(self._raw, path, re.compile(r".*"), products)]
                      for path in paths]
            lat, lon = raster.listed_centre(self._raw / images[1][0][1] / "B1.tif") if images[1] else (
                math.nan, math.nan)
            for found in pair_dates(place, *images):
                if isinstance(found, Reject):
                    yield found
                    continue
                (s1_time, s1), (s2_time, s2) = found
                yield Entry(f"{place}_{pathlib.PurePosixPath(s2).name}", place, "", {"s1": s1, "s2": s2}, lat=lat,
                            lon=lon, times={"s1": s1_time, "s2": s2_time})
        yield from places.result()
        yield from products.result()

    def read(self, entry: Entry) -> Pair:
        s1, s2 = (self._bands(entry.where[feature], self._sensors[feature].bands) for feature in ("s1", "s2"))
        images = {"s1": db_to_int16(np.where(s1 == 0, np.nan, s1)), "s2": remove_s2_offset(s2, 0)}
        cloud = _cloud(self._raw / entry.where["s2"] / "metadata.json")
        return Pair.of(entry, images=images, source="SSL4EO-S12 v1.0", cloud=cloud)

    def _bands(self, folder: str, bands: Sequence[str]) -> np.ndarray:
        paths = {band: self._raw / folder / f"{band.replace('B0', 'B')}.tif" for band in bands}
        images = []
        for band, values in raster.read_bands(paths, SIZE, missing=0).items():  # 0 in S1 is no data, too
            try:
                images.append(upsample_native(values, SIZE))
            except UserError as error:
                raise UserError(f"'{paths[band]}': {error}") from error
        return np.stack(images, axis=-1)


def pair_dates(place: str, s1: Sequence[tuple[str, Any]], s2: Sequence[tuple[str, Any]],
               ) -> Iterator[tuple[tuple[int, Any], tuple[int, Any]] | Reject]:
    """Pairs the images of one place one to one by the times in their names.

    Args:
      place: for the ids of rejects.
      s1, s2: (product name, anything) of each image, in any order.

    Yields:
      ((S1 time, its anything), (S2 time, its anything)) by time of S2; then a Reject for each name without a time and
      for each image without a partner: a place has equally many dates of both sensors.
    """
    rejects: list[Reject] = []
    dated: list[list[tuple[int, Any, str]]] = []
    for images in (s1, s2):
        dated.append([])
        for name, anything in images:
            try:
                dated[-1].append((acquisition_time(name), anything, name))
            except UserError as error:
                rejects.append(Reject(f"{place}_{name}", str(error)))
    s1_times, s2_times = ([time for time, _, _ in of_sensor] for of_sensor in dated)
    pairs = nearest_in_time(s1_times, s2_times)
    for i, j in pairs:
        yield dated[0][i][:2], dated[1][j][:2]
    paired = [{i for i, _ in pairs}, {j for _, j in pairs}]
    for of_sensor, other, used in zip(dated, ("S2", "S1"), paired, strict=True):
        rejects += [Reject(f"{place}_{name}", f"no {other} image left to pair with: {len(dated[0])} S1, "
                           f"{len(dated[1])} S2") for i, (_, _, name) in enumerate(of_sensor) if i not in used]
    yield from rejects


def _subfolders(raw: pathlib.Path, folder: str, name: re.Pattern[str], beside: UnmatchedFiles) -> list[str]:
    """Returns the folders in a folder whose names fit, in order; `beside` counts all else but hidden files."""
    found = []
    with os.scandir(raw / folder) as items:
        for item in items:
            if item.is_dir() and not item.name.startswith(".") and name.fullmatch(item.name):
                found.append(item.name)
            else:
                beside.add_data(folder, item.name, item.is_dir)
    return sorted(found)


def _void(raw: pathlib.Path) -> set[int]:
    """Returns the numbers of the gaps; none without their list."""
    paths = [path for path in (raw / "void_ids.csv", raw / "data" / "void_ids.csv") if path.is_file()]
    return {int(number) for path in paths
            for number in re.findall(r"^\s*(\d{1,9})", read_text(path, "the list of the gaps"), re.MULTILINE)}


def _cloud(path: pathlib.Path) -> float:
    """Returns the percentage of cloud in the whole scene, NaN if it is not stated."""
    if not path.is_file():
        return math.nan
    try:
        facts = read_json(path, "the description of an image")
        return float(facts.get("properties", facts).get("CLOUDY_PIXEL_PERCENTAGE", math.nan))
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"'{path}' cannot be read as the scene's JSON ({error}); it looks truncated, fetch it "
                        "again") from error
