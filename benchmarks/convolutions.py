"""Compares each convolution of an encoder on a CPU with XLA's own and with PyTorch's, in one run.

    python -m benchmarks.convolutions [--depth=18] [--width=32] [--size=128] [--batch=64] [--bands=12] [--repeats=15]

Method. The benchmark traces the encoder and records its convolutions. It runs each convolution alone, in float32, in
three passes: forward, the gradient of the input (not for the first convolution), and the gradient of the kernel. "ours"
is dual_encoder/models/convolution.py, jitted; "xla" is jax.lax.conv_general_dilated, which ours rewrites, jitted;
"torch" is PyTorch with channels_last. All run on one core, in separate processes that take turns pass by pass; the best
of --repeats after a warm-up counts. In a step the two encoders run at the same time, one core each. The milliseconds
are those of all convolutions of a kind together. A ratio above 1 means that ours is slower.
"""

import argparse
import collections
import functools
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import processes
from dual_encoder.models import resnet
from dual_encoder.models.convolution import convolution
from dual_encoder.runtime import heap

SIDES = ("ours", "xla", "torch")
PASSES = ("forward", "input gradient", "kernel gradient")


class Convolution(NamedTuple):
    """The shapes of a convolution: `x` [batch, height, width, channels], kernel [size, size, channels, features]."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int

    def operations(self) -> float:
        batch, height, width, _ = self.x
        return 2.0 * batch * -(-height // self.stride) * -(-width // self.stride) * np.prod(self.kernel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("depth", 18), ("width", 32), ("size", 128), ("batch", 64), ("bands", 12), ("repeats", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    found = recorded(options)
    pipes = processes.contestants(our_side, torch_side) | {"xla": processes.start(xla_side)}
    for side, pipe in pipes.items():
        processes.answer(side, pipe)  # all imports are done
    print(f"the convolutions of a ResNet-{options.depth} of width {options.width}, {options.bands} bands, "
          f"{options.size} px, batch {options.batch}, float32, one core; jax {jax.__version__}")
    print(f"{'image':>15}  {'kernel':17} {'stride':>6} {'times':>5}  {'pass':15} {'GFLOP/s, ours':>13} {'xla':>6} "
          f"{'torch':>6} {'ms, ours':>9} {'xla':>8} {'torch':>8}  ours / xla  ours / torch")
    totals = {number: dict.fromkeys(SIDES, 0.0) for number in range(len(PASSES))}
    for case, times in found.items():
        for number, name in enumerate(PASSES):
            if number == 1 and case.x[-1] == options.bands:
                continue  # training does not need the gradient of an image
            seconds = race(pipes, case, number, options.repeats)
            for side in SIDES:
                totals[number][side] += times * seconds[side]
            rates = [case.operations() / seconds[side] / 1e9 for side in SIDES]
            row = (f"{case.x[1]} x {case.x[2]} x {case.x[3]:3}", " x ".join(map(str, case.kernel)))
            print(f"{row[0]:>15}  {row[1]:17} {case.stride:6} {times:5}  {name:15} {rates[0]:13.0f} {rates[1]:6.0f} "
                  f"{rates[2]:6.0f} {1000 * times * seconds['ours']:9.1f} {1000 * times * seconds['xla']:8.1f} "
                  f"{1000 * times * seconds['torch']:8.1f}  {seconds['ours'] / seconds['xla']:10.2f}  "
                  f"{seconds['ours'] / seconds['torch']:12.2f}", flush=True)
    totals["all"] = {side: sum(total[side] for total in totals.values()) for side in SIDES}
    for number, total in totals.items():
        name = number if isinstance(number, str) else PASSES[number]
        print(f"  {name:15} ours {1000 * total['ours']:8.1f} ms  xla {1000 * total['xla']:8.1f} ms  torch "
              f"{1000 * total['torch']:8.1f} ms  ours / xla {total['ours'] / total['xla']:.2f}  "
              f"ours / torch {total['ours'] / total['torch']:.2f}")


def recorded(options: argparse.Namespace) -> dict[Convolution, int]:
    """Returns convolution -> how often it occurs in the encoder."""
    found: collections.Counter[Convolution] = collections.Counter()

    def record(call, arguments, keywords, context):
        conv = context.module
        if isinstance(conv, resnet._Conv):
            x, = arguments
            found[Convolution(x.shape, (conv.size, conv.size, x.shape[-1], conv.features), conv.stride)] += 1
        return call(*arguments, **keywords)

    images = jax.ShapeDtypeStruct((options.batch, options.size, options.size, options.bands), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(lambda x: resnet.ResNet(options.depth, options.width).init(jax.random.key(0), x, train=True),
                       images)
    return dict(found)


def race(pipes: dict[str, Connection], case: Convolution, number: int, repeats: int) -> dict[str, float]:
    """Returns the best seconds of each side; NaN for a side that is not installed."""
    seconds = dict.fromkeys(SIDES, float("nan"))
    for side, pipe in pipes.items():
        pipe.send((case, number, repeats))
        seconds[side] = processes.answer(side, pipe)
    return seconds


def arrays(case: Convolution) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns random images, a random kernel and a random gradient of the result."""
    rng = np.random.default_rng(0)
    side = [-(-length // case.stride) for length in case.x[1:3]]
    shapes = (case.x, case.kernel, (case.x[0], *side, case.kernel[-1]))
    x, kernel, gradient = (rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
    return x, kernel, gradient


def best(run: Callable[[], Any], repeats: int) -> float:
    run(), run()
    seconds = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds = min(seconds, time.perf_counter() - began)
    return seconds


def keep_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    heap.keep()


def our_side(pipe: Connection) -> None:
    jax_side(pipe, convolution)


def xla_side(pipe: Connection) -> None:
    jax_side(pipe, xla_convolution)


def xla_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Returns the same as dual_encoder.models.convolution, as XLA computes it without the rewrites."""
    pad = (len(kernel) - 1) // 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2,
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))


def jax_side(pipe: Connection, convolve: Callable[..., jax.Array]) -> None:
    keep_one_core()
    pipe.send("ready")
    for case, number, repeats in processes.requests(pipe):
        pipe.send(best(jax_pass(convolve, case, number), repeats))


def jax_pass(convolve: Callable[..., jax.Array], case: Convolution, number: int) -> Callable[[], Any]:
    x, kernel, gradient = map(jnp.asarray, arrays(case))
    forward = functools.partial(convolve, stride=case.stride)
    if number == 0:
        program = jax.jit(forward).lower(x, kernel).compile()
        return lambda: program(x, kernel).block_until_ready()
    backward = jax.jit(lambda *inputs: jax.vjp(forward, *inputs[:2])[1](inputs[2])[number - 1])
    program = backward.lower(x, kernel, gradient).compile()
    return lambda: program(x, kernel, gradient).block_until_ready()


def torch_side(pipe: Connection) -> None:
    keep_one_core()
    import torch

    torch.set_num_threads(1)
    pipe.send("ready")
    for case, number, repeats in processes.requests(pipe):
        pipe.send(best(torch_pass(case, number), repeats))


def torch_pass(case: Convolution, number: int) -> Callable[[], Any]:
    import torch

    x, kernel, gradient = map(torch.from_numpy, arrays(case))
    x, gradient = x.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)  # channels_last in memory
    kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    stride, pad = [case.stride] * 2, [case.kernel[0] // 2] * 2
    if number == 0:
        return functools.partial(torch.nn.functional.conv2d, x, kernel, stride=stride, padding=pad)
    wanted = [number == 1, number == 2, False]  # the gradient of input, kernel and bias
    return functools.partial(torch.ops.aten.convolution_backward, gradient, x, kernel, None, stride, pad, [1, 1], False,
                             [0, 0], 1, wanted)


if __name__ == "__main__":
    main()
