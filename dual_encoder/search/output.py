"""Answers for people and for maps: a table of text, GeoJSON (RFC 7946), and a sheet of pictures."""

import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from PIL import Image, ImageDraw

from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.imagery import pictures
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.search.index import Index
from dual_encoder.search.query import Answer, Query, positions
from dual_encoder.storage import atomic

_TILE = 160  # pixels of a picture
_CAPTION = 18
_PER_ROW = 6


def lines(found: Sequence[Answer]) -> list[str]:
    """Returns a table: rank, cosine, sensor, time, position, label and id."""
    head = ("rank", "cosine", "sensor", "time", "latitude", "longitude", "label", "id")
    places = positions([answer.facts["geometry"] for answer in found])
    cells = [(str(rank), f"{answer.cosine:.3f}", answer.facts["sensor"], time_text(answer.facts["time"]),
              *("" if np.isnan(degrees) else f"{degrees:.4f}" for degrees in place),
              label_text(answer.facts.get("label")), answer.facts["id"])
             for rank, (answer, place) in enumerate(zip(found, places, strict=True), 1)]
    used = [column for column in range(len(head)) if any(row[column] for row in cells)]
    width = {column: max(len(row[column]) for row in (head, *cells)) for column in used}
    return ["  ".join(row[column].ljust(width[column]) for column in used).rstrip() for row in (head, *cells)]


def time_text(time: Any) -> str:
    """Returns a time as '2017-06-13 10:10', '' if it is unknown."""
    return "" if time is None else time.strftime("%Y-%m-%d %H:%M")


def label_text(label: Any) -> str:
    """Returns a label as text, '' without one."""
    if label is None:
        return ""
    return ", ".join(label) if isinstance(label, list) else f"{label:g}" if isinstance(label, float) else str(label)


def write_geojson(path: pathlib.Path, query: Query, found: Sequence[Answer]) -> None:
    """Writes the answers as a FeatureCollection; the geometry of an image without a position is null."""
    features = [{
        "type": "Feature", "id": answer.row,
        "geometry": json.loads(shapely.to_geojson(shapely.from_wkb(answer.facts["geometry"])))
        if answer.facts["geometry"] else None,
        "properties": {"rank": rank, "cosine": round(answer.cosine, 6), "time": time_text(answer.facts["time"]),
                       **{key: answer.facts[key] for key in ("id", "location_id", "sensor", "split")},
                       "label": label_text(answer.facts.get("label"))}}
        for rank, answer in enumerate(found, 1)]
    collection = {"type": "FeatureCollection", "query": query.title, "features": features}
    atomic.write(path, (json.dumps(collection, indent=1, ensure_ascii=False) + "\n").encode())


class Pictures:
    """The pictures of the images of an index, from the data set that was embedded.

    Args:
      index: of the images.
      folder: of the data set; '' = the one that the index names.

    Raises:
      UserError: the images are not those of a built data set, or it is another one now.
    """

    def __init__(self, index: Index, folder: str = ""):
        data = index.origin["data"]
        folder = folder or data["path"]
        if data["kind"] != "data set":
            raise UserError(f"pictures need a built data set, the index was made of: {data['kind']}; go without them, "
                            "or build a data set with `python -m data_prep build` and embed that")
        self._sensors = {name: SensorSpec.from_json(index.origin["sensors"][name]) for name in data["sensors"]}
        self._splits = {split: Records(folder, split, tuple(self._sensors)) for split in data["splits"]}
        seen = next(iter(self._splits.values())).info.fingerprint
        if seen != data["fingerprint"]:
            raise UserError(f"'{folder}' has the fingerprint {seen[:12]}, the index was made of "
                            f"{data['fingerprint'][:12]}; give the folder of that data set as --data")

    def of(self, split: str, record: int) -> dict[str, np.ndarray]:
        """Returns sensor -> picture uint8 [height, width, 3] of a record."""
        values = self._splits[split].record(record)
        return {name: pictures.image_to_rgb(values[name], spec) for name, spec in self._sensors.items()}

    def of_row(self, facts: dict[str, Any]) -> np.ndarray:
        """Returns the picture of a row of the index; of stacked sensors that of the last one."""
        found = self.of(facts["split"], facts["record"])
        return found.get(facts["sensor"], found[list(found)[-1]])


def write_sheet(path: pathlib.Path, query: Query, found: Sequence[Answer], index: Index, shown: Pictures) -> None:
    """Writes a PNG: the query, then the answers with rank, cosine and sensor.

    Args:
      path: of the PNG.
      query, found: what was searched for, and the answers.
      index: of the images.
      shown: the pictures of them.
    """
    asked = (shown.of_row(index.facts(query.row)) if query.image is None
             else pictures.image_to_rgb(query.image, SensorSpec.from_json(index.origin["sensors"][query.sensor])))
    tiles = [(f"query  {query.sensor}", asked)]
    tiles += [(f"{rank}  {answer.cosine:.3f}  {answer.facts['sensor']}", shown.of_row(answer.facts))
              for rank, answer in enumerate(found, 1)]
    columns, rows = min(_PER_ROW, len(tiles)), -(-len(tiles) // _PER_ROW)
    sheet = Image.new("RGB", (columns * (_TILE + 4) + 4, rows * (_TILE + _CAPTION + 4) + 4), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, picture) in enumerate(tiles):
        x, y = 4 + number % _PER_ROW * (_TILE + 4), 4 + number // _PER_ROW * (_TILE + _CAPTION + 4)
        sheet.paste(Image.fromarray(picture).resize((_TILE, _TILE), Image.Resampling.NEAREST), (x, y))
        draw.text((x + 2, y + _TILE + 3), caption, fill=(29, 39, 51))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    atomic.write(path, buffer.getvalue())
