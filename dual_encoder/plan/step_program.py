"""Compiles the training step of a configuration, without data and without running it.

The step is that of `training.step.compile_step` for the configured task. It can be compiled for the devices of any
topology, because its arguments need shapes only.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp

from dual_encoder.data.manifest import DatasetInfo
from dual_encoder.errors import UserError, is_device_memory, one_line
from dual_encoder.optim.optimizer import make_optimizer
from dual_encoder.plan import flops, hlo
from dual_encoder.tasks.task import Task, TaskConfig
from dual_encoder.training.step import bind_step, compile_step, init_state


class TooLarge(Exception):
    """The compiler cannot make the program fit into the memory of a device. The message is the compiler's."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs.

    Attributes:
      arguments: state and batch.
      outputs: state and metrics.
      aliased: outputs that use the memory of donated arguments.
      temporaries: activations, gradients and all other arrays that exist only during the step.
      code: the program.
      next_batch: the batch that the trainer sends while this step runs.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    next_batch: int

    @property
    def total(self) -> int:
        """The sum, with aliased memory counted once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code + self.next_batch


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """The figures of the compiled step, for one device.

    Attributes:
      parameters: number of trained values.
      state: bytes of the training state with the parameters; part of `memory.arguments`.
      memory: the memory that a step needs.
      flops: floating-point operations of a step.
      bytes_accessed: the compiler's own count, with the memory on the chip, and with the body of a loop once; None if
        the compiler has no count.
      traffic: bytes that a step reads from and writes to the main memory, with every run of a loop.
      collectives: the communication between the devices.
      compile_seconds: the time of the compilation.
    """

    parameters: int
    state: int
    memory: Memory
    flops: float
    bytes_accessed: float | None
    traffic: int
    collectives: tuple[hlo.Collective, ...]
    compile_seconds: float


def batch_shapes(task: Task, info: DatasetInfo, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of the global batch that `mesh.to_global` makes."""
    batch = {name: jax.ShapeDtypeStruct((batch_size, *info.tensors[name].shape), jnp.dtype(info.tensors[name].dtype))
             for name in task.features}
    return batch | {name: jax.ShapeDtypeStruct((batch_size,), dtype)
                    for name, dtype in (("location", jnp.int32), ("record", jnp.int32), ("stop", jnp.bool))}


def compile_program(config: TaskConfig, task: Task, info: DatasetInfo, mesh: jax.sharding.Mesh,
                    steps: int) -> StepProgram:
    """Compiles the step of `task` for the devices of `mesh`.

    Args:
      config: of the run; its batch_size is the global batch, a multiple of the number of devices.
      task: from `tasks.build`.
      info: the shapes of the records.
      mesh: over the devices, which need not exist.
      steps: the length of the schedule; it changes only constants.

    Raises:
      UserError: the model does not fit the images, the compiler fails, or JAX cannot read the compiled program.
      TooLarge: the compiler refuses because the memory of a device is too small.
    """
    optimizer = make_optimizer(config.optimizer, config.batch_size, steps, task.frozen, config.rate_factor())
    state = jax.eval_shape(lambda: init_state(task, optimizer, config, mesh))
    batch = batch_shapes(task, info, config.batch_size)
    began = time.perf_counter()
    lowered = compile_step(task, optimizer, config, mesh).lower(state, batch)
    try:
        compiled = lowered.compile(_options(mesh))
    except jax.errors.JaxRuntimeError as error:
        if not is_device_memory(error):
            raise UserError(f"the compiler fails at a global batch of {config.batch_size:,}: {one_line(error)}; "
                            "try another --config.batch_size; --debug shows more") from error
        raise TooLarge(" ".join(str(error).split("RESOURCE_EXHAUSTED: ")[-1].splitlines()[0].split())) from error
    seconds = time.perf_counter() - began
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:  # jax 0.10.2 cannot read the programs of libtpu 0.0.52 for TPU7x
        raise UserError(f"JAX cannot read the program that the compiler made ({str(error).splitlines()[0][:200]}); "
                        "install the version of the compiler that fits this JAX: pip install 'jax[tpu]'") from error
    costs = compiled.cost_analysis() or {}  # GPU programs have none
    counted = flops.count(bind_step(task, optimizer, config), state, batch) / mesh.size
    return StepProgram(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)), state=_bytes(state),
        memory=_memory(compiled, _bytes(batch) // mesh.size),
        flops=max(costs.get("flops", 0.0), counted),  # XLA counts all operations, `flops` counts loops
        bytes_accessed=costs.get("bytes accessed"), traffic=hlo.memory_traffic(text),
        collectives=tuple(hlo.collectives(text, mesh.size)), compile_seconds=seconds)


def _options(mesh: jax.sharding.Mesh) -> dict[str, bool]:
    """Returns the options of the compiler.

    Triton's products are off for GPUs: the compiler chooses their tiles by trial on a GPU, and fails without one.
    """
    return {"xla_gpu_enable_triton_gemm": False} if mesh.devices.flat[0].platform == "gpu" else {}


def _memory(compiled: jax.stages.Compiled, next_batch: int) -> Memory:
    stats = compiled.memory_analysis()
    if stats is None:
        raise UserError("the compiler for this platform gives no memory figures; use another --topology")
    return Memory(stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.alias_size_in_bytes,
                  stats.temp_size_in_bytes, stats.generated_code_size_in_bytes, next_batch)


def _bytes(tree: Any) -> int:
    """Returns the size of all arrays of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
