"""Pairs own GeoTIFFs by their names or by a table; see data_prep/importers/geotiff.py."""

import contextlib
import itertools
import os
import pathlib
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from data_prep import dates, tables
from data_prep.importers import Reject
from data_prep.importers._geotiff_bands import Part, whole_images
from data_prep.importers._geotiff_cover import Cover
from data_prep.importers._geotiff_json import Description
from data_prep.importers._geotiff_names import Listing, Pattern, patterns
from data_prep.importers._geotiff_table import NamedFiles
from data_prep.importers._unmatched import UnmatchedFiles, shown
from data_prep.pairing import nearest_in_time
from data_prep.record import UNKNOWN_TIME
from data_prep.tables import Row
from dual_encoder.errors import UserError
from dual_encoder.imagery.geotiff_json import NAME

TABLES = ("pairs.csv", "pairs.parquet")
_PATHS = ("s1", "s2", "label")  # columns
_COLUMNS = (*_PATHS, "s1_time", "s2_time", "id", "location_id", "split", "lat", "lon", "cloud", "s2_offset")

_Images = dict[str, list[tuple[str, str]]]  # section -> (text of the date, path) of each image, by date


def by_name(raw: pathlib.Path, said: Description, features: Sequence[str], labels: bool) -> Iterator[Row | Reject]:
    """Pairs files by the place and the date in their names.

    Args:
      raw: the raw folder.
      said: its description, with patterns.
      features: the images to read, 's1' and/or 's2'.
      labels: True if each record needs a label.

    Yields:
      By place: a row as of a table, with id, location_id, paths (with {band} in them) and times; or a Reject for an
      image without partner or with an impossible date. Then the counts of files that fit no pattern.

    Raises:
      UserError: a pattern without {place} or with unknown parts, or one that fits no file.
    """
    every = patterns(said)
    for name in TABLES:
        if (raw / name).is_file():
            print(f"'{raw / name}' is not read: {NAME} gives patterns in 'files'", flush=True)
    listing, cover = Listing(raw, every), Cover(raw, said)
    wanted = [pattern for pattern in every if pattern.section in (*features, *["label"] * labels)]
    without_image = UnmatchedFiles("an image of the place and date of this label")
    for place, images in _by_place(raw, wanted, listing):
        given, used = images.pop("label", []), set()
        for row in _of_place(place, images, cover):
            if isinstance(row, Row):
                date = row.cells.pop("date")
                if labels and said.labels is not None:
                    row.cells["label"] = _label(given, date) or (
                        said.labels.files.replace("{place}", place).replace("{date}", date))
                    used.add(row.cells["label"])
            yield row
        for _, path in given:
            if path not in used:
                without_image.add(path)
    yield from listing.unmatched()
    yield from without_image.result()


def by_table(raw: pathlib.Path, said: Description, needed: Sequence[str]) -> Iterator[Row | Reject]:
    """Reads the rows of pairs.csv or pairs.parquet, then counts the files beside those that they name.

    Args:
      raw: the raw folder.
      said: its description.
      needed: columns that must exist.

    Yields:
      Rows: column -> text, or value if the file has types; a Reject for a row that is none.

    Raises:
      UserError: no table, an unreadable one, a missing column.
    """
    found = [raw / name for name in TABLES if (raw / name).is_file()]
    if not found:
        raise UserError(f"'{raw / TABLES[0]}' is missing; list your pairs there, or give 'files' in {NAME}")
    path, *others = found
    if others:
        print(f"'{others[0]}' is not read: '{path.name}' lies beside it", flush=True)
    with contextlib.closing(NamedFiles(raw, path.name)) as named:
        for row in tables.read(path, _COLUMNS, needed):
            if isinstance(row, tables.Fault):
                yield Reject(row.where, row.reason)
                continue
            for name in _PATHS if said.image_labels is None else _PATHS[:2]:  # a label of the image is no path
                text = "" if row.cells.get(name) is None else str(row.cells[name])
                images = said.images.get(name)
                row.cells[name], row.exists[name] = named.resolve(
                    [*images.paths(text).values()] if images else [text], text)
            yield row
        yield from named.unmatched()


