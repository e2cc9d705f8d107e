"""The page of an index: a map, a projection, and for each image its pair and its neighbours, in one static file.

page.html holds layout, style and script; this module puts the data into it. The page asks for nothing from outside.
"""

import base64
import html
import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from dual_encoder.search.index import Index
from dual_encoder.search.nearest import nearest
from dual_encoder.search.output import Pictures, label_text, time_text
from dual_encoder.search.projection import project
from dual_encoder.search.query import positions
from dual_encoder.storage import atomic

_TEMPLATE = pathlib.Path(__file__).with_name("page.html")
_THUMBNAIL = 72  # pixels
_NEIGHBOURS = 6  # of each sensor


def write(path: pathlib.Path, index: Index, shown: Pictures | None, records: int, projection: str = "pca") -> int:
    """Writes the page; returns the number of records on it.

    Args:
      path: of the HTML file.
      index: its images.
      shown: their pictures; None = a page without them.
      records: at most so many, evenly spaced.
      projection: as of `projection.project`.

    Raises:
      UserError: the disk refuses, or the projection cannot be made.
    """
    data = content(index, shown, records, projection)
    text = _TEMPLATE.read_text()
    title = f"{data['total']:,} images as vectors"
    # In a script element only '<' could end it.
    values = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    atomic.write(path, text.replace("{{title}}", html.escape(title)).replace("{{data}}", values).encode())
    return len(data["records"])


def content(index: Index, shown: Pictures | None, count: int, projection: str = "pca") -> dict[str, Any]:
    """Returns the data of the page, as JSON values: records, their images as points, and facts about all of them."""
    keys = list(zip(index.column("split"), index.column("record"), index.column("id"), strict=True))
    order = list(dict.fromkeys(keys))
    chosen = [order[number] for number in np.linspace(0, len(order) - 1, min(count, len(order))).astype(int)]
    number_of = {key: number for number, key in enumerate(chosen)}
    rows = [row for row, key in enumerate(keys) if key in number_of]
    sensors = index.column("sensor", rows)
    vectors = np.stack([index.vector(row, sensor) for row, sensor in zip(rows, sensors, strict=True)])
    plane, note = project(vectors, projection)
    points = [{"record": number_of[keys[row]], "sensor": sensor, "time": time_text(time),
               "x": round(float(x), 4), "y": round(float(y), 4)}
              for row, sensor, time, (x, y) in zip(rows, sensors, index.column("time", rows), plane, strict=True)]
    for point, near in zip(points, _neighbours(vectors, sensors, _comparable(index)), strict=True):
        point["near"] = near
    plan, run, data = (index.origin[key] for key in ("plan", "run", "data"))
    return {"records": [_record(index, key, rows_of, shown) for key, rows_of in _first_rows(keys, chosen)],
            "points": points, "total": len(index), "plane": note, "sensors": sorted(index.matrices),
            "pictures": shown is not None,
            "facts": {"vectors": f"{plan['vectors']}, {vectors.shape[1]} dimensions", "run": run["path"],
                      "step": run["step"], "run digest": run["digest"][:12], "images": data["path"],
                      "licence": data["source"].get("licence", "")}}


def _comparable(index: Index) -> bool:
    """Returns whether vectors of two sensors may be compared."""
    return index.origin["plan"]["vectors"] == "projected"


def _neighbours(vectors: np.ndarray, sensors: list[str], across: bool) -> list[list[list[float]]]:
    """Returns for each point its nearest ones of each sensor, as [number of the point, cosine]."""
    of = np.array(sensors)
    result: list[list[list[float]]] = [[] for _ in sensors]
    for name in sorted(set(sensors)):
        among = np.flatnonzero(of == name)
        asking = np.arange(len(of)) if across else among
        found, cosines = nearest(vectors[among], vectors[asking], _NEIGHBOURS + 1)
        for point, rows, values in zip(asking, among[found], cosines, strict=True):
            kept = [[int(row), round(float(value), 3)] for row, value in zip(rows, values, strict=True) if row != point]
            result[point] += kept[:_NEIGHBOURS]
    return result


def _first_rows(keys: list[Any], chosen: list[Any]) -> list[tuple[Any, int]]:
    """Returns (key, number of its first row) of the chosen records."""
    first: dict[Any, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    return [(key, first[key]) for key in chosen]


def _record(index: Index, key: tuple[str, int, str], row: int, shown: Pictures | None) -> Mapping[str, Any]:
    """Returns what the page says about a record."""
    facts = index.facts(row)
    (latitude, longitude), = positions([facts["geometry"]]).tolist()
    known = not np.isnan(latitude)
    images = {} if shown is None else {name: _thumbnail(picture) for name, picture in shown.of(key[0], key[1]).items()}
    return {"id": key[2], "place": facts["location_id"], "split": key[0], "label": label_text(facts.get("label")),
            "lat": round(latitude, 5) if known else None, "lon": round(longitude, 5) if known else None,
            "images": images}


def _thumbnail(picture: np.ndarray) -> str:
    """Returns a picture uint8 [height, width, 3] as a small JPEG in a data URL."""
    buffer = io.BytesIO()
    small = Image.fromarray(picture)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    small.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
