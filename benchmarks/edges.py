"""Wrong classes at the border of a scene: with no data beyond it, and with the scene reflected there.

    python -m benchmarks.edges --workdir=demo_run/water --chips=SEN1FLOODS11/data/flood_events/HandLabeled --water=water

Maps reflect a scene beyond its border, and fill gaps inside of it from the pixels beside them. Squares of 192 x 192
pixels are cut from real chips and stand for scenes, or for islands in a gap. The class of the whole chip at the same
pixels is the reference, as there the model sees what lies beyond the border of a square. IoU of water is against the
labels.
"""

import argparse
import pathlib

import numpy as np
import rasterio

from dual_encoder.errors import UserError
from dual_encoder.inference.images import stored_images
from dual_encoder.inference.segmenter import load_segmentation
from dual_encoder.predict import gaps

SIDE, PAD = 192, 160  # of a square, and of what a model sees beyond it
CORNERS = [(top, left) for top in (64, 256) for left in (64, 256)]
BINS = (0, 8, 16, 32, 64)  # pixels from the border


def classes(segmenter, image, filled=False, **padding):
    """Classes [height, width] of an image [height, width, bands] with something around it."""
    padded = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), **padding)
    if filled:
        padded = gaps.fill(padded, segmenter.sensors["s1"].holds_data(padded))
    found = np.asarray(segmenter.logits({"s1": padded[None]}))[0].argmax(axis=-1)
    return found[PAD:-PAD, PAD:-PAD]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="segmentation run of VV and VH in dB")
    parser.add_argument("--chips", type=pathlib.Path, required=True, help="folder with S1Hand and LabelHand")
    parser.add_argument("--water", default="water", help="the class of water")
    options = parser.parse_args()
    segmenter = load_segmentation(options.workdir)
    spec, water = segmenter.sensors["s1"], segmenter.classes.index(options.water)
    empty = {"mode": "constant", "constant_values": spec.no_data}
    beyond = {"no data": empty, "reflected": {"mode": "reflect"}, "a gap that is filled": empty}
    inner = np.minimum(np.arange(SIDE), SIDE - 1 - np.arange(SIDE))
    distance, counts = np.minimum.outer(inner, inner), {}
    for path in sorted((options.chips / "S1Hand").glob("*.tif")):
        with rasterio.open(path) as file, rasterio.open(
                options.chips / "LabelHand" / path.name.replace("S1Hand", "LabelHand")) as labels:
            label = labels.read(1)
            try:
                chip = stored_images(np.moveaxis(file.read(), 0, -1).astype(np.float64), spec, "physical")[0]
            except UserError:
                continue  # no data at all
        whole = classes(segmenter, chip, **beyond["no data"])
        for top, left in CORNERS:
            at = slice(top, top + SIDE), slice(left, left + SIDE)
            known = (label[at] >= 0) & spec.holds_data(chip[at])
            found = {name: classes(segmenter, chip[at], "filled" in name, **how) for name, how in beyond.items()}
            for name, mapped in (found | {"whole chip": whole[at]}).items():
                for low, high in zip(BINS, BINS[1:], strict=False):
                    near = known & (distance >= low) & (distance < high)
                    wet, true = (mapped == water) & near, (label[at] == 1) & near
                    counts.setdefault((low, high, name), np.zeros(4, int))[:] += (
                        (wet & true).sum(), (wet | true).sum(), ((mapped != whole[at]) & near).sum(), near.sum())
    print("| pixels from the border | beyond it | other class than in the whole chip | IoU of water |")
    print("|---|---|---|---|")
    for (low, high, name), (both, either, other, total) in sorted(counts.items(), key=lambda item: item[0][0]):
        print(f"| {low} to {high - 1} | {name} | {other / total:.1%} | {both / max(1, either):.3f} |")


if __name__ == "__main__":
    main()
