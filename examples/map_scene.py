"""Maps a scene with a fine-tuned segmentation run, writes the map as a GeoTIFF, and prints the area of each class.

    python examples/map_scene.py RUN SCENE --out=map.tif

RUN is the workdir of a segmentation run of radar. SCENE is a GeoTIFF of VV and VH in dB. With a calibration of the run
(`python -m dual_encoder.calibrate`) it also prints the interval of each area. The scene is computed at once; for large
ones, `python -m dual_encoder.predict` does the same in windows, with resuming, polygons and districts.
"""

import argparse

import numpy as np
import rasterio

import dual_encoder
from dual_encoder.evaluation.area_errors import radii_for
from dual_encoder.evaluation.conformal import interval
from dual_encoder.predict import hectares

LEVEL, NO_DATA = 0.9, 255

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run")
parser.add_argument("scene")
parser.add_argument("--out", default="map.tif")
options = parser.parse_args()

segmenter = dual_encoder.load_segmentation(options.run)
probabilities = segmenter.predict(s1=options.scene, units="physical")[0]
shown = np.isfinite(probabilities[..., 0])
classes = np.where(shown, probabilities.argmax(axis=-1), NO_DATA).astype(np.uint8)
with rasterio.open(options.scene) as scene, rasterio.open(
        options.out, "w", driver="GTiff", height=scene.height, width=scene.width, count=1, dtype="uint8",
        crs=scene.crs, transform=scene.transform, nodata=NO_DATA, compress="deflate") as file:
    file.write(classes, 1)

areas = hectares.by_class(options.out, len(segmenter.classes))
found = segmenter.calibration
print(f"calibrated on {found.data}" if found else segmenter.not_calibrated)
radii = radii_for(found.areas, shown.sum() ** 0.5, LEVEL) if found else ()
for number, (name, area) in enumerate(zip(segmenter.classes, areas, strict=True)):
    line = f"{name}: {area:.1f} ha"
    if radii:
        low, high = (share * areas.sum() for share in interval(area / areas.sum(), radii[number]))
        line += f", {LEVEL:.0%} interval {low:.1f} to {high:.1f} ha"
    print(line)
