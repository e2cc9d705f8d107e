"""Major-TOM Core (huggingface.co/Major-TOM): Sentinel-1 RTC and Sentinel-2 images of 10 km grid cells, as published:

<raw>/Core-S1RTC/metadata.parquet              grid_cell, product_id, centre_lat, centre_lon, parquet_url, parquet_row
                /images/part_00001.parquet     one image in each row group: grid_cell, product_id, vv, vh as GeoTIFF
<raw>/Core-S2L2A/metadata.parquet              as above, and cloud_cover
                /images/part_00001.parquet     grid_cell, product_id, B01 ... B12 as GeoTIFF
<raw>/Core-S2L1C/                              the same, for sensor s2_l1c

or as the authors' filter_download unpacks them, without a table:

<raw>/Core-S1RTC/<row>/<grid_cell>/<product_id>/{vv,vh}.tif
     /Core-S2L2A/<row>/<grid_cell>/<product_id>/{B01,...,B12}.tif

Images of one grid cell become pairs, the two nearest in time first, each image at most once. Part files may be missing:
the images in them are left out and counted, as are cells that one sensor never saw.

Traps: radar is linear power, its border 0 or -32768. Its image may lie in the neighbouring UTM zone or be of another
size than 1068: then it is resampled to the grid of S2 (bilinear, in linear power). The DN offset depends on the
processing baseline in product_id (N0400 and later: +1000, also for old acquisitions that were processed again). N9999
is a product of a local Sen2Cor, which inherits the offset of its L1C or not: dark pixels show that there is none, and
images without dark pixels are rejected.
"""

import functools
import math
import pathlib
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep import parquet
from data_prep.dates import acquisition_time
from data_prep.importers import Entry, Layout, Reject, no_such_kind
from data_prep.importers._unmatched import UnmatchedFiles, in_folder
from data_prep.pairing import nearest_in_time
from data_prep.record import Pair
from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery import raster
from dual_encoder.imagery.radiometry import db_to_int16, linear_to_db, remove_s2_offset, upsample_native
from dual_encoder.imagery.s2_offset import detect_s2_offset
from dual_encoder.imagery.sensors import SENSORS

SIZE = 1068
_LARGEST_ROW = 256 << 20  # bytes of the GeoTIFFs of one image; the published ones have 10 MB
_SOURCES = {"s1_rtc": "Core-S1RTC", "s2_l2a": "Core-S2L2A", "s2_l1c": "Core-S2L1C"}
_COLUMNS = ("grid_cell", "product_id", "centre_lat", "centre_lon", "parquet_url", "parquet_row")


