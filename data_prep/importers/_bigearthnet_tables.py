"""BigEarthNet's tables and names: which S1 patch belongs to an S2 patch, when and where they are."""

import csv
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from data_prep.importers import Entry, Reject
from data_prep.pairing import acquisition_time
from data_prep.record import UNKNOWN_TIME
from dual_encoder.errors import UserError

_COLUMNS = ("patch_id", "s1_name", "split")
_CLOUDY = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"


class Row(NamedTuple):
    """One pair of a table; `split` is '' where the table gives none."""

    patch_id: str
    s1_name: str
    split: str


def read(folder: pathlib.Path) -> Iterator[Row]:
    """Yields the rows of the v2 tables in `folder` by patch id, scene by scene.

    Raises:
      UserError: there is no table, or it is damaged.
    """
    metadata = folder / "metadata.parquet"
    s1_csv, split_csv = folder / "patch_id_s1_mapping.csv", folder / "patch_id_split_mapping.csv"
    if metadata.is_file():
        yield from _sorted(_parquet(path) for path in (metadata, folder / _CLOUDY) if path.is_file())
    elif s1_csv.is_file() and split_csv.is_file():
        splits = dict(_csv_rows(split_csv))
        for patch_id, s1_name in sorted(_csv_rows(s1_csv)):
            yield Row(patch_id, s1_name, splits.get(patch_id, ""))
    else:
        raise UserError(f"'{metadata}' is missing; the table says which S1 patch belongs to which S2 patch, fetch it "
                        "with the images")


def read_v1(folder: pathlib.Path) -> Iterator[Row]:
    """Yields the rows of the v1 lists in `folder` by patch id; UserError when there is none or one is damaged."""
    lists = [(path, split) for split in ("train", "val", "test")
             for path in (folder / f"bigearthnet-{split}.csv", folder / f"{split}.csv") if path.is_file()]
    if not lists:
        raise UserError(f"'{folder / 'bigearthnet-train.csv'}' is missing, and val and test beside it; the lists say "
                        "which S1 patch belongs to which S2 patch, fetch them with the images")
    yield from _sorted(_list(path, split) for path, split in lists)


def entry(row: Row, where: Mapping[str, str], features: Collection[str] = ("s1", "s2")) -> Entry | Reject:
    """Returns the entry of a row with all that its names tell, or a Reject when they tell too little.

    Args:
      row: of a table.
      where: as in `Entry`.
      features: the images wanted; the times of others stay unknown.
    """
    try:
        return Entry(row.patch_id, place(row.patch_id, row.s1_name), row.split, where,
                     s1_time=acquisition_time(row.s1_name) if "s1" in features else UNKNOWN_TIME,
                     s2_time=optical_time(row.patch_id) if "s2" in features else UNKNOWN_TIME)
    except UserError as error:
        return Reject(row.patch_id, str(error))


def place(patch_id: str, s1_name: str = "") -> str:
    """Returns the place of a patch, 'T33UUP_26_57': tile, column and row, the same for all dates and in both versions.

    Args:
      patch_id: of the S2 patch.
      s1_name: of its S1 patch; names the tile where `patch_id` does not (v1).

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
    """Returns the acquisition time of an S2 patch, Unix seconds; UserError when its name has none.

    v1 made names distinct by adding 1, 2, ... to the clock as to a plain number: scene 094131 is called 94132 there,
    and 94161 comes from 094159 or 094160. Such times are a few seconds late; seconds beyond 59 count as 59.
    """
    return acquisition_time(re.sub(r"(T\d{3,4})[6-9]\d(?=_\d+_\d+$)", r"\g<1>59", patch_id))


def _parquet(path: pathlib.Path):
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=list(_COLUMNS))
        return table.select(_COLUMNS).cast(pyarrow.schema([(name, pyarrow.string()) for name in _COLUMNS]))
    except (pyarrow.ArrowException, KeyError) as error:
        raise UserError(f"'{path}' is no table with patch_id, s1_name and split ({str(error)[:120]}); fetch it "
                        "again") from error


def _list(path: pathlib.Path, split: str):
    import pyarrow
    import pyarrow.csv

    try:
        table = pyarrow.csv.read_csv(
            path, read_options=pyarrow.csv.ReadOptions(column_names=_COLUMNS[:2]),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS[:2], pyarrow.string())))
    except pyarrow.ArrowException as error:
        raise UserError(f"'{path}' is no list with lines S2 patch,S1 patch ({str(error)[:120]}); fetch it "
                        "again") from error
    return table.append_column("split", pyarrow.array([split] * len(table), pyarrow.string()))


def _sorted(parts) -> Iterator[Row]:
    """Sorts tables of `_COLUMNS` as a whole; they stay in Arrow, which takes a fifth of what Python text would."""
    import pyarrow

    for batch in pyarrow.concat_tables(parts).sort_by("patch_id").to_batches(max_chunksize=4096):
        for patch_id, s1_name, split in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield Row(patch_id, s1_name, "validation" if split == "val" else split or "")


def _csv_rows(path: pathlib.Path) -> list[tuple[str, str]]:
    with open(path, newline="") as file:
        return [(row[0], row[1]) for row in list(csv.reader(file))[1:] if row]
