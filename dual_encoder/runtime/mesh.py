"""Runs one program on many devices: the start of all processes, the device mesh, shardings, and global batches.

The program is a `jax.jit` over arrays that are sharded on the axis 'data'. Models and losses are written for the global
batch, so BatchNorm statistics and gradients are global by construction.
"""

import collections
import contextlib
import errno
import glob
import importlib.util
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dual_encoder.errors import UserError, is_device_memory, one_line
from dual_encoder.runtime import backend

LOST = 76  # exit code: another process of the run is dead (EX_PROTOCOL)
_AXIS = "data"
_START_LIMIT = 300  # seconds that the first process waits for the last one to start
_NOTICE_AFTER = 20  # seconds until a waiting process prints that it waits
_EXIT_LIMIT = 5  # seconds that a process waits at its exit for the other processes
_EXIT_LIMIT_FIRST = 60  # the same for the first process: without it JAX aborts the others
_MANUAL = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_BIND = "JAX_COORDINATOR_BIND_ADDRESS"  # JAX's name for the address at which the first process listens


def start(peer_timeout: int) -> None:
    """Joins the other processes of the run, if there are several.

    A run has several processes if the three `JAX_*` variables of `_MANUAL` are set, under SLURM, or on a TPU slice (JAX
    finds them through the slice's metadata server). Processes may start up to max(300, `peer_timeout`) seconds apart;
    after that JAX aborts those that are waiting.

    The first process coordinates the others, without any authentication. With the three variables it listens at the
    given address only, or at JAX_COORDINATOR_BIND_ADDRESS. Under SLURM and on TPUs it listens on all interfaces, unless
    that variable is set.

    Args:
      peer_timeout: seconds without a heartbeat after which a process counts as dead, and all others end.

    Raises:
      UserError: only some of the three variables are set, or they have no valid values; the processes cannot connect;
        JAX_PLATFORMS names a backend that is not there.
    """
    place = _given_place()
    many = bool(place) or int(os.environ.get("SLURM_NTASKS", "1")) > 1 or (
        "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""))
    if not many and not _has_tpu():
        backend.check()
        return
    try:
        _join(peer_timeout, place)
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"the processes of the run cannot connect: {one_line(error)}; if an earlier run still uses "
                        "the port of the first process, end it or give another port") from error
    except ValueError:  # no metadata server describes a slice
        if many:
            raise
        # Only the chips suggested a slice: this is a single machine with TPU chips.


def _given_place() -> tuple[()] | tuple[str, int, int]:
    """Returns the address of the first process, the number of processes, and the number of this process from 0.

    Returns () if none of the three variables is set.
    """
    given = {name: os.environ[name] for name in _MANUAL if name in os.environ}
    if not given:
        return ()
    try:
        address, count, number = given[_MANUAL[0]], int(given[_MANUAL[1]]), int(given[_MANUAL[2]])
        int(address.rsplit(":", 1)[1])
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{given} do not describe one process of several; set all of {', '.join(_MANUAL)} "
                        "(HOST:PORT, a number, a number from 0)") from error
    if number == 0:
        _check_free(os.environ.get(_BIND, address))
    return address, count, number


def _check_free(address: str) -> None:
    """Raises UserError unless this machine can listen at HOST:PORT; JAX sometimes crashes if it cannot."""
    host, port = address.rsplit(":", 1)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an ended run may have left it in TIME_WAIT
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"the processes of the run cannot connect: the port of {address} is in use; if an earlier "
                            "run still uses it, end it or give another port") from error
        raise UserError(f"the first process cannot listen at {address} ({error.strerror or error}); give an address of "
                        f"its machine as {_MANUAL[0]}, or set {_BIND} if the others reach it by another one") from error


