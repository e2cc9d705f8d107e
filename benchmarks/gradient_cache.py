"""Measures how much memory train.micro_batch saves, and how much time it costs.

    python -m benchmarks.gradient_cache [--batch=1024] [--micro-batch=64] [--repeats=3] [--family=vit]

Method. The whole step of the trainer (configs/pretrain.py:smoke with GroupNorm, 64 px; with --family=vit, of two ViT of
depth 2 and width 64) is compiled for one device.
Memory: the compiler's figure for temporaries (activations, gradients) of a plain step of --micro-batch rows, of a plain
step of --batch rows, and of a step of --batch rows in micro-batches. The raw batch is an argument, not a temporary.
Time: the plain step of --timed-batch rows and the same rows in 4 micro-batches, in turns, the best of --repeats.
Targets: memory <= 1.2 times that of a micro-batch alone; time <= 1.45 times that of the plain step.
"""

import argparse
import dataclasses
import time

import jax

from benchmarks.train_step import ours
from configs import pretrain
from dual_encoder.config import parse
from dual_encoder.data.shapes import shapes
from dual_encoder.plan.step_program import compile_program
from dual_encoder.runtime import mesh
from dual_encoder.tasks.build import build_without_weights
from dual_encoder.tasks.micro_batches import TrainConfig
from dual_encoder.tasks.pretrain import PretrainConfig

SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 1024), ("micro-batch", 64), ("timed-batch", 256), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--family", default="resnet", choices=["resnet", "vit"])
    options = parser.parse_args()
    values = pretrain.get_config("smoke")
    values.data.dir, values.augment.crop, values.encoder.norm = "not read", SIZE, "group"
    if options.family == "vit":
        values.encoder.update({"family": "vit", "depth": 2, "width": 64, "patch": 8})
    config = parse(PretrainConfig, values.to_dict())
    print(f"two {options.family} of depth {config.encoder.depth}, width {config.encoder.width}, {SIZE} px, "
          f"{jax.devices()[0].device_kind}")
    small, plain, cached = (temporaries(changed(config, batch, part)) for batch, part in (
        (options.micro_batch, 0), (options.batch, 0), (options.batch, options.micro_batch)))
    print(f"MB of temporaries: batch {options.micro_batch}: {small:.0f}; batch {options.batch}: {plain:.0f}, "
          f"in micro-batches of {options.micro_batch}: {cached:.0f}")
    print(f"  in micro-batches / one of them alone: {cached / small:.2f} (aim <= 1.2); / plain: {cached / plain:.3f}")
    devices = mesh.make(jax.devices()[:1])
    steps = {name: ours(changed(config, options.timed_batch, part), SIZE, devices)[0]
             for name, part in (("plain", 0), ("cached", options.timed_batch // 4))}
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(options.repeats + 1):  # the first one compiles
        for name, step in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(step())
            best[name] = min(best[name], time.perf_counter() - began)
    print(f"time, batch {options.timed_batch}: plain {best['plain']:.3f} s; in 4 micro-batches {best['cached']:.3f} s; "
          f"ratio {best['cached'] / best['plain']:.2f} (aim <= 1.45)")


def changed(config: PretrainConfig, batch: int, micro_batch: int) -> PretrainConfig:
    return dataclasses.replace(config, batch_size=batch, train=TrainConfig(micro_batch))


def temporaries(config: PretrainConfig) -> float:
    devices, records = mesh.make(jax.devices()[:1]), shapes(SIZE, ("s1_grd", "s2_l2a"), classes=0)
    task = build_without_weights(config, records, devices)
    return compile_program(config, task, records.info, devices, steps=100).memory.temporaries / 1e6


if __name__ == "__main__":
    main()
