"""Measures the time that the trainer needs in addition to the step: reading, sending, logging, progress, stopping.

    python -m benchmarks.trainer [--steps=100] [--milliseconds=200]

Method. The real loop (training.loop.fit) runs on a data set of random pairs of 128 px, batch 64. A stand-in replaces
the compiled step: it sleeps for --milliseconds, because a step on an accelerator does not use the processor. The model
is tiny. The rows of metrics.jsonl give the time per step (log_every=20, without the first row). The time above the
sleep is the trainer's own. The peer is the sleep alone. Target: <= 2 % of a 200 ms step. Training waits while it
saves a checkpoint. This time is measured separately: in the same run with a checkpoint every 20 steps.
"""

import argparse
import dataclasses
import pathlib
import tempfile
import time

import jax
from etils import epath

from benchmarks import synthetic
from configs import pretrain
from dual_encoder.config import parse
from dual_encoder.data.records import Records
from dual_encoder.runtime import mesh
from dual_encoder.tasks.build import Built
from dual_encoder.tasks.pretrain import Pretrain, PretrainConfig
from dual_encoder.training import loop
from dual_encoder.workdir import metrics

EVERY = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 100), ("milliseconds", 200)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    loop.compile_step = stand_in(options.milliseconds / 1000)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        synthetic.write(folder / "data", 512, 128, shards=4)
        config = configure(folder / "data", options.steps)
        plain = seconds_per_step(config, folder / "plain")
        saving = seconds_per_step(dataclasses.replace(
            config, schedule=dataclasses.replace(config.schedule, checkpoint_every=EVERY)), folder / "saving")
    bare = options.milliseconds / 1000
    print(f"a step of {options.milliseconds} ms takes {1000 * plain:.2f} ms in the trainer: {plain / bare - 1:.2%} "
          f"(aim <= 2 %)\nwith a checkpoint every {EVERY} steps: {1000 * saving:.2f} ms, "
          f"{1000 * EVERY * (saving - plain):.0f} ms per checkpoint")


def stand_in(seconds: float):
    def compile_step(*_):
        values = {name: jax.numpy.float32(1.0) for name in ("loss", "grad_norm", "param_norm", "finite")}
        values["stop"] = jax.numpy.bool(False)

        def step(state, batch):
            began = time.perf_counter()
            state = state.replace(step=state.step + 1)
            jax.block_until_ready((state.step, batch))
            time.sleep(max(0.0, seconds - (time.perf_counter() - began)))
            return state, values

        return step

    return compile_step


def configure(data: pathlib.Path, steps: int) -> PretrainConfig:
    values = pretrain.get_config("smoke")
    values.data.dir, values.data.split, values.data.eval_split = str(data), "train", "train"
    values.batch_size, values.encoder.width = 64, 8
    values.schedule.update({"steps": steps, "log_every": EVERY, "checkpoint_every": 0})
    return parse(PretrainConfig, values.to_dict())


def seconds_per_step(config: PretrainConfig, workdir: pathlib.Path) -> float:
    records = Records(config.data.dir, "train", ("s1", "s2"))
    devices = mesh.make(jax.devices()[:1])
    task = Pretrain(config, records.info.sensors, devices)
    loop.fit(Built(config, task, records, records), devices, epath.Path(workdir))
    rows = [row for row in metrics.read(workdir) if row["kind"] == "train"][1:]
    return sum(config.batch_size / row["pairs_per_second"] for row in rows) / len(rows)


if __name__ == "__main__":
    main()
