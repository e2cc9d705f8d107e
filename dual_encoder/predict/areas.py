"""The areas of the classes of a map, of the whole map and of districts, each with a conformal interval."""

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.evaluation.area_errors import LEVELS, radii_for
from dual_encoder.evaluation.conformal import interval, places_needed
from dual_encoder.imagery import gdal
from dual_encoder.imagery.grid import Grid
from dual_encoder.predict import hectares, polygons
from dual_encoder.predict.aoi import read_polygons, to_scene
from dual_encoder.storage import atomic
from dual_encoder.workdir.calibration import Calibration

WHOLE = "whole map"


@dataclasses.dataclass(frozen=True)
class District:
    """A part of a map: its name and its polygon in the coordinate system of the map; None = all of it."""

    name: str
    shape: Any = None


@dataclasses.dataclass(frozen=True)
class Area:
    """The area of a class in a part of a map.

    Attributes:
      district: the part.
      name: of the class.
      hectares: of the pixels of this class.
      low, high: hectares, the interval; None for a class that no model predicts.
      mapped: hectares of all pixels with data.
      no_data: hectares of the map without data.
    """

    district: District
    name: str
    hectares: float
    low: float | None
    high: float | None
    mapped: float
    no_data: float


def check_name(path: str, districts: str) -> None:
    """Raises UserError for a file whose ending says no kind of table, or polygons without districts."""
    ending = pathlib.Path(path).suffix.lower()
    if ending not in (".csv", *polygons.DRIVERS):
        raise UserError(f"--areas={path} ends in no .csv, {', '.join(polygons.DRIVERS)}; give a CSV, a GeoPackage or a "
                        "GeoJSON")
    if ending != ".csv" and not districts:
        raise UserError(f"--areas={path} holds a polygon for each district, and there is no --districts=FILE; give it, "
                        "or a .csv")


def check_calibration(found: Calibration | None, why: str, level: float) -> Calibration:
    """Returns the calibration; UserError if there is none, or one of too few places.

    Args:
      found, why: `Segmenter.calibration` and `Segmenter.not_calibrated`.
      level: of the intervals, one of `area_errors.LEVELS`.
    """
    if found is None:
        raise UserError(f"--areas needs the errors of the model on labelled images, and it is {why}")
    if not found.areas[0].radii[LEVELS.index(level)]:
        raise UserError(f"an interval of {level:.0%} needs labelled images of {places_needed(level)} places, the "
                        f"calibration has {found.areas[0].places} ({found.data}); run python -m dual_encoder.calibrate "
                        "on more of them with --data, or give a smaller --level")
    return found


def read_districts(path: str, key: str, scene: Grid) -> list[District]:
    """Returns the districts of a layer.

    Args:
      path: GeoPackage, GeoJSON or another format of GDAL.
      key: the property that holds the names.
      scene: grid of the map.

    Raises:
      UserError: the layer cannot be read, or has no such property.
    """
    shapes, crs, names = read_polygons(path, "--districts", key, "with the names by --district-key")
    return [District("" if name is None else str(name), to_scene(shape, crs, scene))
            for shape, name in zip(shapes, names, strict=True)]


def measure(path: pathlib.Path, classes: Sequence[str], districts: Sequence[District], found: Calibration, level: float
            ) -> list[Area]:
    """Returns the areas of all classes in all districts that have a pixel with data.

    Args:
      path: the map.
      classes: of its values: those of the model, and perhaps permanent water.
      districts: parts of the map.
      found: errors of the model.
      level: of the intervals, one of `area_errors.LEVELS`.
    """
    contents = hectares.contents(path, len(classes), [district.shape for district in districts])
    return [area for district, content in zip(districts, contents, strict=True) if content.pixels
            for area in _of_district(district, content, classes, found, level)]


def _of_district(district: District, content: hectares.Content, classes: Sequence[str], found: Calibration,
                 level: float) -> Iterator[Area]:
    """Yields the areas of a district. The share of a class is that of the pixels that are no permanent water."""
    mapped, predicted = float(content.classes.sum()), len(found.classes)
    counted = float(content.classes[:predicted].sum())
    side = math.sqrt(content.pixels * counted / mapped)
    radii = radii_for(found.areas, side, level)
    for number, (name, size) in enumerate(zip(classes, content.classes.tolist(), strict=True)):
        low = high = None
        if number < predicted:
            low, high = interval(size / counted, radii[number]) if radii and counted else (0.0, 1.0)
            low, high = low * counted, high * counted
        yield Area(district, name, size, low, high, mapped, content.no_data)


def write(out: pathlib.Path, areas: Sequence[Area], level: float, path: pathlib.Path) -> None:
    """Writes a row for each area: a CSV with all of them, or polygons of the districts without the whole map.

    Args:
      out: the file; its ending says the kind.
      areas: as of `measure`.
      level: of the intervals.
      path: the map, for the coordinate system.

    Raises:
      UserError: the file cannot be written.
    """
    if out.suffix.lower() == ".csv":
        atomic.write(out, _csv(areas, level).encode())
        return
    rasterio = gdal.load()
    with rasterio.open(path) as file:
        crs = file.crs.to_wkt()
    shown = [area for area in areas if area.district.shape is not None]
    texts: dict[str, list[str]] = {"district": [area.district.name for area in shown],
                                   "class": [area.name for area in shown]}
    numbers = {name: [value for value, area in zip(column, areas, strict=True) if area.district.shape is not None]
               for name, column in _numbers(areas, level).items()}
    polygons.write_features(out, [area.district.shape for area in shown], {
        **{name: np.array(values, object) for name, values in texts.items()},
        **{name: np.array([math.nan if value is None else value for value in values], np.float64)
           for name, values in numbers.items()}}, crs)


def bounds_of_map(areas: Sequence[Area], level: float) -> dict[str, str]:
    """Returns name of a class -> its interval in the whole map, as text that follows its area."""
    return {area.name: f"; {level:.0%} interval {area.low:.2f} to {area.high:.2f} ha" for area in areas
            if area.district.shape is None and area.low is not None}


def _numbers(areas: Sequence[Area], level: float) -> dict[str, list[float | None]]:
    return {"hectares": [area.hectares for area in areas], "low": [area.low for area in areas],
            "high": [area.high for area in areas], "level": [level for _ in areas],
            "mapped_ha": [area.mapped for area in areas], "no_data_ha": [area.no_data for area in areas]}


def _csv(areas: Sequence[Area], level: float) -> str:
    text, numbers = io.StringIO(), _numbers(areas, level)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["district", "class", *numbers])
    for area, row in zip(areas, zip(*numbers.values(), strict=True), strict=True):
        writer.writerow([area.district.name, area.name, *("" if value is None else f"{value:.6g}" for value in row)])
    return text.getvalue()
