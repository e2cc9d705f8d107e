"""Writes small folders of own GeoTIFFs, and reads them as a build does."""

import json
import warnings

import numpy as np
import rasterio
from affine import Affine

from data_prep import importers, record
from data_prep.importers import Entry
from dual_encoder.imagery.sensors import SENSORS, sensor

BANDS = SENSORS["s2_l2a"].bands
S1 = {"bands": ["VV", "VH"], "unit": "dB", "product": "grd"}
S2 = {"bands": list(BANDS), "level": "l2a", "offset": 0}
PLACE = Affine(10, 0, 600000, 0, -10, 5200000)
SIZE = 16


def decibels(size=SIZE):
    random = np.random.default_rng(0)
    return (random.normal(0, 1, (2, size, size)) + np.array([-10, -17])[:, None, None]).astype(np.float32)


def digital_numbers(size=SIZE):
    return np.random.default_rng(0).integers(200, 3000, (12, size, size), np.uint16)


def tif(path, values, transform=PLACE, crs="EPSG:32632", names=(), mask=None, beside=False, **profile):
    """Writes a GeoTIFF; `mask`: [height, width], 0 = no data, inside the file or `beside` it."""
    values = np.asarray(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {key: profile.pop(key) for key in ("scales", "offsets", "units", "colorinterp") if key in profile}
    tags, of_bands = profile.pop("tags", {}), profile.pop("band_tags", ())
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=not beside):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **{"driver": "GTiff"} | profile, count=len(values), height=values.shape[1],
                           width=values.shape[2], dtype=values.dtype, transform=transform, crs=crs) as file:
            for key, value in facts.items():
                setattr(file, key, value)
            file.write(values)
            file.update_tags(**tags)
            for number, name in enumerate(names, start=1):
                file.set_band_description(number, name)
            for number, of_band in enumerate(of_bands, start=1):
                file.update_tags(number, **of_band)
            if mask is not None:
                file.write_mask(mask)
    return values


def describe(raw, row=None, size=SIZE, **sections):
    """Writes geotiff.json, and a table of one row."""
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "geotiff.json").write_text(json.dumps(({"size": size} if size else {}) | sections))
    if row is not None:
        (raw / "pairs.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    return raw


def pair(raw, s1=S1, s2=S2, **sections):
    """Describes one pair, s1.tif and s2.tif."""
    row = {"s1": "s1.tif", "s2": "s2.tif"} | ({"label": "label.tif"} if "label" in sections else {})
    return describe(raw, row, s1=s1, s2=s2, **sections)


def read(raw, kind="pairs", cut=False, features=("s1", "s2")):
    """Reads the one entry of a folder, and checks it as a build does."""
    layout = importers.load("geotiff").layout(kind, raw)
    sensors = {feature: layout.sensors[feature][0] for feature in features}
    importer = importers.open_raw("geotiff", raw, kind, sensors, cut=cut)
    (entry,) = [item for item in importer.entries() if not isinstance(item, importers.Unmatched)]
    assert isinstance(entry, Entry), entry
    item = importer.read(entry)
    record.check(item, {feature: sensor(name) for feature, name in sensors.items()}, 0 if cut else layout.size,
                 layout.label)
    return item


def valid(item, feature):
    """Returns bool [height, width], True for pixels of a record's image that hold data."""
    return {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}[feature].holds_data(item.images[feature])
