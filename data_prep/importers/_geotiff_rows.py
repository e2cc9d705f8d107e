"""Pairs own GeoTIFFs by their names or by a table; see data_prep/importers/geotiff.py."""

import contextlib
import csv
import datetime
import fnmatch
import itertools
import os
import pathlib
import posixpath
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data_prep.importers import LATEST_TIME, Reject
from data_prep.importers._geotiff_json import NAME, Description
from data_prep.pairing import nearest_in_time
from data_prep.record import UNKNOWN_TIME
from dual_encoder.errors import UserError

TABLES = ("pairs.csv", "pairs.parquet")
_GROUPS = {"place": "[^/]+?", "date": r"\d{8}T\d{6}|\d{8}|\d{4}-\d\d-\d\d", "star": "[^/]*?"}


def by_name(raw: pathlib.Path, said: Description, features: Sequence[str]) -> Iterator[dict[str, Any] | Reject]:
    """Pairs files by the place and the date in their names.

    Args:
      raw: the raw folder.
      said: its description, with patterns.
      features: the images to read, 's1' and/or 's2'.

    Yields:
      By place: a row as of a table, with id, location_id, paths (with {band} in them) and times; or a Reject for an
      image without partner.

    Raises:
      UserError: a pattern without {place} or with unknown parts, or one that fits no file.
    """
    for place, images in _by_place(raw, said, features):
        try:
            times = {feature: [parse_time(date) for date, _ in dated] for feature, dated in images.items()}
        except ValueError as error:
            yield Reject(place, str(error))
            continue
        if len(features) == 1:
            chosen = [{features[0]: i} for i in range(len(images[features[0]]))]
        elif UNKNOWN_TIME in (*times["s1"], *times["s2"]) and max(map(len, images.values())) > 1:
            yield Reject(place, "several images and no {date} in 'files' to pair them by")
            continue
        else:
            chosen = [{"s1": i, "s2": j} for i, j in nearest_in_time(times["s1"], times["s2"])]
        for pair in chosen:
            main = "s2" if "s2" in pair else "s1"
            date = images[main][pair[main]][0]
            row: dict[str, Any] = {"id": f"{place}_{date}".rstrip("_"), "location_id": place}
            for feature, i in pair.items():
                row |= {feature: images[feature][i][1], f"{feature}_time": times[feature][i]}
            if said.labels is not None:
                row["label"] = said.labels.files.replace("{place}", place).replace("{date}", date)
            yield row
        for feature, dated in images.items():
            for i in sorted(set(range(len(dated))) - {pair[feature] for pair in chosen}):
                yield Reject(dated[i][1], f"no {'S2' if feature == 's1' else 'S1'} image of '{place}' is left for it")


