"""Measures memory and time of the contrastive losses in tiles, against the dense losses and other libraries.

Method. Each program computes the loss and its gradient with respect to both sets of embeddings (and scale), in float32,
jitted at XLA's default optimization, on one device. All get the same random embeddings, which are correlated in pairs.
1. Memory: the compiler's own figure for temporaries, forward and backward together (memory_analysis); nothing is run.
2. Time: the programs of one table take turns; the best of --repeats runs counts, after one warm-up.
3. Peers, also in turns: optax.losses.ntxent, and the loss of open_clip for one process. The latter is written in JAX
   and, if PyTorch is installed, in PyTorch (in its own process, with its default number of CPU threads). Peers get the
   same embeddings and normalise them. The run stops if the losses differ by more than 1e-4.
Ratios are ours / theirs: below 1 is less memory, less time.

    python -m benchmarks.loss [--batch=8192] [--large=32768] [--huge=262144] [--peer-batch=512] [--chunk=512]
                              [--repeats=5]
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import processes
from dual_encoder.losses import contrastive
from dual_encoder.losses.tiles import Tiles
from dual_encoder.runtime import mesh

DIM, SCALE, BIAS = 128, 14.3, -10.0
Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8192), ("large", 32768), ("huge", 262144), ("peer-batch", 512), ("chunk", 512),
                          ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.platform} {device.device_kind}, dim {DIM}, tiles of {options.chunk}")
    tiles = Tiles(options.chunk, mesh.make([device]))
    memory(tiles, options.large, options.huge)
    print(f"\ntime of loss and gradient, batch {options.batch}")
    for name in ("info_nce", "nt_xent", "sigmoid"):
        programs = {"dense": ours(name, None), "tiles": ours(name, tiles)}
        seconds = race({key: compiled(loss, options.batch) for key, loss in programs.items()}, options)
        print(f"  {name:9} dense {seconds['dense']:.3f} s  tiles {seconds['tiles']:.3f} s  "
              f"tiles / dense {seconds['tiles'] / seconds['dense']:.2f}")
    peers(tiles, options)


def ours(name: str, tiles: Tiles | None) -> Loss:
    function = getattr(contrastive, name)
    extra = (jnp.float32(BIAS),) if name == "sigmoid" else ()
    return lambda z1, z2, scale: function(z1, z2, scale, *extra, tiles=tiles)[0]


def compiled(loss: Loss, batch: int) -> jax.stages.Compiled:
    z = jax.ShapeDtypeStruct((batch, DIM), jnp.float32)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(z, z, jnp.float32(SCALE)).compile()


def memory(tiles: Tiles, large: int, huge: int) -> None:
    def temporaries(loss: Loss, batch: int) -> float:
        return compiled(loss, batch).memory_analysis().temp_size_in_bytes / 1e6

    print("\ntemporary memory of loss and gradient, MB (10^6 bytes)")
    for name in ("info_nce", "nt_xent", "sigmoid"):
        dense, chunked = (temporaries(ours(name, how), large) for how in (None, tiles))
        print(f"  {name:9} batch {large}: dense {dense:,.0f}  tiles {chunked:,.0f}  dense / tiles {dense / chunked:.0f}"
              f"   batch {huge}: tiles {temporaries(ours(name, tiles), huge):,.0f}")


def embeddings(batch: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z1 = rng.normal(size=(batch, DIM))
    return z1.astype(np.float32), (z1 + 2 * rng.normal(size=(batch, DIM))).astype(np.float32)


def race(programs: Mapping[str, Callable], options: argparse.Namespace, batch: int | None = None) -> dict[str, float]:
    """Returns name -> seconds; stops if the losses differ."""
    z1, z2 = embeddings(batch or options.batch)
    arguments = jnp.asarray(z1), jnp.asarray(z2), jnp.float32(SCALE)
    values = {name: float(program(*arguments)[0]) for name, program in programs.items()}
    assert max(values.values()) - min(values.values()) < 1e-4 * max(values.values()), values
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(options.repeats):
        for name, program in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def peers(tiles: Tiles, options: argparse.Namespace) -> None:
    print(f"\nagainst optax.losses.ntxent, batch {options.peer_batch} (two views each)")
    seconds = race({name: compiled(loss, options.peer_batch) for name, loss in (
        ("optax", optax_ntxent), ("dense", ours("nt_xent", None)), ("tiles", ours("nt_xent", tiles)))}, options,
        options.peer_batch)
    report(seconds)
    peer, chunked = (compiled(loss, options.peer_batch).memory_analysis().temp_size_in_bytes / 1e6
                     for loss in (optax_ntxent, ours("nt_xent", tiles)))
    print(f"  temporary memory: optax {peer:,.0f} MB  tiles {chunked:,.0f} MB  tiles / optax {chunked / peer:.3f}")

    print(f"\nagainst the loss of open_clip, batch {options.batch}")
    programs = {name: compiled(loss, options.batch) for name, loss in (
        ("open_clip in JAX", open_clip), ("dense", ours("info_nce", None)), ("tiles", ours("info_nce", tiles)))}
    if importlib.util.find_spec("torch"):
        programs["open_clip in PyTorch"] = torch_open_clip(options.batch)
    else:
        print("  (PyTorch is not installed)")
    report(race(programs, options))


def report(seconds: Mapping[str, float]) -> None:
    for name, value in seconds.items():
        if name in ("dense", "tiles"):
            continue
        ratios = (f"{mine} {seconds[mine]:.3f} s, {mine} / {name} {seconds[mine] / value:.3f}"
                  for mine in ("dense", "tiles"))
        print(f"  {name} {value:.3f} s  {'  '.join(ratios)}")


def optax_ntxent(z1: jax.Array, z2: jax.Array, scale: jax.Array) -> jax.Array:
    labels = jnp.tile(jnp.arange(len(z1)), 2)
    return optax.losses.ntxent(jnp.concatenate([z1, z2]), labels, 1.0 / scale)


def open_clip(z1: jax.Array, z2: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns the mean of the cross-entropy of the rows and that of the columns of the logits."""
    u, v = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in (z1, z2))
    logits, labels = scale * u @ v.T, jnp.arange(len(u))
    cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
    return (cross_entropy(logits, labels).mean() + cross_entropy(logits.T, labels).mean()) / 2


def torch_open_clip(batch: int) -> Callable:
    """Returns the same in PyTorch. Its process has made equal arrays; the arguments of the call are not used."""
    pipe = processes.start(torch_side, batch)

    def program(*_):
        pipe.send(True)
        return processes.answer("PyTorch", pipe), ()

    return program


def torch_side(batch: int, pipe: Connection) -> None:
    """Computes loss and gradient for every message, and sends the loss."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    leaves = [torch.tensor(z, requires_grad=True) for z in (*embeddings(batch), np.float32(SCALE))]
    labels = torch.arange(batch)
    for _ in processes.requests(pipe):
        u, v = normalize(leaves[0]), normalize(leaves[1])
        logits = leaves[2] * u @ v.T
        loss = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
        torch.autograd.grad(loss, leaves)
        pipe.send(loss.item())


if __name__ == "__main__":
    main()
