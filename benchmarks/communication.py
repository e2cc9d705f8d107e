"""Compares the bytes that devices exchange in one training step with the bytes that they must exchange.

Method. The step of configs/pretrain.py is compiled as in training (dual_encoder.plan.step_program), for 8 simulated CPU
devices and, if libtpu is installed, for 256 TPU chips; nothing runs. The collectives are read from the optimised
program. The prediction uses only the configuration and the shapes of the parameters:

  gradients    every trained value once: kernels of an encoder in its compute dtype (XLA's CPU backend sums bfloat16 as
               float32), everything else in float32
  BatchNorm    three sums per channel, float32: in the forward pass the values and their squares; in the backward pass
               one more, in addition to the gradients of scale and bias
  embeddings   each device compares its rows of one sensor with all rows of the other: these are gathered, and their
               gradients summed: 2 x batch x dim, float32
  columns      the softmax over all rows needs, per column, the largest value (of all, of negatives), the sum, the
               result and the gradient; and the place of each record, to mask and to count: 7 x batch, 4 bytes

Arrays are matched by their number of values, those of the expected width first. The other arrays are printed as
`other`, with their source. Bytes are those of the whole arrays on one device (a ring sends up to twice as much). The
exit code is 1 if the compiled total is not within 10 % of the prediction.

    python -m benchmarks.communication [--topologies=cpu:8,v5e:16x16] [--batch=4096] [--chunk=0] [--smoke]
"""

import argparse
import collections
import importlib.util
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from configs import pretrain
from dual_encoder.config import parse
from dual_encoder.data.shapes import shapes
from dual_encoder.plan.chips import topology
from dual_encoder.plan.step_program import compile_program
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.tasks.build import build_without_weights
from dual_encoder.tasks.pretrain import PretrainConfig
from dual_encoder.tasks.task import Task

TOLERANCE = 0.10
Part = tuple[str, int, int, bool]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "cpu:8,v5e:16x16" if importlib.util.find_spec("libtpu") else "cpu:8"
    parser.add_argument("--topologies", default=default)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="use two small ResNet-18")
    options = parser.parse_args()
    values = pretrain.get_config("smoke" if options.smoke else "paper")
    values.batch_size, values.data.dir, values.loss.chunk = options.batch, "not read", options.chunk
    config = parse(PretrainConfig, values.to_dict())
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    ratios = [compare(config, name) for name in options.topologies.split(",")]
    sys.exit(any(abs(ratio - 1) > TOLERANCE for ratio in ratios))


def compare(config: PretrainConfig, name: str) -> float:
    """Prints the parts for one topology; returns the ratio of compiled to predicted bytes."""
    devices, chip = topology(name)
    mesh = mesh_lib.make(devices)
    records = shapes(264, ("s1_grd", "s2_l2a"), classes=0)
    task = build_without_weights(config, records, mesh)
    program = compile_program(config, task, records.info, mesh, steps=1000)
    predicted, compiled = collections.Counter(), collections.Counter()
    crossing = [(values, size, one) for one in program.collectives for values, size in one.arrays
                for _ in range(one.times)]
    missing = collections.Counter()
    for part, values, width, gathered in predict(config, task, sums_in_float32=chip is None):
        predicted[part] += values * width
        alike = sorted((array for array in crossing if array[0] == values),
                       key=lambda array: (array[1] != values * width, (array[2].kind == "all-gather") != gathered))
        if alike:
            compiled[part] += alike[0][1]
            crossing.remove(alike[0])
        else:
            missing[part] += 1
    compiled["other"] = sum(size for _, size, _ in crossing)
    print(f"\n{name}: {len(devices)} devices, global batch {config.batch_size:,}; MB per device and step; compiled in "
          f"{program.compile_seconds:.0f} s\n{'':12}{'predicted':>12}{'compiled':>12}")
    for part in (*predicted, "other"):
        note = f"  {missing[part]} arrays not found" if missing[part] else ""
        print(f"{part:12}{predicted[part] / 1e6:12.4f}{compiled[part] / 1e6:12.4f}{note}")
    ratio = sum(compiled.values()) / sum(predicted.values())
    print(f"{'all':12}{sum(predicted.values()) / 1e6:12.4f}{sum(compiled.values()) / 1e6:12.4f}  ratio {ratio:.4f}")
    for (values, kind, source), count in collections.Counter(
            (values, one.kind, one.source[-100:]) for values, _, one in crossing).most_common(20):
        print(f"  other: {count} x {values:,} values, {kind}, from {source or 'unknown'}")
    return ratio


def predict(config: PretrainConfig, task: Task, sums_in_float32: bool) -> Iterator[Part]:
    """Yields (part, number of values, bytes per value, whether it is gathered) of each array to exchange."""
    params, statistics = jax.eval_shape(task.init, jax.random.key(0))
    compute = 4 if sums_in_float32 else jnp.dtype(config.encoder.dtype).itemsize
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if name != "['log_scale']" or config.loss.learnable_temperature:
            yield "gradients", leaf.size, compute if "_encoder" in name and leaf.ndim > 1 else 4, False
    for layer in jax.tree.leaves(statistics):  # mean and var of a layer
        yield "BatchNorm", layer.size, 4, False
    for layer in jax.tree.leaves(statistics)[::2]:
        yield "BatchNorm", layer.size, 4, False
    for gathered in (True, False):
        yield "embeddings", config.batch_size * config.projection.dim, 4, gathered
    for _ in range(7):
        yield "columns", config.batch_size, 4, False


if __name__ == "__main__":
    main()
