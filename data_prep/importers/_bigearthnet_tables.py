"""BigEarthNet's tables and names: the S1 patch of an S2 patch, their times, places, splits and land cover."""

import csv
import io
import pathlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from data_prep import parquet
from data_prep.dates import acquisition_time
from data_prep.importers import Entry, Reject
from data_prep.text_files import read_text
from dual_encoder.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow

# The 19 classes in the order of their nomenclature: Sumbul et al. 2021, BigEarthNet-MM, arXiv 2105.07921, table I.
LAND_COVER = (
    "Urban fabric", "Industrial or commercial units", "Arable land", "Permanent crops", "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation", "Agro-forestry areas",
    "Broad-leaved forest", "Coniferous forest", "Mixed forest", "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation", "Transitional woodland, shrub", "Beaches, dunes, sands",
    "Inland wetlands", "Coastal wetlands", "Inland waters", "Marine waters")
_COLUMNS = ("patch_id", "s1_name", "split")
_CLOUDY = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"


class Row(NamedTuple):
    """One pair of a table; `split` is '' if the table gives none, `labels` is () unless they were asked for."""

    patch_id: str
    s1_name: str
    split: str
    labels: Sequence[str] = ()


def read(folder: pathlib.Path, labels: bool = False) -> Iterator[Row]:
    """Yields the rows of the v2 tables in `folder` by patch id, scene by scene.

    Args:
      folder: of the tables.
      labels: read the names of the land cover, too.

    Raises:
      UserError: there is no table, or it is damaged or has no labels.
    """
    metadata = folder / "metadata.parquet"
    s1_csv, split_csv = folder / "patch_id_s1_mapping.csv", folder / "patch_id_split_mapping.csv"
    if metadata.is_file():
        yield from _sorted(_parquet(path, labels) for path in (metadata, folder / _CLOUDY) if path.is_file())
    elif s1_csv.is_file() and split_csv.is_file():
        splits = dict(_csv_rows(split_csv))
        cover: dict[str, list[str]] = {}
        if labels:
            if not (label_csv := folder / "patch_id_label_mapping.csv").is_file():
                raise UserError(f"'{label_csv}' is missing; it names the land cover of the patches, fetch it with the "
                                "other tables")
            for patch_id, name in _csv_rows(label_csv):
                cover.setdefault(patch_id, []).append(name)
        for patch_id, s1_name in sorted(_csv_rows(s1_csv)):
            yield Row(patch_id, s1_name, splits.get(patch_id, ""), cover.get(patch_id, ()))
    else:
        raise UserError(f"'{metadata}' is missing; the table names the S1 patch of each S2 patch, fetch it "
                        "with the images")


def read_v1(folder: pathlib.Path) -> Iterator[Row]:
    """Yields the rows of the v1 lists in `folder` by patch id; UserError if there is none or one is damaged."""
    lists = [(path, split) for split in ("train", "val", "test")
             for path in (folder / f"bigearthnet-{split}.csv", folder / f"{split}.csv") if path.is_file()]
    if not lists:
        raise UserError(f"'{folder / 'bigearthnet-train.csv'}' is missing, and val and test with it; the lists name "
                        "the S1 patch of each S2 patch, fetch them with the images")
    yield from _sorted(_list(path, split) for path, split in lists)


def entry(row: Row, where: Mapping[str, str], features: Collection[str] = ("s1", "s2"), labels: bool = False
          ) -> Entry | Reject:
    """Returns the entry of a row with place and times from its names, or a Reject if these lack them.

    Args:
      row: of a table.
      where: as in `Entry`.
      features: the images to read; the times of others stay unknown.
      labels: `where` also gets 'land_cover', the numbers of the row's labels in `LAND_COVER`; a Reject if it has none
        or another one.
    """
    try:
        times = {}
        if "s1" in features:
            times["s1"] = acquisition_time(row.s1_name)
        if "s2" in features:
            times["s2"] = optical_time(row.patch_id)
        cover: dict[str, Any] = {"land_cover": _numbers(row.labels)} if labels else {}
        return Entry(row.patch_id, place(row.patch_id, row.s1_name), row.split, {**where, **cover}, times=times)
    except UserError as error:
        return Reject(row.patch_id, str(error))


