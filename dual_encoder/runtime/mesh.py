"""The distribution module: start of many hosts, the device mesh, shardings, host batch -> global array.

One program runs on every device: `jax.jit` over arrays sharded on the axis 'data'. Models and losses are written for
the global batch, so BatchNorm statistics and gradients are global by construction.
"""

import collections
import contextlib
import glob
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dual_encoder.errors import UserError, one_line

LOST = 76  # exit code: another process of the run is dead (EX_PROTOCOL)
_AXIS = "data"
_MEETING = 300  # seconds that the first process waits for the last one to start
_PATIENCE = 20  # seconds until a process says that it waits
_LEAVING = 5  # seconds that a process waits at its end for others that end like it;
_LEAVING_LAST = 60  # the first one, without which JAX aborts the others, for longer
_MANUAL = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def start(peer_timeout: int) -> None:
    """Joins the other hosts when this process is one of many.

    The three variables of `_MANUAL` say so, or SLURM, or a TPU: JAX asks its metadata server for the others. They
    may start `_MEETING` seconds apart, or `peer_timeout` where that is longer; then JAX aborts those that came.

    Args:
      peer_timeout: seconds without a sign of life after which a process counts as dead, and all others end.

    Raises:
      UserError: some of the three are set, others are missing or no numbers; no meeting with the others.
    """
    place = _given_place()
    many = bool(place) or int(os.environ.get("SLURM_NTASKS", "1")) > 1 or (
        "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""))
    if not many and not _has_tpu():
        return
    try:
        _join(peer_timeout, *place)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"the processes of the run cannot meet: {one_line(error)}; if an earlier run still has "
                        "the port of the first one, end it or give another port") from error
    except ValueError:  # no metadata server that knows of a slice: where only chips spoke for one, a machine alone
        if many:
            raise


def _given_place() -> tuple[()] | tuple[str, int, int]:
    """Returns the address of the first process, the number of processes and that of this one, or () if not given."""
    given = {name: os.environ[name] for name in _MANUAL if name in os.environ}
    if not given:
        return ()
    try:
        address, count, number = given[_MANUAL[0]], int(given[_MANUAL[1]]), int(given[_MANUAL[2]])
        port = int(address.rsplit(":", 1)[1])
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{given} do not describe one process of many; set all of {', '.join(_MANUAL)} "
                        "(HOST:PORT, a number, a number from 0)") from error
    if number == 0 and _is_taken(port):  # JAX would crash now and then
        raise UserError(f"the processes of the run cannot meet: the port of {address} is in use; if an earlier run "
                        "still has it, end it or give another port")
    return address, count, number


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what an ended run left behind does not count
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def _join(peer_timeout: int, *place: str | int) -> None:
    """Starts `jax.distributed`; says what a long start waits for: where it is in vain, JAX aborts without a reason."""
    limit = max(peer_timeout, _MEETING)  # a report that is written takes its time, too
    line = (f"waiting for the other processes of the run, up to {limit} s; start the same command on all hosts, and "
            "see that each can reach the first one")
    timer = threading.Timer(_PATIENCE, print, (line,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    # JAX's notice of SIGTERM mixes up our steps with those that Orbax names on another thread; ours is in the batch.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(*place, heartbeat_timeout_seconds=peer_timeout, initialization_timeout=limit,
                                   shutdown_timeout_seconds=limit)
    finally:
        timer.cancel()


def _has_tpu() -> bool:
    """True on a host with TPU chips that this process may use."""
    platforms = os.environ.get("JAX_PLATFORMS", "tpu").split(",")
    chips = [*glob.glob("/dev/accel[0-9]*"), *glob.glob("/dev/vfio/[0-9]*")]
    return "tpu" in platforms and bool(chips) and importlib.util.find_spec("libtpu") is not None


def make(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the one-axis mesh over `devices` (all devices of all hosts when None), in the order of processes.

    So the rows of a process are one block of the global batch, as `local_rows` says; `jax.make_mesh` would order TPU
    chips by their place in the torus.

    Raises:
      UserError: one process has more devices than another.
    """
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    counts = collections.Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        raise UserError(f"the processes of the run have {', '.join(map(str, counts.values()))} devices, expected as "
                        "many in each; hide as many everywhere, as with CUDA_VISIBLE_DEVICES")
    # Auto: the compiler places the collectives; JAX's default (Explicit) refuses `z1 @ z2.T` of two sharded operands.
    return Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def check_rows(key: str, rows: int, mesh: Mesh, of: int = 0) -> None:
    """Raises UserError, naming the config key, unless so many rows can be split evenly over the devices.

    It advises the next smaller and the next larger number; those that divide `of` where the rows are a part of that.
    """
    if rows % mesh.size:
        fit = [number for number in range(mesh.size, rows + of + mesh.size, mesh.size) if of % number == 0]
        choices = [*[number for number in fit if number < rows][-1:], *[number for number in fit if number > rows][:1]]
        raise UserError(f"config.{key} is {rows}, not a multiple of the {mesh.size} devices; use "
                        f"{' or '.join(map(str, choices))}")


def local_rows(batch_size: int) -> range:
    """Returns the rows of the global batch that this process feeds."""
    share = batch_size // jax.process_count()
    return range(jax.process_index() * share, (jax.process_index() + 1) * share)


def to_global(local_batch: Mapping[str, np.ndarray], mesh: Mesh, stop: bool = False) -> dict[str, jax.Array]:
    """Turns this process's rows into arrays of the global batch, sharded by row.

    Its `stop` [batch] bool says of each row whether the process that feeds it was asked to end the run.
    """
    sharding, rows = by_row(mesh), len(next(iter(local_batch.values())))
    return {name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in {**local_batch, "stop": np.full(rows, stop)}.items()}


def is_main_process() -> bool:
    """True on the one process that writes metrics, reports and progress."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around work on all processes: when it fails on this one, it ends at once, with code LOST and one line.

    It does not wait for the others: most often one of them is dead. Want of memory is a fault of its own.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if is_alone() or "RESOURCE_EXHAUSTED" in str(error):
            raise
        print(f"error: process {jax.process_index()} of {jax.process_count()} lost another one, or failed itself: "
              f"{one_line(error)}; look for an earlier error in the logs of the others, and start "
              "the same command on all of them again", file=sys.stderr, flush=True)
        os._exit(LOST)


def leave(code: int) -> NoReturn:
    """Ends this process, whatever the others of the run do.

    JAX has all processes meet at their exit, waits for minutes, and aborts. So those that end for the same reason meet
    here; one that ends alone does not wait for the others, which lose it as they would a dead one.
    """
    if jax.distributed.is_initialized():
        meeting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        patience = _LEAVING_LAST if is_main_process() else _LEAVING
        meeting.start()
        meeting.join(patience)
        if meeting.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def is_alone() -> bool:
    """True when this process is the only one of the run."""
    return jax.process_count() == 1


def agree(value: int) -> int:
    """Returns the main process's `value` on all processes."""
    if is_alone():
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
