"""Evaluation of a task over a whole split."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from dual_encoder.data.batches import in_order
from dual_encoder.data.records import Records
from dual_encoder.evaluation.table import Evaluation
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.state import TrainState
from dual_encoder.tasks.task import Task

_EVAL_BATCH = 64  # images per forward pass of an evaluation, at most; it changes no figure


def evaluator(task: Task, records: Records, batch_size: int, mesh: Mesh
              ) -> Callable[[TrainState], Evaluation]:
    """Returns state -> evaluation: `task.predict` over the split, compiled once, then `task.evaluate`."""
    predict = jax.jit(task.predict, out_shardings=mesh_lib.replicated(mesh))
    batch_size = -(-min(batch_size, _EVAL_BATCH) // mesh.size) * mesh.size
    rows = mesh_lib.local_rows(batch_size)

    def outputs(state: TrainState) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for batch, valid in in_order(records, batch_size):
            mine = {name: array[rows.start:rows.stop] for name, array in batch.items()}
            result = jax.device_get(predict(**state.model, batch=mesh_lib.to_global(mine, mesh)))
            yield batch["record"][:valid], {name: array[:valid] for name, array in result.items()}

    return lambda state: task.evaluate(outputs(state), records)
