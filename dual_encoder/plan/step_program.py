"""The training step of a configuration as a compiled program, without data and without running anything.

It is `training.step.compile_step` of the configured task, for the devices of any topology, with arguments that have
shapes only.
"""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp

from dual_encoder.data.manifest import DatasetInfo
from dual_encoder.errors import UserError, one_line
from dual_encoder.optim.optimizer import make_optimizer
from dual_encoder.plan import flops, hlo
from dual_encoder.tasks.task import Task, TaskConfig
from dual_encoder.training.step import bind_step, compile_step, init_state


class TooLarge(Exception):
    """The compiler found no way to fit the program into the memory of a device; the message is the compiler's."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs.

    Attributes:
      arguments: state and batch.
      outputs: state and metrics.
      aliased: outputs that lie where donated arguments lay.
      temporaries: activations, gradients and whatever else lives only during the step.
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
        """All of it, what is aliased once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code + self.next_batch


@dataclasses.dataclass(frozen=True)
class StepProgram:
    """One device's share of the compiled step.

    Attributes:
      parameters: number of trained values.
      state: bytes of the training state, parameters included; part of `memory.arguments`.
      memory: what a step needs.
      flops: floating-point operations of a step.
      bytes_accessed: the compiler's own count: memory on the chip included, bodies of loops once; None: it has none.
      traffic: bytes that a step reads from and writes to the main memory, loops included.
      collectives: what crosses between the devices.
      compile_seconds: time it took.
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
    """Returns the global batch as `mesh.to_global` makes it, without values."""
    batch = {name: jax.ShapeDtypeStruct((batch_size, *info.tensors[name].shape), jnp.dtype(info.tensors[name].dtype))
             for name in task.features}
    return batch | {name: jax.ShapeDtypeStruct((batch_size,), dtype)
                    for name, dtype in (("location", jnp.int32), ("record", jnp.int32), ("stop", jnp.bool))}


def compile_program(config: TaskConfig, task: Task, info: DatasetInfo, mesh: jax.sharding.Mesh,
                    steps: int) -> StepProgram:
    """Compiles the step of `task` for the devices of `mesh`.

    Args:
      config: of the run; its batch_size is the global batch, of as many rows for each device.
      task: of `tasks.build`.
      info: shapes of the records.
      mesh: over the devices; they need not exist.
      steps: length of the schedule; it changes constants only.

    Raises:
      UserError: the model does not fit the images, the compiler fails, or JAX cannot read what it made.
      TooLarge: the compiler refuses, for want of memory.
    """
    optimizer = make_optimizer(config.optimizer, config.batch_size, steps, task.frozen)
    state = jax.eval_shape(lambda: init_state(task, optimizer, config, mesh))
    batch = batch_shapes(task, info, config.batch_size)
    began = time.perf_counter()
    lowered = compile_step(task, optimizer, config, mesh).lower(state, batch)
    try:
        compiled = lowered.compile(_options(mesh))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise UserError(f"the compiler fails at a global batch of {config.batch_size:,}: {one_line(error)}; "
                            "try another --config.batch_size; --debug shows more") from error
        raise TooLarge(" ".join(str(error).split("RESOURCE_EXHAUSTED: ")[-1].splitlines()[0].split())) from error
    seconds = time.perf_counter() - began
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:  # libtpu 0.0.52 makes programs for TPU7x that jax 0.10.2 cannot read
        raise UserError(f"JAX cannot read the program that the compiler made ({str(error).splitlines()[0][:200]}); "
                        "install the version of it that goes with this JAX: pip install 'jax[tpu]'") from error
    costs = compiled.cost_analysis() or {}  # GPU programs have none
    counted = flops.count(bind_step(task, optimizer, config), state, batch) / mesh.size
    return StepProgram(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)), state=_bytes(state),
        memory=_memory(compiled, _bytes(batch) // mesh.size),
        flops=max(costs.get("flops", 0.0), counted),  # XLA's has all operations, ours the loops
        bytes_accessed=costs.get("bytes accessed"), traffic=hlo.memory_traffic(text),
        collectives=tuple(hlo.collectives(text, mesh.size)), compile_seconds=seconds)


def _options(mesh: jax.sharding.Mesh) -> dict[str, bool]:
    """Returns the compiler's options: without a GPU it cannot try Triton's tiles for products, and may find none."""
    return {"xla_gpu_enable_triton_gemm": False} if mesh.devices.flat[0].platform == "gpu" else {}


def _memory(compiled: jax.stages.Compiled, next_batch: int) -> Memory:
    stats = compiled.memory_analysis()
    return Memory(stats.argument_size_in_bytes, stats.output_size_in_bytes, stats.alias_size_in_bytes,
                  stats.temp_size_in_bytes, stats.generated_code_size_in_bytes, next_batch)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
