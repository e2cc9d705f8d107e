"""Compares the training step of two encoders: ours in JAX, and the same model in PyTorch, in one run.

    python -m benchmarks.train_step                                                    two ResNet-18 on this machine
    python -m benchmarks.train_step --depth=50 --width=64 --size=224 --batch=256 --dtype=bfloat16         on a GPU
    python -m benchmarks.train_step --family=vit --depth=12 --width=768 --size=224 --batch=256 --dtype=bfloat16

Method. Ours is the whole step of the trainer (training.step.compile_step): it takes raw integers, normalises, crops,
flips and turns them, and computes two encoders and heads, InfoNCE, gradients, AdamW, and checks for NaN. The peer
(benchmarks/torch_models.py) gets float images that are already normalised, without augmentation and checks; otherwise
it has the same arithmetic, the same loss, and AdamW. On a CPU the peer uses channels_last and one thread per core; on a
GPU it uses autocast to --dtype, channels_last and torch.compile (--no-compile turns it off). Weights and images are
random; one batch stays on the device. Both keep freed memory (dual_encoder/runtime/heap.py), like our trainer. Each has
its own process: in one process the waiting threads of the other runtime cost up to a third. They take turns: --turns
times --steps steps each after a warm-up, while the other one sleeps; the best turn counts. Losses are read at the end
of a turn, so that an accelerator gets its next step while it works, as in training. The output shows the losses, as a
proof that both train. MFU is the number of operations of convolutions and matrix products (counted in our step by
dual_encoder/plan/flops.py), divided by the time and by the chip's peak for bfloat16; it is shown for known chips.

The script fails if our side has imported TensorFlow.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np

from benchmarks import processes
from configs import pretrain
from dual_encoder.config import parse
from dual_encoder.data.shapes import shapes
from dual_encoder.optim.optimizer import make_optimizer
from dual_encoder.plan import flops
from dual_encoder.plan.chips import CHIPS
from dual_encoder.plan.step_program import batch_shapes
from dual_encoder.runtime import heap, mesh
from dual_encoder.tasks.build import build_without_weights
from dual_encoder.tasks.pretrain import PretrainConfig
from dual_encoder.training.step import bind_step, compile_step, init_state

SENSORS = {"s1": "s1_grd", "s2": "s2_l2a"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("depth", 18), ("width", 16), ("size", 64), ("batch", 64), ("steps", 10), ("turns", 5),
                          ("cpu-devices", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--family", default="resnet", choices=["resnet", "vit"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    config = configure(options)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # both must fit on one GPU
    contestants = processes.contestants(our_side, torch_side, config, options)
    described = {name: processes.answer(name, pipe) for name, pipe in contestants.items()}
    best, losses = dict.fromkeys(contestants, float("inf")), {}
    for _ in range(options.turns):
        for name, pipe in contestants.items():
            pipe.send(options.steps)
            seconds, losses[name] = processes.answer(name, pipe)
            best[name] = min(best[name], seconds)
    report(options, best, losses, **described["ours"])


def take_turns(step: Callable[[], Any], description: dict, pipe: Connection) -> None:
    """Warms up and sends `description`; then sends (seconds per step, last loss) for each requested number of steps."""
    def turn(steps: int) -> float:
        return float([step() for _ in range(steps)][-1])

    turn(3)
    pipe.send(description)
    for steps in processes.requests(pipe):
        began = time.perf_counter()
        loss = turn(steps)
        pipe.send(((time.perf_counter() - began) / steps, loss))


def our_side(config: PretrainConfig, options: argparse.Namespace, pipe: Connection) -> None:
    heap.keep()
    jax.config.update("jax_num_cpu_devices", options.cpu_devices)
    # PyTorch's side uses one GPU
    devices = mesh.make(jax.devices()[:1] if jax.default_backend() == "gpu" else None)
    step, operations = ours(config, options.size, devices)
    step()  # late imports happen now
    if "tensorflow" in sys.modules:
        sys.exit("something imported TensorFlow")
    device = jax.devices()[0].device_kind
    take_turns(step, {"operations": operations, "device": device, "count": devices.size}, pipe)


def torch_side(config: PretrainConfig, options: argparse.Namespace, pipe: Connection) -> None:
    heap.keep()
    take_turns(torch_step(config, options), {}, pipe)


def configure(options: argparse.Namespace) -> PretrainConfig:
    values = pretrain.get_config("smoke")
    values.batch_size, values.data.dir, values.augment.crop = options.batch, "not read", options.size
    values.encoder.update({"family": options.family, "depth": options.depth, "width": options.width,
                           "image_size": options.size, "dtype": options.dtype})
    return parse(PretrainConfig, values.to_dict())


def ours(config: PretrainConfig, size: int, devices: jax.sharding.Mesh) -> tuple[Callable[[], jax.Array], int]:
    """Returns a function that starts a step and returns its loss, and the number of operations of a step."""
    records = shapes(size, tuple(SENSORS.values()), classes=0)
    task = build_without_weights(config, records, devices)
    optimizer = make_optimizer(config.optimizer, config.batch_size, 10**6)
    state = init_state(task, optimizer, config, devices)
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(0, 3000, shape.shape).astype(shape.dtype) if name in SENSORS
             else np.arange(config.batch_size, dtype=np.int32)
             for name, shape in batch_shapes(task, records.info, config.batch_size).items()}
    batch = mesh.to_global(batch, devices)
    operations = flops.count(bind_step(task, optimizer, config), state, batch)
    compiled, box = compile_step(task, optimizer, config, devices), [state]

    def step() -> jax.Array:
        box[0], metrics = compiled(box[0], batch)
        return metrics["loss"]

    return step, operations


def torch_step(config: PretrainConfig, options: argparse.Namespace) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as F

    from benchmarks import torch_models

    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cuda.matmul.allow_tf32 = True

    def encoder(bands: int) -> torch.nn.Module:
        body = (torch_models.ResNet(bands, options.depth, options.width) if options.family == "resnet" else
                torch_models.Transformer(bands, options.depth, options.width, config.encoder.patch, options.size))
        return torch_models.with_head(body, config.projection.hidden, config.projection.dim).to(
            device, memory_format=torch.channels_last)

    encoders = torch.nn.ModuleList([encoder(2), encoder(12)])
    log_scale = torch.nn.Parameter(torch.tensor(np.log(1 / config.loss.temperature), device=device,
                                                dtype=torch.float32))
    optimizer = torch.optim.AdamW([*encoders.parameters(), log_scale], 1e-5, fused=device == "cuda")
    images = [torch.randn(options.batch, bands, options.size, options.size, device=device).contiguous(
        memory_format=torch.channels_last) for bands in (2, 12)]
    labels = torch.arange(options.batch, device=device)

    def loss_of(images):
        with torch.autocast(device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            u, v = (encoder(image) for encoder, image in zip(encoders, images, strict=True))
        logits = log_scale.exp() * F.normalize(u.float()) @ F.normalize(v.float()).T
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    if device == "cuda" and options.compile:
        loss_of = torch.compile(loss_of)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(images)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def report(options: argparse.Namespace, best: dict[str, float], losses: dict[str, float], operations: int, device: str,
           count: int) -> None:
    alike = [chip for chip in CHIPS.values() if device.startswith(chip.device_kind)]
    chip = max(alike, key=lambda chip: len(chip.device_kind), default=None)  # 'TPU v5 lite' is not 'TPU v5'
    print(f"two {options.family} of depth {options.depth}, width {options.width}, {options.size} px, batch "
          f"{options.batch}, {options.dtype}, on {count} x {device}; jax {jax.__version__}; "
          f"{operations / 1e9:.1f} GFLOP a step")
    for name, seconds in best.items():
        mfu = f"  MFU {operations / seconds / chip.flops / count:.1%}" if chip else ""
        print(f"  {name:6} {1000 * seconds:8.1f} ms  {options.batch / seconds:8.0f} pairs/s  "
              f"{operations / seconds / 1e9:8.0f} GFLOP/s{mfu}  loss {losses[name]:.3f}")
    if "torch" in best:
        print(f"  ours / torch, time: {best['ours'] / best['torch']:.2f}")


if __name__ == "__main__":
    main()
