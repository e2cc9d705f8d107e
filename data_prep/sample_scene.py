"""A scene of the sample: its neighbouring test patches of one Sentinel-2 tile, put together to a GeoTIFF of radar.

The sample holds no scene. Its patches have no georeference either, but their names say where they lie: patch
T33UUP_27_58 is column 27 and line 58 of tile T33UUP, in steps of 1.2 km. The origin of that tile is taken from patches
of BigEarthNet that have a georeference (T33UUP_26_57 begins at 331200, 5331600 in UTM zone 33).
"""

import json
import pathlib

import numpy as np

from data_prep import importers
from data_prep.importers import Reject
from dual_encoder.errors import UserError
from dual_encoder.imagery import gdal
from dual_encoder.imagery.geotiff_json import NAME
from dual_encoder.imagery.sensors import SENSORS

FILE = "scene_20170613T165043.tif"  # the pass of the patches
_TILE, _CRS, _LEFT, _TOP = "T33UUP", "EPSG:32633", 300000, 5400000
_PATCH, _METRES = 120, 10


def write(raw: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Writes the scene and its description.

    Args:
      raw: the sample, as `sample.fetch` writes it.
      out: a folder, made if it is missing.

    Returns:
      the GeoTIFF: VV and VH in dB, float32; NaN between the patches, which do not fill a rectangle.

    Raises:
      UserError: the sample is incomplete, or the folder cannot be written.
    """
    from affine import Affine

    reader = importers.open_raw("bigearthnet", raw, "pairs", {"s1": "s1_grd", "s2": "s2_l2a"})
    patches = {}
    for entry in reader.entries():
        if not isinstance(entry, Reject) and entry.split == "test" and entry.location_id.startswith(_TILE):
            column, line = map(int, entry.location_id.split("_")[1:])
            patches[line, column] = reader.read(entry).images["s1"]
    if not patches:
        raise UserError(f"'{raw}' holds no test patch of tile {_TILE}; fetch it with `python -m data_prep sample`")
    lines, columns = zip(*_block(set(patches)), strict=True)
    top, left = min(lines), min(columns)
    shape = ((max(lines) - top + 1) * _PATCH, (max(columns) - left + 1) * _PATCH)
    scene, spec = np.full((*shape, 2), np.nan, np.float32), SENSORS["s1_grd"]
    for line, column in zip(lines, columns, strict=True):
        image, row, at = patches[line, column], (line - top) * _PATCH, (column - left) * _PATCH
        decibels = np.where(spec.holds_data(image)[..., None], image * np.float32(spec.scale), np.nan)
        scene[row:row + _PATCH, at:at + _PATCH] = decibels
    out.mkdir(parents=True, exist_ok=True)
    (out / NAME).write_text(json.dumps({"s1": {"bands": ["VV", "VH"], "unit": "dB", "product": "grd"}}) + "\n")
    place = Affine(_METRES, 0, _LEFT + left * _PATCH * _METRES, 0, -_METRES, _TOP - top * _PATCH * _METRES)
    rasterio = gdal.load()
    with gdal.told(str(out / FILE), "name a folder that is writable"), rasterio.open(
            out / FILE, "w", driver="GTiff", count=2, height=shape[0], width=shape[1], dtype="float32", crs=_CRS,
            transform=place, nodata=float("nan"), compress="deflate") as file:
        file.write(np.moveaxis(scene, -1, 0))
    return out / FILE


def _block(places: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Returns the largest group of places that touch each other, also at a corner."""
    largest: set[tuple[int, int]] = set()
    while places:
        group, edge = set[tuple[int, int]](), {places.pop()}
        while edge:
            group |= edge
            edge = {place for place in places if any(max(abs(place[0] - line), abs(place[1] - column)) == 1
                                                     for line, column in edge)}
            places = places - edge
        largest = max(largest, group, key=len)
    return largest
