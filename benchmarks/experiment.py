"""Measures what an experiment adds to the time of its runs, and what shared frozen outputs save.

    python -m benchmarks.experiment --run=RUN --tiles=TILES [--sensor=s1] [--cells=20]

Method. RUN is a pre-training run, TILES a data set of --kind=tiles with a class for each pixel. An experiment of
--cells linear probes of pixels on one encoder runs in this process; the frozen outputs are computed by the first one.
Overhead is the time of the whole experiment without the report, divided by the sum of the times of its cells, minus 1.
Aim: <= 5 %. The peer of a probe is its own frozen fine-tuning: the same encoder and data under a linear decoder, 20
epochs of gradient descent (configs/finetune.py with frozen=True), in this process, too. Aim: a probe with shared
outputs takes a tenth of its time. One run of each; compare ratios, not seconds.
"""

import argparse
import contextlib
import io
import pathlib
import tempfile
import time

from etils import epath

from configs import finetune
from dual_encoder.config import parse
from dual_encoder.experiment import work
from dual_encoder.experiment.cells import cells
from dual_encoder.experiment.plan import Plan
from dual_encoder.runtime import compilation_cache, heap, mesh
from dual_encoder.tasks.build import AnyConfig
from dual_encoder.training.run import run
from dual_encoder.workdir.checkpoint import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--tiles", required=True)
    parser.add_argument("--sensor", default="s1")
    parser.add_argument("--cells", type=int, default=20)
    options = parser.parse_args()
    heap.keep()
    compilation_cache.start()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        whole, alone = experiment(options, pathlib.Path(folder) / "out")
        tuned = frozen_finetuning(options, epath.Path(folder) / "tuned")
    later = sum(alone[1:]) / (len(alone) - 1)
    print(f"{len(alone)} probes: {whole:.1f} s, {sum(alone):.1f} s of them in the cells: overhead "
          f"{whole / sum(alone) - 1:.1%} (aim <= 5 %)")
    print(f"the first probe, with the frozen outputs: {alone[0]:.1f} s; a later one: {later:.2f} s; its own frozen "
          f"fine-tuning: {tuned:.1f} s, {tuned / later:.0f} times as long (aim >= 10)")


def experiment(options: argparse.Namespace, out: pathlib.Path) -> tuple[float, list[float]]:
    """Returns the seconds of an experiment, and those of its cells."""
    plan = parse(Plan, {
        "title": "benchmark", "encoder": {}, "fractions": (1.0,), "candidate_fraction": 1.0, "folds": 0,
        "groups": "place", "pretrain_per_fold": False, "seeds": options.cells, "pretrain_seeds": 1, "keep_models": True,
        "comparisons": (), "margin": 0.01,
        "initialisations": ({"name": "run", "pretrain": "", "keys": {}, "init_from": options.run, "like": "",
                             "cell_keys": {}, "tasks": ()},),
        "tasks": ({"name": "probe", "config": "configs/probe.py:segmentation", "metric": "linear/miou",
                   "candidates": (), "fractions": (),
                   "keys": {"inputs": options.sensor, "data": {"dir": options.tiles}}},)}, name="plan")
    every, began = cells(plan), time.perf_counter()
    work.work(plan, every, out, mesh.make())
    seconds = time.perf_counter() - began
    outcomes = [work.outcome(out, cell.name) for cell in every]
    failed = [outcome.message for outcome in outcomes if outcome.state != "done"]
    if failed:
        raise SystemExit(f"error: a cell failed: {failed[0]}")
    return seconds, [outcome.seconds for outcome in outcomes]


def frozen_finetuning(options: argparse.Namespace, workdir: epath.Path) -> float:
    """Returns the seconds of a frozen fine-tuning of the same encoder."""
    values = finetune.get_config("flood_ombria").to_dict()
    values |= {"init_from": options.run, "inputs": options.sensor, "batch_size": 8, "frozen": True, "decoder": "linear",
               "encoder": load_model(options.run, None).config["encoder"]}
    values["data"] |= {"dir": options.tiles}
    values["augment"] |= {"crop": 0}
    values["schedule"] |= {"checkpoint_every": 0}
    config: AnyConfig = parse(AnyConfig, values)
    began = time.perf_counter()
    run(config, mesh.make(), workdir)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
