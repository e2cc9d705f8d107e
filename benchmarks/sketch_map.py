"""How many labelled polygons a sketch needs: IoU of water on real chips, and the time of a map of 2,000 x 2,000 pixels.

    python -m benchmarks.sketch_map --workdir=demo_run/pretrain --chips=SEN1FLOODS11/data/flood_events/HandLabeled

For each chip of Sen1Floods11 with both classes it draws N squares of 16 x 16 pixels in each class, which stand for
polygons that a person draws. It makes a map and scores the pixels outside of the squares. Beside it stands a threshold
of VV half-way between the means of the two classes in the same squares.
"""

import argparse
import contextlib
import io
import json
import pathlib
import tempfile
import time
from unittest import mock

import numpy as np
import pyogrio
import rasterio
import shapely

from dual_encoder.sketch_map import __main__ as sketch_map

SIDE, COUNTS, SEEDS = 16, (1, 2, 5, 10), 3


def squares(label, classes, count, random):
    """(row, column, class) of `count` squares per class that hold this class alone; None if there are too few."""
    found = []
    for number in classes:
        pure = [(row, column) for row in range(0, label.shape[0] - SIDE + 1, SIDE // 2)
                for column in range(0, label.shape[1] - SIDE + 1, SIDE // 2)
                if (label[row:row + SIDE, column:column + SIDE] == number).all()]
        if len(pure) < count:
            return None
        found += [(*pure[at], number) for at in random.choice(len(pure), count, replace=False)]
    return found


def write_labels(path, found, transform, crs):
    polygons = [shapely.Polygon([transform @ (column + x, row + y) for x, y in ((0, 0), (SIDE, 0), (SIDE, SIDE),
                                                                                 (0, SIDE))])
                for row, column, _ in found]
    pyogrio.raw.write(path, shapely.to_wkb(polygons), [np.array(["water" if number else "land" for *_, number in found],
                                                                object)], ["class"], crs=crs, geometry_type="Polygon")


def make(workdir, scene, labels, out, description):
    """Makes a map by the command; returns its classes, 1 = water, 255 = no data, and the seconds."""
    began = time.perf_counter()
    arguments = ["sketch_map", f"--workdir={workdir}", f"--labels={labels}", f"--s1={scene}", f"--out={out}",
                 f"--description={description}"]
    with mock.patch("sys.argv", arguments), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(
            io.StringIO()):
        sketch_map.main()
    with rasterio.open(out) as file:
        return file.read(1), time.perf_counter() - began


def iou(found, truth, counted):
    both = ((found == 1) & (truth == 1) & counted).sum()
    return both / max(1, (((found == 1) | (truth == 1)) & counted).sum())


def score(options, chip, folder, description):
    """Yields (number of squares per class, IoU of the map, IoU of the threshold)."""
    name = chip.name.replace("S1Hand", "LabelHand")
    with rasterio.open(chip.parents[1] / "LabelHand" / name) as file:
        label = file.read(1)
    with rasterio.open(chip) as file:
        vv, transform, crs = file.read(1), file.transform, str(file.crs)
    for count in COUNTS:
        for seed in range(SEEDS):
            found = squares(np.where(np.isfinite(vv), label, -1), (0, 1), count, np.random.default_rng(seed))
            if found is None:
                break
            drawn = np.zeros(label.shape, bool)
            means = {}
            for row, column, number in found:
                at = slice(row, row + SIDE), slice(column, column + SIDE)
                drawn[at] = True
                means.setdefault(number, []).append(vv[at].mean())
            write_labels(folder / "few.gpkg", found, transform, crs)
            classes, _ = make(options.workdir, chip, folder / "few.gpkg", folder / "map.tif", description)
            counted = (label >= 0) & ~drawn & (classes != 255)
            middle = (np.mean(means[0]) + np.mean(means[1])) / 2
            yield count, iou(classes, label, counted), iou((vv < middle).astype(int), label, counted)
            (folder / "few.gpkg").unlink()


def timed(options, chip, folder, description):
    """Prints the time of a scene of 2,000 x 2,000 pixels, made of copies of a chip."""
    with rasterio.open(chip) as file:
        values, profile = file.read(), file.profile
    large = np.tile(values, (1, -(-2000 // values.shape[1]), -(-2000 // values.shape[2])))[:, :2000, :2000]
    profile.update(height=2000, width=2000, tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(folder / "large.tif", "w", **profile) as file:
        file.write(large)
    random = np.random.default_rng(0)
    found = [(int(row), int(column), number % 2)
             for number, (row, column) in enumerate(random.integers(0, 1900, (8, 2)))]
    write_labels(folder / "few.gpkg", found, profile["transform"], str(profile["crs"]))
    _, seconds = make(options.workdir, folder / "large.tif", folder / "few.gpkg", folder / "map.tif", description)
    print(f"2,000 x 2,000 pixels from 8 polygons: {seconds:.0f} s with compilation")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of a pre-training run with VV and VH in dB")
    parser.add_argument("--chips", type=pathlib.Path, required=True, help="folder with S1Hand and LabelHand")
    options = parser.parse_args()
    rows = {count: [] for count in COUNTS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        description = folder / "geotiff.json"
        description.write_text(json.dumps({"s1": {"bands": ["VV", "VH"], "unit": "dB", "product": "grd"}}))
        chips = sorted((options.chips / "S1Hand").glob("*.tif"))
        for chip in chips:
            for count, ours, threshold in score(options, chip, folder, description):
                rows[count].append((chip.name, ours, threshold))
        print("| polygons per class | chips | IoU of water, sketch | IoU, threshold of VV |\n|---|---|---|---|")
        for count, found in rows.items():
            if found:
                scores = np.array([scores for _, *scores in found])
                mean, spread = scores.mean(axis=0), scores.std(axis=0)
                print(f"| {count} | {len({name for name, *_ in found})} | {mean[0]:.3f} ± {spread[0]:.3f} | "
                      f"{mean[1]:.3f} ± {spread[1]:.3f} |")
        timed(options, chips[0], folder, description)


if __name__ == "__main__":
    main()
