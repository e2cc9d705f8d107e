"""Evaluation of a state, and of a finished run, over a whole split."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from dual_encoder.config import to_dict, upgrade
from dual_encoder.console import say
from dual_encoder.data import overlap
from dual_encoder.data.batches import in_order
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.evaluation.table import Evaluation
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.state import TrainState
from dual_encoder.storage import paths
from dual_encoder.tasks.build import EvaluateConfig, build_evaluation
from dual_encoder.tasks.task import Task
from dual_encoder.workdir import folder as workdir_lib
from dual_encoder.workdir.scores import save_evaluation, summary

_EVAL_BATCH = 64  # images per forward pass of an evaluation, at most; it changes no figure


def evaluator(task: Task, records: Records, batch_size: int, mesh: Mesh, notes: Sequence[str] = ()
              ) -> Callable[[TrainState], Evaluation]:
    """Returns state -> evaluation: `task.predict` over the split, compiled once, then `task.evaluate`.

    Args:
      task, records, batch_size, mesh: of the evaluation.
      notes: lines about the records, such as those of `overlap.lines`; they go into the note of the first table.
    """
    predict = predictor(task.predict, batch_size, mesh)
    return lambda state: noted(task.evaluate(predict(state.model, records), records), notes)


def predictor(predict: Callable[..., Mapping[str, jax.Array]], batch_size: int, mesh: Mesh
              ) -> Callable[[Mapping[str, Any], Records], Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]]:
    """Returns a function that runs `predict` over a split; it is compiled once.

    Args:
      predict: (params, batch_stats, batch) -> outputs per row; pure.
      batch_size: rows per call, 64 at most.
      mesh: the rows are sharded over it.

    Returns:
      ({'params', 'batch_stats'}, records) -> yields (record numbers int32 [rows], outputs per row), in order.
    """
    compiled = jax.jit(predict, out_shardings=mesh_lib.replicated(mesh))
    batch_size = -(-min(batch_size, _EVAL_BATCH) // mesh.size) * mesh.size
    rows = mesh_lib.local_rows(batch_size)

    def outputs(variables: Mapping[str, Any], records: Records
                ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for batch, valid in in_order(records, batch_size):
            mine = {name: array[rows.start:rows.stop] for name, array in batch.items()}
            result = jax.device_get(compiled(**variables, batch=mesh_lib.to_global(mine, mesh)))
            yield batch["record"][:valid], {name: array[:valid] for name, array in result.items()}

    return outputs


def noted(evaluation: Evaluation, notes: Sequence[str]) -> Evaluation:
    """Returns the evaluation with lines in the note of its first table, which the report shows."""
    if not (evaluation.tables and notes):
        return evaluation
    first, *others = evaluation.tables
    text = " ".join(filter(None, [first.note, *(f"{line[0].upper()}{line[1:]}." for line in notes)]))
    return dataclasses.replace(evaluation, tables=(dataclasses.replace(first, note=text), *others))


def evaluate(config: EvaluateConfig, mesh: Mesh, workdir: epath.Path) -> None:
    """Scores a finished run as the configuration says; writes scores and pictures to the workdir and prints the scores.

    Args:
      config: which run, on which data.
      mesh: the devices.
      workdir: that of the run, or another one; it is made if needed.

    Raises:
      UserError: checkpoint, data and workdir do not fit together.
    """
    built, run = build_evaluation(config), epath.Path(config.init_from)
    model, records = built.model, built.records
    if not built.own and paths.same(workdir, run):
        raise UserError(f"scores of {built.title} of '{records.parts[0].folder}' are not those that the run gives "
                        "itself (other data, split, folds, groups or evaluations); give another --workdir for them")
    state = jax.device_put(TrainState(step=jnp.int32(model.step), params=model.variables["params"],
                                      batch_stats=model.variables["batch_stats"], opt_state=(), average={}),
                           mesh_lib.replicated(mesh))
    notes = overlap.lines(records, [(model.dataset["fingerprint"], split)
                                    for split in model.config["data"]["split"].split("+")], built.held_out)
    evaluation = evaluator(built.task, records, config.batch_size, mesh, notes)(state)
    if not mesh_lib.is_main_process():
        return
    if not paths.same(workdir, run):
        facts = workdir_lib.facts(to_dict(config), records.info, built.task.sensors, model.digest)
        workdir_lib.check(workdir, facts, functools.partial(upgrade, EvaluateConfig))
        workdir_lib.record_run(workdir, facts, sum(leaf.size for leaf in jax.tree.leaves(state.params)))
    save_evaluation(workdir, model.step, evaluation)
    say(f"checkpoint {model.step}, data set '{records.info.config}', {built.title}, one record per place")
    say(summary(evaluation.scores()))
    for line in notes:
        say(f"  {line}")
