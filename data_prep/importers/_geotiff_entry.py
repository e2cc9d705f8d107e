"""Makes an entry of a row of one's own GeoTIFFs: its files exist, its facts are numbers and times; see geotiff.py."""

import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep import tables
from data_prep.importers import Entry, Reject, _row_facts
from data_prep.importers._geotiff_table import is_file
from data_prep.importers._unmatched import shown
from data_prep.tables import Row
from dual_encoder.imagery import raster
from dual_encoder.imagery.geotiff_json import COLUMN, Images


def make(row: Row, raw: pathlib.Path, images: Mapping[str, Images], needed: Sequence[str]) -> Entry | Reject:
    """Returns the entry of a row, or why it has none.

    Args:
      row: with paths as the disk has them.
      raw: the raw folder.
      images: the images to read.
      needed: the columns of the paths to read, those of `images` and perhaps 'label'.
    """
    texts = {column: tables.text(row.cells.get(column)) for column in ("id", "location_id", "split")}
    where: dict[str, Any] = {column: _path(row, column) for column in needed}
    main = where.get("s2") or where.get("s1") or row.where
    name = texts["id"] or tables.text(re.sub(r"[/_]*\{band\}|\.\w+$", "", main))
    if shown(name) != name:
        return Reject(shown(name), "its name has line breaks, or bytes that are no UTF-8; rename it")
    for column, path in where.items():
        if row.exists.get(column):
            continue
        paths = [path] if column == "label" else [*images[column].paths(path).values()]
        gone = [path for path in paths if not is_file(raw, path)]
        if gone:
            return Reject(name, f"'{shown(gone[0])}' is missing" if path else f"no {column} in {row.where}")
    try:
        where["s2_offset"] = _offset(row, images)
        facts, times = _row_facts.numbers(row), _row_facts.times(row, images)
    except ValueError as error:
        return Reject(name, f"{row.where}: {error}")
    if math.isnan(facts["lat"] + facts["lon"]):
        feature = "s2" if "s2" in images else "s1"
        files = images[feature].paths(where[feature])
        path = files.get("B02") or next(iter(files.values()))
        facts["lat"], facts["lon"] = raster.listed_centre(raw / path)
    return Entry(name, texts["location_id"] or name, texts["split"], where, times=times, lat=facts["lat"],
                 lon=facts["lon"], cloud=facts["cloud"])


def _path(row: Row, column: str) -> str:
    value = row.cells.get(column)
    return "" if value is None else str(value)


def _offset(row: Row, images: Mapping[str, Images]) -> int:
    """Returns the DN to take off S2: as described, or that of the row."""
    said = images["s2"].convention if "s2" in images else 0
    offset = tables.number(row.cells.get("s2_offset"), "s2_offset") if said == COLUMN else float(said)
    if offset not in (0, 1000):
        raise ValueError(f"s2_offset is {row.cells.get('s2_offset') or 'empty'}, expected 0 or 1000")
    return int(offset)
