"""The distribution module: start of many hosts, the device mesh, shardings, host batch -> global array.

One program runs on every device: `jax.jit` over arrays sharded on the axis 'data'. Models and losses are written for
the global batch, so BatchNorm statistics and gradients are global by construction.
"""

import contextlib
import glob
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dual_encoder.errors import UserError

LOST = 76  # exit code: another process of the run is dead (EX_PROTOCOL)
_AXIS = "data"
_MANUAL = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def start(peer_timeout: int) -> None:
    """Joins the other hosts when this process is one of many.

    The three variables of `_MANUAL` say so, or SLURM, or a TPU: JAX asks the host's metadata server for the others.

    Args:
      peer_timeout: seconds without a sign of life after which a process counts as dead, and all others end.

    Raises:
      UserError: some of the three are set, others are missing or no numbers.
    """
    limits = {"heartbeat_timeout_seconds": peer_timeout, "shutdown_timeout_seconds": peer_timeout}
    given = {name: os.environ[name] for name in _MANUAL if name in os.environ}
    if given:
        try:
            address, count, number = (os.environ[name] for name in _MANUAL)
            jax.distributed.initialize(address, int(count), int(number), **limits)
        except (KeyError, ValueError, IndexError) as error:
            raise UserError(f"{given} do not describe one process of many; set all of {', '.join(_MANUAL)} "
                            "(HOST:PORT, a number, a number from 0)") from error
    elif int(os.environ.get("SLURM_NTASKS", "1")) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        jax.distributed.initialize(**limits)
    elif _has_tpu():
        try:
            jax.distributed.initialize(**limits)
        except ValueError:  # no metadata server that knows of a slice: a machine of its own
            pass


def _has_tpu() -> bool:
    """True on a host with TPU chips that this process may use."""
    platforms = os.environ.get("JAX_PLATFORMS", "tpu").split(",")
    chips = [*glob.glob("/dev/accel[0-9]*"), *glob.glob("/dev/vfio/[0-9]*")]
    return "tpu" in platforms and bool(chips) and importlib.util.find_spec("libtpu") is not None


def make(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the one-axis mesh over `devices` (all devices of all hosts when None), in the order of processes.

    So the rows of a process are one block of the global batch, as `local_rows` says; `jax.make_mesh` would order TPU
    chips by their place in the torus.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    # Auto: the compiler places the collectives; JAX's default (Explicit) refuses `z1 @ z2.T` of two sharded operands.
    return Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def check_rows(key: str, rows: int, mesh: Mesh) -> None:
    """Raises UserError, naming the config key, unless so many rows can be split evenly over the devices."""
    if rows % mesh.size:
        below, above = rows // mesh.size * mesh.size, -(-rows // mesh.size) * mesh.size
        choice = f"{below} or {above}" if below else f"{above}"
        raise UserError(f"config.{key} is {rows}, not a multiple of the {mesh.size} devices; use {choice}")


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


def stop_signals() -> tuple[int, ...]:
    """Returns the signals that a run notes itself; with many processes `jax.distributed` notes SIGTERM for all."""
    return (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()


def all_stop(requested: bool, step: int) -> bool:
    """True when this process was asked to stop; with many processes, on all of them at the same step."""
    if jax.process_count() == 1:
        return requested
    return multihost_utils.reached_preemption_sync_point(step)


def stop_before(step: int) -> bool:
    """To be called once, before the first step of a run that goes on from `step`; True when all are to stop at once.

    JAX takes a process that never called `all_stop` to be before step 1, and has all stop at the step after the largest
    that was named: a notice from before this call is for step 1, which a resumed run would never reach.
    """
    if jax.process_count() == 1 or step == 0:
        return False
    return any(multihost_utils.reached_preemption_sync_point(number) for number in sorted({1, step}))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around work on all processes: when it fails on this one, it ends at once, with code LOST and one line.

    It does not wait for the others: most often one of them is dead.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(f"error: process {jax.process_index()} of {jax.process_count()} lost another one, or failed itself: "
              f"{' '.join(str(error).split())[:300]}; look for an earlier error in the logs of the others, and start "
              "the same command on all of them again", file=sys.stderr, flush=True)
        os._exit(LOST)


def agree(value: int) -> int:
    """Returns the main process's `value` on all processes."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