def _of_place(place: str, images: _Images, cover: Cover) -> Iterator[Row | Reject]:
    """Yields a row for each pair of images of a place, or for each image of a single sensor; their Rejects."""
    times: dict[str, list[int]] = {}
    for feature, dated in images.items():
        times[feature], kept = [], []
        for date, path in dated:
            try:
                times[feature].append(dates.parse(date))
                kept.append((date, path))
            except ValueError as error:
                yield Reject(shown(path), str(error))
        images[feature] = kept
    if len(images) == 1:
        ((feature, dated),) = images.items()
        chosen = [{feature: i} for i in range(len(dated))]
    elif UNKNOWN_TIME in (*times["s1"], *times["s2"]) and max(map(len, images.values())) > 1:
        yield Reject(shown(place), "several images and no {date} in 'files' to pair them by")
        return
    else:
        share = cover.share([path for _, path in images["s1"]], [path for _, path in images["s2"]])
        chosen = [{"s1": i, "s2": j} for i, j in nearest_in_time(times["s1"], times["s2"], share)]
    for pair in chosen:
        main = "s2" if "s2" in pair else "s1"
        date = images[main][pair[main]][0]
        cells: dict[str, Any] = {"id": f"{place}_{date}".rstrip("_"), "location_id": place, "date": date}
        for feature, i in pair.items():
            cells |= {feature: images[feature][i][1], f"{feature}_time": times[feature][i]}
        yield Row(f"place '{shown(place)}'", cells)
    for feature, dated in images.items():
        for i in sorted(set(range(len(dated))) - {pair[feature] for pair in chosen}):
            yield Reject(shown(dated[i][1]), f"no {'S2' if feature == 's1' else 'S1'} image of '{shown(place)}' is "
                                             "left for it")


def _label(given: Sequence[tuple[str, str]], date: str) -> str:
    """Returns the path of the label of a date: of the same text or else the same time, or the one without a date."""
    texts = dict(given)
    if date in texts or "" in texts:
        return texts.get(date) or texts[""]
    for text, path in given:
        with contextlib.suppress(ValueError):
            if dates.parse(text) == dates.parse(date):
                return path
    return ""


def _by_place(raw: pathlib.Path, wanted: Sequence[Pattern], listing: Listing) -> Iterator[tuple[str, _Images]]:
    """Yields (place, section -> its images by date), by place.

    A database on disk holds the names: memory must not grow with their number.
    """
    with contextlib.closing(sqlite3.connect("")) as found:
        found.execute("CREATE TABLE image (place, section, date, path, bits, stars, "
                      "UNIQUE (place, section, date, path))")
        for pattern in wanted:
            rows = ((os.fsencode(file.place), pattern.section, file.date, os.fsencode(file.path), file.bits,
                     os.fsencode(file.stars)) for file in listing.find(pattern))  # names on disk need not be UTF-8
            found.executemany("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
                              "SET bits = bits | excluded.bits", rows)
            if pattern.section != "label" and not found.execute(
                    "SELECT 1 FROM image WHERE section = ?", (pattern.section,)).fetchone():
                seen = next(listing.unmatched(), None)
                beside = f" (beside it: {seen.count} files, first '{seen.id}')" if seen else ""
                raise UserError(f"no file in '{raw}' is named like '{pattern.files}' ({pattern.section}.files of "
                                f"{NAME}){beside}; mend the pattern")
        tokens = {pattern.section: pattern.tokens for pattern in wanted}
        in_order = found.execute("SELECT * FROM image ORDER BY place, section, date, path")
        for place, of_place in itertools.groupby(in_order, key=lambda row: row[0]):
            images: _Images = {pattern.section: [] for pattern in wanted}
            for (section, date), dated in itertools.groupby(of_place, key=lambda row: (row[1], row[2])):
                parts = [Part(os.fsdecode(path), bits, os.fsdecode(stars)) for *_, path, bits, stars in dated]
                images[section] += [(date, path) for path in whole_images(parts, tokens[section])]
            yield os.fsdecode(place), images