def place(patch_id: str, s1_name: str = "") -> str:
    """Returns the place of a patch, 'T33UUP_26_57': tile, column and row, the same for all dates and in both versions.

    Args:
      patch_id: of the S2 patch.
      s1_name: of its S1 patch; names the tile if `patch_id` does not (v1).

    Raises:
      UserError: the names lack the tile or the position.
    """
    position = re.search(r"_(\d+)_(\d+)$", patch_id)
    tile = re.search(r"_T(\w{5})_\d+_\d+$", patch_id) or re.search(r"_([0-9A-Z]{5})_\d+_\d+$", s1_name)
    if position is None or tile is None:
        raise UserError(f"patch id '{patch_id}' and S1 name '{s1_name}' name no tile and position; expected "
                        "..._T33UUP_26_57, or ..._26_57 and ..._33UUP_26_57")
    return f"T{tile[1]}_{int(position[1])}_{int(position[2])}"


def optical_time(patch_id: str) -> int:
    """Returns the acquisition time of an S2 patch, Unix seconds; UserError if its name has none.

    v1 made names distinct by adding 1, 2, ... to the clock as to a plain number: scene 094131 is called 94132 there,
    and 94161 comes from 094159 or 094160. Such times are a few seconds late; seconds beyond 59 count as 59.
    """
    return acquisition_time(re.sub(r"(T\d{3,4})[6-9]\d(?=_\d+_\d+$)", r"\g<1>59", patch_id))


def _numbers(labels: Sequence[str]) -> list[int]:
    """Returns the numbers of names in `LAND_COVER`; UserError if there are none, or one is not in it."""
    if not labels:
        raise UserError("the table gives it no labels")
    if strange := [name for name in labels if name not in LAND_COVER]:
        raise UserError(f"the table gives it the label '{strange[0]}', which is none of the {len(LAND_COVER)} classes "
                        "of BigEarthNet v2")
    return sorted(LAND_COVER.index(name) for name in labels)


def _parquet(path: pathlib.Path, labels: bool) -> "pyarrow.Table":
    import pyarrow

    types = dict.fromkeys(_COLUMNS, pyarrow.string())
    if labels:
        types["labels"] = pyarrow.list_(pyarrow.string())
    return parquet.read(path, types)


def _list(path: pathlib.Path, split: str) -> "pyarrow.Table":
    import pyarrow
    import pyarrow.csv

    try:
        table = pyarrow.csv.read_csv(
            path, read_options=pyarrow.csv.ReadOptions(column_names=_COLUMNS[:2]),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS[:2], pyarrow.string())))
    except pyarrow.ArrowException as error:
        raise UserError(f"'{path}' is no list with lines S2 patch,S1 patch ({one_line(error, 120)}); fetch it "
                        "again") from error
    return table.append_column("split", pyarrow.array([split] * len(table), pyarrow.string()))


def _sorted(parts: "Iterable[pyarrow.Table]") -> Iterator[Row]:
    """Sorts tables of `_COLUMNS` as a whole; they stay in Arrow, which takes a fifth of the memory of Python text."""
    import pyarrow

    for batch in pyarrow.concat_tables(parts).sort_by("patch_id").to_batches(max_chunksize=4096):
        for patch_id, s1_name, split, *labels in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield Row(patch_id or "", s1_name or "", "validation" if split == "val" else split or "",
                      *filter(None, labels))


def _csv_rows(path: pathlib.Path) -> list[tuple[str, str]]:
    rows = list(csv.reader(io.StringIO(read_text(path, "a table of the patches"), newline="")))[1:]
    if wrong := next((number for number, row in enumerate(rows, start=2) if row and len(row) < 2), 0):
        raise UserError(f"'{path}': line {wrong} has one cell, expected two; fetch it again")
    return [(row[0], row[1]) for row in rows if row]