class Importer:
    """Reads Major-TOM Core. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        if kind != "pairs":
            raise no_such_kind("majortom", kind, "build --kind=pairs, or give --labels=water_weak")
        return Layout(
            sensors={"s1": ("s1_rtc",), "s2": ("s2_l2a", "s2_l1c")}, default=("s1", "s2"), size=SIZE, label=None,
            source={"licence": "CC-BY-SA-4.0",
                    "attribution": "Francis and Czerkawski 2024, Major TOM, IGARSS, arXiv 2402.12095; contains "
                                   "modified Copernicus Sentinel data",
                    "notes": "S1 is terrain-corrected gamma0 of Microsoft Planetary Computer; the two sensors were "
                             "drawn independently: the time between them may be years; bands of 20 m (60 m) repeated "
                             "to 10 m, they lie up to 10 m (30 m) off their place"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._sensors = sensors
        self._folders = {feature: raw / _SOURCES[name] for feature, name in sensors.items()}
        for folder in self._folders.values():
            if not folder.is_dir():
                raise UserError(f"'{folder}' is missing; --raw must name the folder that holds "
                                f"{' and '.join(path.name for path in self._folders.values())}")
        self._open = functools.lru_cache(maxsize=2)(_open)  # one of each sensor

    def entries(self) -> Iterator[Entry | Reject]:
        s1, s2 = (_Images(self._folders[feature]) for feature in ("s1", "s2"))
        pairs, unpaired, alone = [], 0, len(s1)
        for cell, rows_2 in s2.by_cell.items():
            rows_1, times_1, times_2 = s1.by_cell.get(cell, []), [], []
            alone -= min(len(rows_1), len(rows_2))
            try:
                times_1 = [acquisition_time(s1.product(row)) for row in rows_1]
                times_2 = [acquisition_time(s2.product(row)) for row in rows_2]
            except UserError as error:
                yield Reject(cell, str(error))
                continue
            pairs += [(rows_1[i], rows_2[j], times_1[i], times_2[j]) for i, j in nearest_in_time(times_1, times_2)]
            unpaired += len(rows_2) - min(len(rows_1), len(rows_2))
        if unpaired:
            print(f"left out {unpaired} of {len(s2)} images of {s2.name}: no {s1.name} image of their grid cell is "
                  "left for them", flush=True)
        if alone:
            print(f"left out {alone} radar images without an optical partner: no {s2.name} image of their grid cell is "
                  "left for them", flush=True)
        for row_1, row_2, time_1, time_2 in sorted(pairs, key=lambda pair: s2.place(pair[1])):
            cell = s2.cell(row_2)
            yield Entry(f"{cell}_{time.strftime('%Y%m%dT%H%M%S', time.gmtime(time_2))}", cell, "",
                        {"s1": s1.where(row_1), "s2": s2.where(row_2)}, times={"s1": time_1, "s2": time_2},
                        lat=s2.fact("centre_lat", row_2), lon=s2.fact("centre_lon", row_2),
                        cloud=s2.fact("cloud_cover", row_2))
        yield from s1.beside.result()
        yield from s2.beside.result()

    def read(self, entry: Entry) -> Pair:
        dn, offset, grid = self._s2(entry)
        latitude, longitude = grid.centre() if math.isnan(entry.lat) else (entry.lat, entry.lon)
        power, warped = self._s1(entry, grid)
        names = " and ".join(folder.name for folder in self._folders.values())
        images = {"s1": db_to_int16(np.moveaxis(linear_to_db(power), 0, -1)), "s2": remove_s2_offset(dn, offset)}
        return Pair.of(entry, images=images, source=f"Major-TOM {names}{warped}", s2_offset_removed=offset,
                       lat=latitude, lon=longitude)

    def _s2(self, entry: Entry) -> tuple[np.ndarray, int, raster.Grid]:
        """Returns DN [SIZE, SIZE, bands], 0 in all bands = no data; their offset; the grid of the 10 m bands."""
        bands = SENSORS[self._sensors["s2"]].bands
        images = self._images(entry, "s2", bands)
        try:
            dn = np.stack([upsample_native(images[band].filled(0)[0], SIZE) for band in bands], axis=-1)
        except UserError as error:
            raise UserError(f"{_named(entry, 's2')}: {error}") from error
        dn[(dn == 0).any(axis=-1)] = 0  # in ESA's products 0 is no data in each band
        return dn, _offset(entry.where["s2"]["product"], dn, bands), images["B02"].grid

    def _s1(self, entry: Entry, grid: raster.Grid) -> tuple[np.ndarray, str]:
        """Returns power [2, height, width] on `grid`, NaN = no data; a note if it was resampled."""
        images = self._images(entry, "s1", ("vv", "vh"))
        own, name = images["vv"].grid, _named(entry, "s1")
        if not own.matches(images["vh"].grid):
            raise UserError(f"{name}: vv is {own.shape} at {own.extent()}, vh is {images['vh'].grid.shape} at "
                            f"{images['vh'].grid.extent()}; expected one grid, leave it out")
        power = np.stack([images[band].filled(0)[0].astype(np.float32) for band in ("vv", "vh")])
        power = np.where(np.isfinite(power) & (power > 0), power, np.nan)
        if own.matches(grid):
            return power, ""
        return raster.resample(power, own, grid, np.nan, name=name), f", S1 resampled from {own.crs}"

    def _images(self, entry: Entry, feature: str, bands: tuple[str, ...]) -> dict[str, raster.Raster]:
        where, folder = entry.where[feature], self._folders[feature]
        if where["row"] is None:
            return {band: raster.load(folder / where["file"] / f"{band}.tif") for band in bands}
        row = self._row(folder / "images" / where["file"], where["row"], bands)
        if (seen := (row["grid_cell"], row["product_id"])) != (entry.location_id, where["product"]):
            raise UserError(f"{_named(entry, feature)} is {seen[1]} of {seen[0]}, metadata.parquet has "
                            f"{where['product']} of {entry.location_id}; fetch both again")
        missing = [band for band in bands if not row.get(band)]
        if missing:
            raise UserError(f"{_named(entry, feature)} has no {' '.join(missing)}; fetch it again or leave it out")
        return {band: raster.load(row[band], f"{_named(entry, feature)}, {band}") for band in bands}

    def _row(self, path: pathlib.Path, number: int, bands: tuple[str, ...]) -> dict[str, Any]:
        import pyarrow

        file = self._open(path)
        if file.metadata.num_rows != file.num_row_groups or number >= file.num_row_groups:
            raise UserError(f"'{path}' has {file.metadata.num_rows} rows in {file.num_row_groups} row groups, expected "
                            f"each row in its own and a row {number}; fetch the published file")
        columns = ["grid_cell", "product_id", *bands]
        parquet.check_row_group(file.metadata, number, columns, _LARGEST_ROW, f"'{path}', row {number},")
        try:
            return file.read_row_group(number, columns=columns).to_pylist()[0]
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError, IndexError) as error:
            raise UserError(f"'{path}', row {number} cannot be read as Parquet ({one_line(error, 120)}); fetch it "
                            "again") from error


class _Images:
    """The images of one source that are on disk, by number."""

    def __init__(self, folder: pathlib.Path):
        self.name = folder.name
        has_parts = (folder / "images").is_dir()
        self.beside = UnmatchedFiles("part files that metadata.parquet names" if has_parts else
                                     "folders <row>/<grid_cell>/<product_id>, such as 433D/433D_1160R/...")
        self._table = (_metadata if has_parts else _unpacked)(folder, self.beside)
        self.by_cell = defaultdict(list)
        for number, cell in enumerate(self._table["grid_cell"].to_pylist()):
            self.by_cell[cell].append(number)

    def __len__(self) -> int:
        return self._table.num_rows

    def cell(self, number: int) -> str:
        return self._table["grid_cell"][number].as_py()

    def product(self, number: int) -> str:
        return self._table["product_id"][number].as_py()

    def place(self, number: int) -> tuple[str, int]:
        """File and row, to sort by."""
        return self._table["file"][number].as_py(), self._table["parquet_row"][number].as_py() or 0

    def where(self, number: int) -> dict[str, Any]:
        return {"file": self._table["file"][number].as_py(), "row": self._table["parquet_row"][number].as_py(),
                "product": self.product(number)}

    def fact(self, column: str, number: int) -> float:
        """Returns a number of the table, NaN if it has none."""
        value = self._table[column][number].as_py() if column in self._table.column_names else None
        return math.nan if value is None else value


def _metadata(folder: pathlib.Path, beside: UnmatchedFiles) -> Any:
    """Reads the rows of metadata.parquet whose part file is on disk, with a column 'file'; `beside` counts others."""
    import pyarrow
    import pyarrow.compute

    text, number = pyarrow.string(), pyarrow.float64()
    table = parquet.read(folder / "metadata.parquet", dict(zip(_COLUMNS, (
        text, text, number, number, text, pyarrow.int64()), strict=True)) | {"cloud_cover": number}, ("cloud_cover",))
    table = table.filter(pyarrow.compute.is_valid(table["grid_cell"])).filter(  # a row without them is no image
        pyarrow.compute.is_valid(table["product_id"])) if table["grid_cell"].null_count else table
    files = pyarrow.compute.replace_substring_regex(table["parquet_url"], r"^.*/|\?.*$", "")
    table = table.append_column("file", files).drop_columns("parquet_url")
    parts = sorted(in_folder(folder.parent, f"{folder.name}/images", lambda name: name.endswith(".parquet"), beside))
    named = set(pyarrow.compute.unique(files).to_pylist())
    for part in parts:
        if part not in named:
            beside.add(f"{folder.name}/images/{part}")
    there = pyarrow.array(parts, pyarrow.string())
    found = table.filter(pyarrow.compute.is_in(files, there)).combine_chunks()
    if absent := table.num_rows - found.num_rows:
        print(f"left out {absent} of {table.num_rows} images of {folder.name}: their part files are not on disk",
              flush=True)
    return found


def _unpacked(folder: pathlib.Path, beside: UnmatchedFiles) -> Any:
    """Lists <row>/<grid_cell>/<product_id>/ below `folder` in the form of `_metadata`; `beside` counts all else."""
    import pyarrow

    def below(parts: str, name: str) -> Iterator[str]:
        path = f"{folder.name}/{parts}".rstrip("/")
        for found in in_folder(folder.parent, path, lambda text: bool(re.fullmatch(name, text)), beside):
            if (folder / parts / found).is_dir():
                yield f"{parts}/{found}".lstrip("/")
            else:
                beside.add_data(path, found)

    found = sorted(folder / product for row in below("", r"\d+[UD]") for cell in below(row, r"\d+[UD]_\d+[LR]")
                   for product in below(cell, r"[^.].*"))
    if not found:
        raise UserError(f"'{folder / 'images'}' is missing; fetch images and metadata.parquet of {folder.name}, or "
                        f"unpack them as {folder.name}/<row>/<grid_cell>/<product_id>/<band>.tif")
    return pyarrow.table({"grid_cell": [path.parent.name for path in found],
                          "product_id": [path.name for path in found],
                          "file": [path.relative_to(folder).as_posix() for path in found],
                          "parquet_row": pyarrow.nulls(len(found), pyarrow.int64())})


def _open(path: pathlib.Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"'{path}' cannot be read as Parquet ({one_line(error, 120)}); it looks truncated, fetch it "
                        "again") from error


def _named(entry: Entry, feature: str) -> str:
    where = entry.where[feature]
    return where["file"] if where["row"] is None else f"{where['file']}, row {where['row']}"


def _offset(product: str, dn: np.ndarray, bands: Sequence[str]) -> int:
    """Returns the offset in the DN [height, width, bands] of a Sentinel-2 product; see the docstring of this file."""
    baseline = re.search(r"_N(\d{4})_", product)
    if baseline is None:
        raise UserError(f"product '{product}' names no processing baseline such as _N0400_; leave it out")
    if baseline[1] != "9999":
        return 1000 if int(baseline[1]) >= 400 else 0
    if detect_s2_offset(dn, bands) == 0:
        return 0
    # It may have the offset, or be bright all over, like a desert.
    raise UserError(f"product '{product}' has baseline N9999 and no dark pixels: its DN may or may not contain the "
                    "offset of 1000; leave it out")