def by_table(raw: pathlib.Path, needed: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Reads the rows of pairs.csv or pairs.parquet: column -> text, or value if the file has types.

    Args:
      raw: the raw folder.
      needed: columns that must exist.

    Raises:
      UserError: no table, an unreadable one, a missing column.
    """
    path = next((raw / name for name in TABLES if (raw / name).is_file()), None)
    if path is None:
        raise UserError(f"'{raw / TABLES[0]}' is missing; list your pairs there, or give 'files' in {NAME}")
    columns, rows = (_csv if path.suffix == ".csv" else _parquet)(path)
    if missing := [column for column in needed if column not in columns]:
        raise UserError(f"'{path}' has no column {' '.join(missing)} (it has {' '.join(columns)}); add it")
    yield from rows


def parse_time(value: Any) -> int:
    """Returns Unix seconds of ISO 8601 text (UTC if it names no zone), a date or Unix seconds; -1 of nothing.

    Raises:
      ValueError: any other text.
      UserError: a number so large that it counts milliseconds or less; then those of all rows do.
    """
    text = "" if value is None else str(value).strip()
    if text in ("", "nan", "NaT", str(UNKNOWN_TIME)):
        return UNKNOWN_TIME
    if re.fullmatch(r"\d{9,}(\.\d*)?", text):  # a date has eight digits
        if float(text) > LATEST_TIME:
            raise UserError(f"'{text}' is no time in seconds; expected Unix seconds, divide milliseconds by 1000")
        return int(float(text))
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"'{text}' is no time; expected one like 2020-06-07T18:01:00Z") from error
    return int((time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp())


def _by_place(raw: pathlib.Path, said: Description, features: Sequence[str]
              ) -> Iterator[tuple[str, dict[str, list[tuple[str, str]]]]]:
    """Yields (place, feature -> its images by date as of `_find`), by place.

    A database on disk holds the names: memory must not grow with their number.
    """
    with contextlib.closing(sqlite3.connect("")) as found:
        found.execute("CREATE TABLE image (place, feature, date, path, UNIQUE (place, feature, date, path))")
        for feature in features:
            rows = ((os.fsencode(place), feature, date, os.fsencode(path))  # names on disk need not be UTF-8
                    for place, date, path in _find(raw, feature, said))
            found.executemany("INSERT OR IGNORE INTO image VALUES (?, ?, ?, ?)", rows)
            if not found.execute("SELECT 1 FROM image WHERE feature = ?", (feature,)).fetchone():
                raise UserError(f"no file in '{raw}' is named like '{said.images[feature].files}' ({feature}.files of "
                                f"{NAME}); mend the pattern")
        in_order = found.execute("SELECT * FROM image ORDER BY place, feature, date, path")
        for place, of_place in itertools.groupby(in_order, key=lambda row: row[0]):
            images: dict[str, list[tuple[str, str]]] = {feature: [] for feature in features}
            for _, feature, date, path in of_place:
                images[feature].append((date, os.fsdecode(path)))
            yield os.fsdecode(place), images


def _find(raw: pathlib.Path, feature: str, said: Description) -> Iterator[tuple[str, str, str]]:
    """Yields (place, text of the date or '', path) of each file; a path has {band} if each band has a file."""
    images = said.images[feature]
    groups = _GROUPS | {"band": "|".join(map(re.escape, images.tokens.values()))}
    parts = re.split(r"(\{\w*\}|\*)", images.files)
    names = ["star" if part == "*" else part.strip("{}") if part[:1] == "{" else "" for part in parts]
    if strange := sorted(set(names) - {"", *groups}):
        raise UserError(f"'{raw / NAME}': {feature}.files has '{{{strange[0]}}}'; it may hold {{place}}, {{date}}, "
                        "{band} and *")
    if "place" not in names:
        raise UserError(f"'{raw / NAME}': {feature}.files is '{images.files}'; it must hold {{place}}, by which "
                        "images are paired")
    # The second {place} must be the text of the first one; each * is a text of its own.
    pattern = "".join(
        re.escape(part) if not name else f"(?P={name})" if name in names[:i] and name != "star"
        else f"(?P<{name}{i if name == 'star' else ''}>{groups[name]})"
        for i, (part, name) in enumerate(zip(parts, names, strict=True)))
    for path in _matching(raw, "", re.sub(r"\{\w*\}|\*+", "*", images.files).split("/")):
        match = re.fullmatch(pattern, path)
        if match is not None:
            texts = match.groupdict() | {"band": "{band}"}
            template = "".join(texts.get(f"star{i}" if name == "star" else name, part)
                               for i, (part, name) in enumerate(zip(parts, names, strict=True)))
            yield match["place"], texts.get("date", ""), template


def _matching(raw: pathlib.Path, folder: str, parts: Sequence[str]) -> Iterator[str]:
    """Yields the paths below `folder`, relative to `raw`, that match a pattern of path parts, one after the other.

    Like `Path.glob`, but that holds all entries of a folder at once.
    """
    part, *further = parts
    names: Iterable[str]
    if "*" not in part:
        names = [part] if (raw / folder / part).exists() else []
    else:
        wanted = re.compile(fnmatch.translate(part))
        names = (entry.name for entry in os.scandir(raw / folder) if wanted.match(entry.name))
    for name in names:
        path = posixpath.join(folder, name)
        if not further:
            yield path
        elif (raw / path).is_dir():
            yield from _matching(raw, path, further)


def _csv(path: pathlib.Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    def lines() -> Iterator[list[str]]:
        with open(path, newline="", encoding="utf-8-sig") as file:
            try:
                yield from ([cell.strip() for cell in line] for line in csv.reader(file) if line)
            except (UnicodeDecodeError, csv.Error) as error:
                raise UserError(f"'{path}' cannot be read as a table ({error}); save it as CSV in UTF-8") from error

    every = lines()
    columns = next(every, [])
    return columns, (dict(zip(columns, line, strict=False)) for line in every)


def _parquet(path: pathlib.Path) -> tuple[list[str], Iterator[dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"'{path}' cannot be read as Parquet ({str(error)[:120]}); write it again") from error

    def rows() -> Iterator[dict[str, Any]]:
        try:
            for batch in table.iter_batches(4096):
                yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"'{path}' cannot be read as Parquet ({str(error)[:120]}); write it again") from error

    return table.schema_arrow.names, rows()
