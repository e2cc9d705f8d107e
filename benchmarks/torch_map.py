"""A map by a loop over windows in PyTorch and rasterio, as tools of the field have it: a peer of benchmarks/predict.py.

    python -m benchmarks.torch_map --export=EXPORT --s1=SCENE.tif --out=MAP.tif

EXPORT is a folder of `python -m dual_encoder.export --format=npz` of a run of radar with a ResNet and a U-Net. Windows
overlap and their outer pixels are cropped; batches hold one window. Values are rounded to hundredths of dB, and borders
and gaps are filled, as by our command, so that both networks see the same numbers.
"""

import argparse
import json
import pathlib

import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from benchmarks.torch_models import UNet
from dual_encoder.imagery.radiometry import db_to_int16
from dual_encoder.predict import gaps
from dual_encoder.predict.windows import reflected

WINDOW, MARGIN = 1024, 160
_SAME = 1e-4  # of the largest logit: rounding in float32, in another order


def load(folder: pathlib.Path) -> tuple[UNet, dict]:
    """Returns the model of an export, and the facts about its images."""
    facts = json.loads((folder / "model.json").read_text())
    config = facts["config"]
    with np.load(folder / "parameters.npz") as archive:
        parameters = dict(archive)
    sensor = facts["sensors"]["s1"]
    model = UNet(parameters, len(sensor["bands"]), config["encoder"]["depth"], config["encoder"]["width"],
                 config["decoder_width"], len(facts["dataset"]["classes"])).eval()
    with np.load(folder / "check.npz") as check, torch.inference_mode():
        ours = check["output/logits"][0]
        theirs = model(images(check["input/s1"][0], sensor))[0].numpy().transpose(1, 2, 0)
    apart = np.abs(theirs - ours).max() / np.abs(ours).max()
    assert apart < _SAME, f"logits differ by {apart:.1e} of the largest"
    print(f"logits of the sample: {apart:.1e} of the largest apart", flush=True)
    return model, sensor


def images(values: np.ndarray, sensor: dict) -> torch.Tensor:
    """Stored integers [height, width, bands] as the model takes them, [1, bands, height, width]."""
    shown = (values != sensor["no_data"]).any(axis=-1, keepdims=True)
    scaled = (values.astype(np.float32) - np.float32(sensor["mean"])) / np.float32(sensor["std"])
    return torch.from_numpy(np.where(shown, scaled, np.float32(0)).transpose(2, 0, 1)[None].copy())


def main() -> None:
    """Writes the map."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--export", "--s1", "--out"):
        parser.add_argument(flag, type=pathlib.Path, required=True)
    options = parser.parse_args()
    model, sensor = load(options.export)
    step = WINDOW - 2 * MARGIN
    with rasterio.open(options.s1) as scene:
        profile = {"driver": "GTiff", "count": 1, "height": scene.height, "width": scene.width, "dtype": "uint8",
                   "crs": scene.crs, "transform": scene.transform, "nodata": 255, "compress": "deflate", "tiled": True}
        with rasterio.open(options.out, "w", **profile) as out, torch.inference_mode():
            for top in range(0, scene.height, step):
                for left in range(0, scene.width, step):
                    rows, columns = (reflected(start - MARGIN - gaps.HALO, WINDOW + 2 * gaps.HALO, size)
                                     for start, size in ((top, scene.height), (left, scene.width)))
                    part = scene.read(window=Window(columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1))
                    values = db_to_int16(np.moveaxis(part, 0, -1))[np.ix_(rows - rows.min(), columns - columns.min())]
                    shown = (values != sensor["no_data"]).any(axis=-1)
                    seen = gaps.fill(values, shown)[gaps.HALO:-gaps.HALO, gaps.HALO:-gaps.HALO]
                    logits = model(images(seen, sensor))[0, :, MARGIN:-MARGIN, MARGIN:-MARGIN]
                    inner = shown[gaps.HALO + MARGIN:-gaps.HALO - MARGIN, gaps.HALO + MARGIN:-gaps.HALO - MARGIN]
                    classes = np.where(inner, logits.argmax(0).numpy(), 255)
                    height, width = min(step, scene.height - top), min(step, scene.width - left)
                    out.write(classes[:height, :width].astype(np.uint8), 1, window=Window(left, top, width, height))


if __name__ == "__main__":
    main()
