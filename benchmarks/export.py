"""Forward pass of each export of a model, next to our own: prints the ratio of the times.

    for format in npz stablehlo saved_model onnx; do
      python -m dual_encoder.export --workdir=WORKDIR --sensor=s1 --format=$format --out=exports/$format
    done
    python -m benchmarks.export exports

One of the exports must be of the format npz: its parameters in our JAX model are the reference. Each format runs in a
process of its own, in turns with the reference, on the sample images of the exports, repeated to a batch. The least
time of each counts. Every runtime uses the threads that it takes by default.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np

from dual_encoder.export import samples
from dual_encoder.export.check import exports_in
from dual_encoder.export.formats import FORMATS


def main() -> None:
    """Prints a row per export; exit code 2 without a reference."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__.splitlines()[0])
    parser.add_argument("exports", type=pathlib.Path, help="folder of exports, or of one with --reference")
    parser.add_argument("--reference", type=pathlib.Path, help="the npz export; found in the folder by default")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=10)
    flags = parser.parse_args()
    if flags.reference:
        measure(flags.exports, flags.reference, flags.batch, flags.repeats)
        return
    exports = {format_of(folder): folder for folder in exports_in(flags.exports)}
    if "npz" not in exports:
        parser.error(f"'{flags.exports}' holds no export of the format npz, the reference")
    print(f"{'format':<12} {'ms':>8} {'ours, ms':>8} {'ratio':>6}   batch {flags.batch}")
    for name, folder in exports.items():
        if name != "npz":
            subprocess.run([sys.executable, "-m", "benchmarks.export", str(folder), f"--reference={exports['npz']}",
                            f"--batch={flags.batch}", f"--repeats={flags.repeats}"], check=True)


def format_of(folder: pathlib.Path) -> str:
    """Returns the format of an export."""
    return json.loads((folder / "card.json").read_text())["dual_encoder"]["format"]


def measure(folder: pathlib.Path, reference: pathlib.Path, batch: int, repeats: int) -> None:
    """Prints the times of one export and of the reference."""
    runs = []
    for path in (folder, reference):
        images, _ = samples.read(path)
        repeated = {name: np.concatenate([image] * batch)[:batch] for name, image in images.items()}
        runs.append((FORMATS[format_of(path)].load(str(path)), repeated))
    times = [[seconds(*run) for run in runs] for _ in range(repeats + 1)][1:]  # the first call compiles
    theirs, ours = (1e3 * min(column) for column in zip(*times, strict=True))
    print(f"{format_of(folder):<12} {theirs:8.1f} {ours:8.1f} {theirs / ours:6.2f}", flush=True)


def seconds(model: Callable[[Mapping[str, np.ndarray]], Mapping[str, object]], images: Mapping[str, np.ndarray]
            ) -> float:
    """Returns the seconds of one call, until the outputs are in the memory of the host."""
    start = time.perf_counter()
    for value in model(images).values():
        np.asarray(value)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
