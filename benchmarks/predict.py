"""Maps of large scenes: peak memory at two sizes, the time against that of the forward pass alone, and the windows.

    python -m benchmarks.predict --workdir=demo_run/water --chips=DIR

DIR holds radar chips of 512 x 512 pixels (VV and VH in dB), such as S1Hand of Sen1Floods11; scenes are mosaics of them.
The forward pass alone is the model on as many windows as the map needs, from memory, without reading or writing. With
--sizes='' only the windows are compared: how much the probability of a pixel differs between a window of 512 pixels and
the whole of 1,536 x 1,536 pixels, by the distance from the border of the window. With --torch=SIDE a scene of that side
is mapped by the command and by a loop over windows in PyTorch and rasterio (benchmarks/torch_map.py) of the same
network; that needs an environment with both.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from dual_encoder.imagery.radiometry import db_to_int16
from dual_encoder.inference.segmenter import Segmenter, load_segmentation
from dual_encoder.predict.windows import choose, needed

_CHIP, _TIMED = 512, 6  # pixels; windows whose median is taken
_CORNERS = ((352, 352), (384, 352), (480, 448), (576, 576))  # multiples of 32, the stride of a ResNet
_DISTANCES = (0, 32, 64, 96, 128, 160, 192)


def write_scene(folder: pathlib.Path, chips: list[np.ndarray], side: int) -> pathlib.Path:
    """Writes a mosaic of chips [2, 512, 512] as a tiled, compressed GeoTIFF of `side` pixels, with its description."""
    path = folder / f"scene{side}.tif"
    (folder / "geotiff.json").write_text(json.dumps({"s1": {"bands": ["VV", "VH"], "unit": "dB", "product": "grd"}}))
    with rasterio.open(path, "w", driver="GTiff", count=2, height=side, width=side, dtype="float32", crs="EPSG:32632",
                       transform=Affine(10, 0, 600000, 0, -10, 5200000), tiled=True, compress="deflate", zlevel=1,
                       nodata=float("nan")) as file:
        for number, top in enumerate(range(0, side, _CHIP)):
            for other, left in enumerate(range(0, side, _CHIP)):
                height, width = min(_CHIP, side - top), min(_CHIP, side - left)
                chip = chips[(7 * number + other) % len(chips)]
                file.write(chip[:, :height, :width], window=Window(left, top, width, height))
    return path


def compare_windows(segmenter: Segmenter, chips: list[np.ndarray]) -> str:
    """Returns the largest differences of a probability, by the distance from the border of a window."""
    rows = [np.concatenate(chips[first:first + 3], axis=2) for first in (0, 3, 6)]
    scene = db_to_int16(np.moveaxis(np.concatenate(rows, axis=1), 0, -1))
    whole, worst = np.asarray(segmenter.probabilities({"s1": scene[None]}))[0], dict.fromkeys(_DISTANCES, 0.0)
    for top, left in _CORNERS:
        here = slice(top, top + _CHIP), slice(left, left + _CHIP)
        apart = np.abs(np.asarray(segmenter.probabilities({"s1": scene[here][None]}))[0] - whole[here])
        for distance in _DISTANCES:
            inner = slice(distance, _CHIP - distance)
            worst[distance] = max(worst[distance], float(apart[inner, inner].max()))
    return ", ".join(f"{distance} px {value:.2g}" for distance, value in worst.items())


def measure(workdir: str, scene: pathlib.Path) -> tuple[float, float]:
    """Runs the command; returns seconds and the peak of its resident memory in GB."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "dual_encoder.predict", f"--workdir={workdir}", f"--s1={scene}",
                                f"--out={scene.with_name('map.tif')}"])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the map of {scene.name} failed")
    return time.monotonic() - started, usage.ru_maxrss / 2**20


def compare_with_torch(workdir: str, scene: pathlib.Path) -> str:
    """Runs both commands, twice each in turn; returns the fastest times, their ratio and the share of equal classes."""
    folder = scene.parent
    environment = os.environ | {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    subprocess.run([sys.executable, "-m", "dual_encoder.export", f"--workdir={workdir}", "--sensor=s1", "--format=npz",
                    f"--out={folder / 'export'}"], check=True, stdout=subprocess.DEVNULL)
    ours, theirs = [], []
    for _ in range(2):
        ours.append(measure(workdir, scene)[0])
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "benchmarks.torch_map", f"--export={folder / 'export'}", f"--s1={scene}",
                        f"--out={folder / 'torch.tif'}"], check=True, env=environment)
        theirs.append(time.monotonic() - started)
    with rasterio.open(folder / "map.tif") as one, rasterio.open(folder / "torch.tif") as other:
        first, second = one.read(1), other.read(1)
    equal = (first == second)[(first != 255) | (second != 255)].mean()
    return (f"ours {min(ours):.0f} s, PyTorch {min(theirs):.0f} s, ratio {min(theirs) / min(ours):.2f}; "
            f"{equal:.4%} of the classes are equal")


def main() -> None:
    """Prints a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--chips", required=True)
    parser.add_argument("--sizes", default="5490,10980")
    parser.add_argument("--torch", type=int, default=0, help="side of a scene to compare with PyTorch on")
    flags = parser.parse_args()
    chips = [rasterio.open(path).read() for path in sorted(pathlib.Path(flags.chips).glob("*.tif"))]
    chips = [chip for chip in chips if np.isfinite(chip).any()]
    if flags.torch:
        with tempfile.TemporaryDirectory() as temporary:
            print(compare_with_torch(flags.workdir, write_scene(pathlib.Path(temporary), chips, flags.torch)))
        return
    segmenter = load_segmentation(flags.workdir)
    print(f"windows apart, by the distance from their border: {compare_windows(segmenter, chips)}", flush=True)
    windows = choose(*segmenter.facts[:3])
    spec = segmenter.sensors["s1"]
    image = {"s1": np.full((1, windows.window, windows.window, len(spec.bands)), -1500, spec.dtype)}
    with tempfile.TemporaryDirectory() as temporary:
        for side in map(int, filter(None, flags.sizes.split(","))):
            scene = write_scene(pathlib.Path(temporary), chips, side)
            seconds, peak = measure(flags.workdir, scene)
            jax.block_until_ready(segmenter.logits(image))
            times = []
            for _ in range(_TIMED):
                started = time.monotonic()
                jax.block_until_ready(segmenter.logits(image))
                times.append(time.monotonic() - started)
            count = len(needed(windows.blocks(0, side))) ** 2
            forward = count * float(np.median(times))
            print(f"{side} x {side} px: map {seconds:.0f} s ({side**2 / 1e6 / seconds:.2f} Mpx/s), {count} windows, "
                  f"forward pass alone {forward:.0f} s, ratio {forward / seconds:.2f}; peak memory {peak:.2f} "
                  "GB", flush=True)


if __name__ == "__main__":
    main()