def _join(peer_timeout: int, place: tuple[()] | tuple[str, int, int]) -> None:
    """Starts `jax.distributed`.

    After 20 seconds it prints what it is waiting for, because JAX gives no reason when it times out.
    """
    limit = max(peer_timeout, _START_LIMIT)  # also at the exit, when the first process may still write the report
    line = (f"waiting for the other processes of the run, up to {limit} s; start the same command on all hosts, and "
            "check that each can reach the first one")
    timer = threading.Timer(_NOTICE_AFTER, print, (line,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    # JAX's own handling of SIGTERM confuses our steps with the steps of Orbax on another thread. We send the request to
    # stop in the batch instead (`to_global`).
    jax.config.update("jax_enable_preemption_service", False)
    address, count, number = place or (None, None, None)
    try:
        jax.distributed.initialize(address, count, number, heartbeat_timeout_seconds=peer_timeout,
                                   initialization_timeout=limit, shutdown_timeout_seconds=limit,
                                   # JAX's default is all interfaces
                                   coordinator_bind_address=os.environ.get(_BIND, address))
        _meet(limit)
    finally:
        timer.cancel()


def _meet(limit: int) -> None:
    """Connects the devices of all processes while all of them are waiting for it.

    Gloo, the transport between CPUs, connects at the first program on all devices. It gives the last process 30 s and
    JAX has no setting for it. On a loaded machine one process gets there minutes after another. So all wait here until
    the last one has come, up to `limit` seconds. Connections that exist have no such limit.
    """
    counts = collections.Counter(device.process_index for device in jax.devices())
    if is_alone() or jax.default_backend() != "cpu" or len(set(counts.values())) > 1:  # unequal: `make` says so
        return
    from jax._src import distributed  # JAX has no public barrier without a program on the devices

    total, rows = _total(), _own_rows(0)
    program = total.lower(rows).compile()
    client = distributed.global_state.client
    assert client is not None  # there are several processes
    client.wait_at_barrier("dual_encoder_start", limit * 1000)
    program(rows).block_until_ready()


def _has_tpu() -> bool:
    """Returns whether this host has TPU chips that this process may use."""
    platforms = os.environ.get("JAX_PLATFORMS", "tpu").split(",")
    chips = [*glob.glob("/dev/accel[0-9]*"), *glob.glob("/dev/vfio/[0-9]*")]
    return "tpu" in platforms and bool(chips) and importlib.util.find_spec("libtpu") is not None


def make(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the one-axis mesh over `devices` (None: all devices of all hosts), in the order of the processes.

    So the rows of a process are one block of the global batch, which `local_rows` gives. `jax.make_mesh` would order
    TPU chips by their place in the torus.

    Raises:
      UserError: one process has more devices than another.
    """
    backend.check()
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    counts = collections.Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        raise UserError(f"the processes of the run have {', '.join(map(str, counts.values()))} devices, expected the "
                        "same number in each; hide some of them, for example with CUDA_VISIBLE_DEVICES")
    # Auto: the compiler places the collectives; JAX's default (Explicit) refuses `z1 @ z2.T` of two sharded operands.
    return Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding in which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """Returns the sharding in which the first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def check_rows(key: str, rows: int, mesh: Mesh, of: int = 0) -> None:
    """Raises UserError unless `rows` rows can be split evenly over the devices.

    The message names the config key, and the next smaller and the next larger number that fits. If the rows are a part
    of `of` rows, it names numbers that divide `of`.
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

    The result has one more array, `stop` [batch] bool: for each row, whether the process that feeds it has received a
    request to end the run.
    """
    sharding, rows = by_row(mesh), len(next(iter(local_batch.values())))
    return {name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in {**local_batch, "stop": np.full(rows, stop)}.items()}


def is_main_process() -> bool:
    """Returns whether this is the one process that writes metrics, reports and progress."""
    return jax.process_index() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process at once, with exit code LOST and one line, if work that all processes share fails here.

    Use it around that work. The process does not wait for the others, because most often one of them is dead. If memory
    is short the error is raised as it is, because that is this process's own fault.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if is_alone() or is_device_memory(error):
            raise
        print(f"error: process {jax.process_index()} of {jax.process_count()} lost another process, or failed "
              f"itself: {one_line(error)}; look for an earlier error in the logs of the others, and start the same "
              "command on all hosts again", file=sys.stderr, flush=True)
        os._exit(LOST)


def leave(code: int) -> NoReturn:
    """Ends this process with exit code `code`, even if the other processes of the run go on.

    At exit JAX waits minutes for all processes and then aborts. So we wait a few seconds for processes that end for the
    same reason, and otherwise exit; the others treat this process as dead.
    """
    if jax.distributed.is_initialized():
        shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(_EXIT_LIMIT_FIRST if is_main_process() else _EXIT_LIMIT)
        if shutdown.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def is_alone() -> bool:
    """Returns whether this process is the only one of the run."""
    return jax.process_count() == 1


def agree(value: int) -> int:
    """Returns the main process's `value` (int32) on all processes.

    The sum over all devices uses the connections that `_meet` made; JAX's own broadcast would make others.
    """
    return value if is_alone() else int(_total()(_own_rows(value)))


def _total() -> jax.stages.Wrapped:
    """Returns the function that sums an array over all devices, for all of them."""
    return jax.jit(jnp.sum, out_shardings=replicated(make()))


def _own_rows(value: int) -> jax.Array:
    """Returns int32 [devices of all processes]: `value` at the main process's first device, 0 at all others."""
    rows = np.zeros(jax.local_device_count(), np.int32)
    rows[0] = value * is_main_process()
    return jax.make_array_from_process_local_data(by_row(make()), rows)
