"""Accelerators by name: their peak rates, and topologies to compile programs for without the hardware."""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping

import jax
from jax.experimental import topologies

from dual_encoder.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """An accelerator that is one JAX device.

    Attributes:
      name: its name in a topology, such as 'v5e'.
      kind: its name in texts, such as 'TPU v5e'.
      device_kind: the beginning of JAX's name for it (`jax.Device.device_kind`).
      memory: main memory, bytes.
      usable: the part of the memory that a program may use, bytes.
      flops: peak bfloat16 operations per second.
      memory_rate: peak bytes per second from and to the main memory.
      link_rate: peak bytes per second that the chip can send to other chips, over all links.
      slices: the shapes of the slices that exist; () for GPUs, whose shapes are N or HOSTSxN.
    """

    name: str
    kind: str
    device_kind: str
    memory: int
    usable: int
    flops: float
    memory_rate: float
    link_rate: float
    slices: tuple[str, ...]


def _tpu(name: str, device_kind: str, memory: float, usable: float, teraflops: float, memory_gb: float, link_gb: float,
         slices: str) -> Chip:
    return Chip(name, f"TPU {name.removeprefix('tpu')}", device_kind, int(memory * GIB), int(usable * GIB),
                teraflops * 1e12, memory_gb * 1e9, link_gb * 1e9, tuple(slices.split()))


def _gpu(name: str, kind: str, device_kind: str, memory: float, teraflops: float, memory_gb: float, link_gb: float
         ) -> Chip:
    # JAX takes 75 % of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise (its page on GPU memory).
    return Chip(name, kind, device_kind, int(memory * GIB), int(0.75 * memory * GIB), teraflops * 1e12,
                memory_gb * 1e9, link_gb * 1e9, ())


_FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBES = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16"

# TPUs: published peaks and slices from docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, as of November 2026.
# These pages give the rate of the links in both directions together; here it is half of that, for one direction. v4 has
# six links of 50 GB/s (Jouppi et al. 2023, arXiv 2304.01433, table 4). A TPU7x chip is two JAX devices; the figures
# here are half of the chip's. `usable` is the "available HBM" in the message of libtpu 0.0.42 if a program needs more.
# NVIDIA: data sheets of A100 80GB SXM, H100 SXM and H200 SXM; bfloat16 without sparsity, NVLink in one direction.
# Memory is in GiB as CUDA reports it; the driver uses some of it.
CHIPS: Mapping[str, Chip] = {chip.name: chip for chip in (
    _tpu("v4", "TPU v4", 32, 30.75, 275, 1200, 300, _CUBES),
    _tpu("v5e", "TPU v5 lite", 16, 15.75, 197, 819, 200, _FLAT),
    _tpu("v5p", "TPU v5", 95, 95, 459, 2765, 600, _CUBES),
    _tpu("v6e", "TPU v6 lite", 32, 31.25, 918, 1638, 400, _FLAT),
    _tpu("tpu7x", "TPU7x", 96, 94.75, 1153.5, 3690, 300, _CUBES),
    _gpu("a100", "A100 80GB", "NVIDIA A100", 79.1, 312, 2039, 300),
    _gpu("h100", "H100 80GB", "NVIDIA H100 80GB HBM3", 79.1, 989, 3350, 450),
    _gpu("h200", "H200 141GB", "NVIDIA H200", 139.7, 989, 4800, 450),
)}

# The facts about a GPU that the compiler needs, from NVIDIA's CUDA C++ Programming Guide, table "Technical
# Specifications per Compute Capability", and the data sheets: (major version of the compute capability, cores, shared
# memory per core in bytes, the most shared memory per block in bytes, L2 cache in bytes, GHz).
_GPU_FACTS = {"a100": (8, 108, 167936, 166912, 41943040, 1.41), "h100": (9, 132, 233472, 232448, 52428800, 1.98),
              "h200": (9, 132, 233472, 232448, 52428800, 1.98)}


