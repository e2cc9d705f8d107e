"""The distribution module: start of many hosts, the device mesh, shardings, host batch -> global array.

One program runs on every device: `jax.jit` over arrays sharded on the axis 'data'. Models and losses are written for
the global batch, so BatchNorm statistics and gradients are global by construction.
"""

import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dual_encoder.errors import UserError

_AXIS = "data"


def start() -> None:
    """Joins the other hosts when this process is one of many (SLURM, TPU pod or JAX_COORDINATOR_ADDRESS)."""
    many = (int(os.environ.get("SLURM_NTASKS", "1")) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
            or "JAX_COORDINATOR_ADDRESS" in os.environ)
    if many:
        jax.distributed.initialize()


def make(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the one-axis mesh over `devices` (all devices of all hosts when None)."""
    devices = jax.devices() if devices is None else list(devices)
    # Auto: the compiler places the collectives; JAX's default (Explicit) refuses `z1 @ z2.T` of two sharded operands.
    return jax.make_mesh((len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def check_batch(batch_size: int, mesh: Mesh) -> None:
    """Raises UserError unless the global batch can be split evenly over the devices."""
    if batch_size % mesh.size:
        below, above = batch_size // mesh.size * mesh.size, -(-batch_size // mesh.size) * mesh.size
        choice = f"{below} or {above}" if below else f"{above}"
        raise UserError(f"config.batch_size is {batch_size}, not a multiple of the {mesh.size} devices; use {choice}")


def local_rows(batch_size: int) -> range:
    """Returns the rows of the global batch that this process feeds."""
    share = batch_size // jax.process_count()
    return range(jax.process_index() * share, (jax.process_index() + 1) * share)


def to_global(local_batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Turns this process's rows into arrays of the global batch, sharded by row."""
    sharding = by_row(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in local_batch.items()}


def is_main_process() -> bool:
    """True on the one process that writes metrics, reports and progress."""
    return jax.process_index() == 0


def all_stop(requested: bool, step: int) -> bool:
    """True when this process was asked to stop; with many processes, on all of them at the same step."""
    if jax.process_count() == 1:
        return requested
    return multihost_utils.reached_preemption_sync_point(step)
