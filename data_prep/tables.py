"""Tables that people make, CSV or Parquet: rows as texts by column, faults named by their line.

A CSV may be separated by ',', ';', tab or '|', in UTF-8 or UTF-16, with or without a byte order mark. Blank rows are
left out. Names of columns count without letter case, and with '_' for spaces and '-'.
"""

import csv
import dataclasses
import math
import pathlib
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from dual_encoder.errors import UserError, nearest, one_line

_SEPARATORS = ",;\t|"
_NOTHING = {"", "nan", "none", "null", "na", "n/a", "<na>", "-"}


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
      where: 'line 3' (CSV, the header is line 1) or 'row 3'.
      cells: column -> value, texts in a CSV.
      exists: column of a path -> whether its files were found; without those that were not looked for.
    """

    where: str
    cells: dict[str, Any]
    exists: dict[str, bool] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """A row that cannot be used: its place as in `Row`, and why."""

    where: str
    reason: str


def read(path: pathlib.Path, known: Collection[str], needed: Sequence[str]) -> Iterator[Row | Fault]:
    """Reads a table; columns that are not `known` are named in a line and left out.

    Args:
      path: a .csv or a .parquet file.
      known: the columns that mean something.
      needed: those that must exist.

    Yields:
      The rows in order; a Fault for a row with another number of cells than the header, or with a line break in a cell.

    Raises:
      UserError: an unreadable table, a column that is missing or there twice.
    """
    columns, rows = (_csv if path.suffix == ".csv" else _parquet)(path, known)
    names = [_name(column) for column in columns]
    for name in known:
        if names.count(name) > 1:
            raise UserError(f"'{path}' has the column '{name}' {names.count(name)} times; keep one")
    if missing := [name for name in needed if name not in names]:
        seen = "".join(c if c.isprintable() else "?" for c in " ".join(columns)[:300])
        raise UserError(f"'{path}' has no column {' '.join(missing)} (it has {seen}); add it")
    if other := [column for column, name in zip(columns, names, strict=True) if name and name not in known]:
        print(f"'{path}': not used: column {', '.join(map(repr, other))}; {nearest(other[0], list(known))}", flush=True)
    at = {name: number for number, name in enumerate(names) if name in known}
    for where, cells in rows:
        if isinstance(cells, Fault):
            yield cells
        elif len(cells) != len(names):
            yield Fault(where, f"{where} of '{path.name}' has {len(cells)} cells, the header has {len(names)}; write "
                               "one for each column")
        else:
            yield Row(where, {name: cells[number] for name, number in at.items()})


def text(value: Any) -> str:
    """Returns a cell as text in Unicode's composed form (NFC), so that equal names are equal; '' of nothing."""
    return "" if value is None or value != value else unicodedata.normalize("NFC", str(value))


def number(value: Any, name: str) -> float:
    """Returns a cell as a number, NaN of nothing ('', NaN, null); ValueError that names the cell otherwise."""
    found = text(value).strip()
    if found.lower() in _NOTHING:
        return math.nan
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", found):
        reason = "a decimal comma" if re.fullmatch(r"[+-]?[0-9]+,[0-9]*", found) else "no number"
        raise ValueError(f"{name} is '{found}', {reason}; write it like 12.5")
    return float(found)


def _csv(path: pathlib.Path, known: Collection[str]) -> tuple[list[str], Iterator[tuple[str, Any]]]:
    lines = enumerate(_lines(path), start=1)
    number, head = next(((number, line) for number, line in lines if line.strip(_SEPARATORS + " \r\n")), (0, ""))
    separator = _separator(head, known)
    if said := re.fullmatch(r'"?sep=(.)"?\s*', head):  # how a spreadsheet states the separator
        separator, (number, head) = said[1], next(lines, (number, ""))
    header = next(csv.reader([head], delimiter=separator), [])

    def rows() -> Iterator[tuple[str, Any]]:
        reader = csv.reader((line for _, line in lines), delimiter=separator, strict=True)
        end = number
        try:
            for cells in reader:
                begin, end = end + 1, number + reader.line_num
                where, cells = f"line {begin}", [cell.strip() for cell in cells]
                if begin < end:
                    yield where, Fault(where, f"lines {begin} to {end} of '{path.name}' are one row, because a quote "
                                              "holds them together; take out the quote or the line breaks")
                elif any(cells):
                    yield where, cells
        except csv.Error as error:
            raise UserError(f"'{path}' cannot be read as a table (line {number + reader.line_num}: {error}); save it "
                            "as CSV in UTF-8") from error

    return header, rows()


def _lines(path: pathlib.Path) -> Iterator[str]:
    with open(path, "rb") as opened:
        mark = opened.read(2)
    # A byte order mark says that the text is UTF-16, as spreadsheets save "Unicode text".
    with open(path, newline="", encoding="utf-16" if mark in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig") as file:
        try:
            yield from file
        except UnicodeError as error:
            raise UserError(f"'{path}' cannot be read as a table ({error}); save it as CSV in UTF-8") from error


def _separator(head: str, known: Collection[str]) -> str:
    """Returns the separator that finds most known columns in the header; the comma if none finds more."""
    def found(separator: str) -> int:
        return sum(_name(cell.strip().strip('"')) in known for cell in head.split(separator))

    return max(_SEPARATORS, key=found)


def _name(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def _parquet(path: pathlib.Path, known: Collection[str]) -> tuple[list[str], Iterator[tuple[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    def wrong(error: Exception) -> UserError:
        return UserError(f"'{path}' cannot be read as Parquet ({one_line(error, 120)}); write it again")

    try:
        table = pyarrow.parquet.ParquetFile(path)
        names = table.schema_arrow.names
    except (pyarrow.ArrowException, OSError) as error:
        raise wrong(error) from error

    def rows() -> Iterator[tuple[str, Any]]:
        wanted = [name for name in names if _name(name) in known]
        number = 0
        try:
            for batch in table.iter_batches(256, columns=wanted):  # small: a cell may be long
                columns = {name: batch.column(name).to_pylist() for name in wanted}
                for i in range(batch.num_rows):
                    number += 1
                    yield f"row {number}", [columns[name][i] if name in columns else None for name in names]
        except (pyarrow.ArrowException, OSError) as error:
            raise wrong(error) from error

    return names, rows()
