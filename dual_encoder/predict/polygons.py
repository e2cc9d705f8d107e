"""The areas of a map as polygons, in a GeoPackage or a GeoJSON."""

import os
import pathlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery import gdal
from dual_encoder.imagery.grid import Grid
from dual_encoder.predict.hectares import of_polygon
from dual_encoder.predict.layers import NO_DATA

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".json": "GeoJSON"}


def check_name(path: str) -> None:
    """Raises UserError for a file whose ending is none of `DRIVERS`."""
    if pathlib.Path(path).suffix.lower() not in DRIVERS:
        raise UserError(f"--polygons={path} ends in no {', '.join(DRIVERS)}; give a GeoPackage or a GeoJSON")


def write_polygons(out: pathlib.Path, path: pathlib.Path, classes: Sequence[str], minimum: float, simplify: float
                   ) -> tuple[int, float]:
    """Writes the connected areas of each class; two pixels are connected along an edge.

    The field `area_ha` is the area before the polygon is simplified, in hectares on the ellipsoid. A GeoPackage has the
    coordinate system of the map; a GeoJSON has longitude and latitude (RFC 7946), cut at the antimeridian.

    Args:
      out: the file to write.
      path: the map.
      classes: names of its values.
      minimum: hectares; smaller areas are left out.
      simplify: pixels by which the outline may move; 0 = it follows the edges of the pixels.

    Returns:
      how many polygons were written, and their `area_ha` together.

    Raises:
      UserError: the file cannot be written.
    """
    values, areas, shapes = [], [], []
    for value, polygon, grid in _areas(path):
        area = of_polygon(polygon, grid)
        if area < minimum:
            continue
        t = grid.transform
        tolerance = simplify * min(np.hypot(t.a, t.d), np.hypot(t.b, t.e))
        values.append(value)
        areas.append(area)
        shapes.append(polygon.simplify(tolerance) if simplify else polygon)
    rasterio = gdal.load()
    with rasterio.open(path) as file:
        crs = file.crs.to_wkt()
    write_features(out, shapes, {
        "class": np.array([classes[value] for value in values], object), "value": np.array(values, np.int32),
        "area_ha": np.array(areas, np.float64)}, crs)
    return len(values), float(sum(areas))


def write_features(out: pathlib.Path, shapes: Sequence[Any], fields: Mapping[str, np.ndarray], crs: str) -> None:
    """Writes polygons with fields; `out` appears when it is complete.

    Args:
      out: a file that ends as one of `DRIVERS`.
      shapes: shapely polygons.
      fields: name -> a value for each polygon.
      crs: WKT of their coordinate system. A GeoJSON is turned into longitude and latitude (RFC 7946).

    Raises:
      UserError: the file cannot be written.
    """
    import pyogrio
    import shapely

    driver = DRIVERS[out.suffix.lower()]
    temporary = out.with_name(f".{uuid.uuid4().hex}{out.suffix}")
    try:
        pyogrio.raw.write(
            temporary, shapely.to_wkb(np.array([_multi(shape) for shape in shapes], object)), list(fields.values()),
            list(fields), geometry_type="MultiPolygon", crs=crs, driver=driver, layer=out.stem,
            layer_options={"RFC7946": "YES", "COORDINATE_PRECISION": "7"} if driver == "GeoJSON" else None)
        os.replace(temporary, out)
    except Exception as error:  # pyogrio raises many types
        raise UserError(f"cannot write '{out}' ({one_line(error, 160)}); name a folder that exists and is writable"
                        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _multi(shape: Any) -> Any:
    import shapely

    return shape if shape.geom_type == "MultiPolygon" else shapely.MultiPolygon([shape])


def _areas(path: pathlib.Path) -> Iterator[tuple[int, Any, Grid]]:
    """Yields (class, polygon in the map's coordinate system, grid of the map), by reading the map row by row."""
    rasterio = gdal.load()
    import shapely
    from rasterio.features import shapes

    with rasterio.open(path) as file:
        grid = Grid(file.crs, file.transform, file.shape)
        for geometry, value in shapes(rasterio.band(file, 1), connectivity=4, transform=file.transform):
            if value != NO_DATA:
                yield int(value), shapely.geometry.shape(geometry), grid
