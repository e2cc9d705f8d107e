"""Positions on the Earth as WKB, longitude first."""

import math

import shapely

from dual_encoder.imagery.grid import Grid, to_crs


def point(latitude: float, longitude: float) -> bytes | None:
    """Returns the point, degrees (WGS 84); None if a number is not finite."""
    if not (math.isfinite(latitude) and math.isfinite(longitude)):
        return None
    return shapely.to_wkb(shapely.Point(longitude, latitude))


def footprint(grid: Grid) -> bytes | None:
    """Returns the four-cornered footprint of an image; its centre if it crosses the antimeridian; None without CRS."""
    if grid.crs is None:
        return None
    height, width = grid.shape
    corners = [grid.transform @ corner for corner in ((0, 0), (0, height), (width, height), (width, 0))]
    longitudes, latitudes = to_crs(grid.crs, "EPSG:4326", *zip(*corners, strict=True))
    if not all(map(math.isfinite, [*longitudes, *latitudes])):
        return None
    if max(longitudes) - min(longitudes) > 180 or max(longitudes) > 180:
        # A polygon across it would go round the Earth.
        latitude, longitude = grid.centre()
        return point(latitude, (longitude + 180) % 360 - 180)
    return shapely.to_wkb(shapely.Polygon(zip(longitudes, latitudes, strict=True)))