def topology(name: str) -> tuple[list[jax.Device], Chip | None]:
    """Returns the devices of a topology, in JAX's order, and the chip; for 'cpu:N', simulated devices and None.

    Programs can be compiled for the TPU and GPU devices, but cannot run on them.

    Args:
      name: 'cpu:8', 'v5e:16x16', 'h100:8' or 'h100:2x8' (hosts x GPUs).

    Raises:
      UserError: there is no such chip or shape, or the package with the compiler is not installed.
    """
    kind, _, shape = name.partition(":")
    chip = CHIPS.get(kind)
    if kind == "cpu" and re.fullmatch(r"[1-9]\d*", shape):
        return _cpu(int(shape)), None
    if chip and not chip.slices and re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", shape):
        return _gpus(name, chip, shape), chip
    if chip and chip.slices and shape in chip.slices:
        return _tpus(name, shape), chip
    of_kind = [chip] if chip else CHIPS.values()
    valid = [f"{one.name}:{{{','.join(one.slices)}}}" if one.slices else f"{one.name}:N, {one.name}:HOSTSxN"
             for one in of_kind]
    raise UserError(f"--topology is '{name}'; valid: {', '.join(valid if chip else ['cpu:N', *valid])}")


def _cpu(count: int) -> list[jax.Device]:
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has started already
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"--topology is 'cpu:{count}', this process has {len(devices)} simulated CPU devices; use "
                        f"cpu:{len(devices)}")
    return devices[:count]


def _tpus(name: str, shape: str) -> list[jax.Device]:
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise UserError(f"--topology={name} needs libtpu, the compiler for TPUs; run pip install -e "
                        "'.[tpu-plan]', or use --topology=cpu:8")
    # libtpu looks for a TPU machine, also in the network, and writes logs. These variables prevent both.
    for key, value in (("TPU_SKIP_MDS_QUERY", "1"), ("TPU_ACCELERATOR_TYPE", "v5litepod-4"), ("TPU_WORKER_ID", "0"),
                       ("TPU_WORKER_HOSTNAMES", "localhost"), ("TPU_LOG_DIR", "disabled"),
                       ("TPU_STDERR_LOG_LEVEL", "3"), ("TPU_MIN_LOG_LEVEL", "3")):
        os.environ.setdefault(key, value)
    options: dict[str, str | tuple[int, int, int]] = {}
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    if name.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device, as on a real v4
    try:
        return list(topologies.get_topology_desc(name, "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" not in str(error):
            raise
        raise UserError(f"--topology={name}: another process of this machine uses libtpu; wait until it ends (or "
                        "delete /tmp/libtpu_lockfile if there is no such process)") from error


def _gpus(name: str, chip: Chip, shape: str) -> list[jax.Device]:
    hosts, count = shape.split("x") if "x" in shape else ("1", shape)
    try:
        return list(topologies.get_topology_desc("", "cuda", topology=f"1x{hosts}x{count}",
                                                 target_config=_target(chip)).devices)
    except NotImplementedError as error:
        raise UserError(f"--topology={name} needs JAX's compiler for NVIDIA GPUs; run pip install -e "
                        "'.[cuda]' (no GPU is needed), or use --topology=cpu:8") from error


def _target(chip: Chip) -> str:
    """Returns the description of a GPU for XLA's compiler: the text of a GpuTargetConfigProto."""
    major, cores, shared, shared_block, cache, clock = _GPU_FACTS[chip.name]
    device = {
        "threads_per_block_limit": 1024, "threads_per_warp": 32, "shared_memory_per_block": 49152,
        "shared_memory_per_core": shared, "threads_per_core_limit": 2048, "core_count": cores,
        "fpus_per_core": 128 if major == 9 else 64, "block_dim_limit_x": 2**31 - 1, "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535, "memory_bandwidth": int(chip.memory_rate), "l2_cache_size": cache,
        "clock_rate_ghz": clock, "device_memory_size": chip.memory, "shared_memory_per_block_optin": shared_block,
        "registers_per_core_limit": 65536, "registers_per_block_limit": 65536,
    }
    facts = " ".join(f"{key}: {value}" for key, value in device.items())
    return (f"gpu_device_info {{ {facts} cuda_compute_capability {{ major: {major} }} }} platform_name: 'CUDA' "
            f"dnn_version_info {{ major: 9 minor: 8 }} runtime_version {{ major: 12 minor: 9 }} "
            f"device_description_str: '{chip.kind}'")
