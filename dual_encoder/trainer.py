"""The one training loop."""

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jax.sharding import Mesh

from dual_encoder import hooks, optim
from dual_encoder import input as input_lib
from dual_encoder import mesh as mesh_lib
from dual_encoder import workdir as workdir_lib
from dual_encoder.checkpoint import Checkpoints
from dual_encoder.config import FinetuneConfig, PretrainConfig, to_dict
from dual_encoder.console import say
from dual_encoder.dataset_info import DatasetInfo
from dual_encoder.errors import UserError
from dual_encoder.input import Records
from dual_encoder.metrics import MetricWriter
from dual_encoder.report import write_report
from dual_encoder.train_state import Task, TrainState

STOPPED = 75  # exit code after SIGTERM or SIGINT: saved, run the same command again (EX_TEMPFAIL)
_EVAL_BATCH = 64  # images per forward pass of an evaluation, at most; it changes no figure


def train_step(state: TrainState, batch: Mapping[str, jax.Array], *, task: Task,
               optimizer: optax.GradientTransformation, seed: int, ema: float
               ) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update; a pure function of (state, batch). A non-finite update is not applied.

    Args:
      state: donated by `compile_step`.
      batch: the global batch, raw integers, and `stop` [batch] bool.
      task, optimizer, seed, ema: bound at compile time.

    Returns:
      The next state and metrics, [] float32 each; [] bool are `finite` and `stop`: any process is asked to stop.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (loss, (batch_stats, metrics)), grads = jax.value_and_grad(task.loss, has_aux=True)(
        state.params, state.batch_stats, batch, key)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = task.project(optax.apply_updates(state.params, updates))
    grad_norm, param_norm = optax.tree.norm(grads), optax.tree.norm(params)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(param_norm)
    average = optim.average(state.average, {"params": params, "batch_stats": batch_stats}, ema, state.step)
    proposed = TrainState(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state,
                          average=average)
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), proposed, state)
    return state, metrics | {"loss": loss, "grad_norm": grad_norm, "param_norm": param_norm, "finite": finite,
                             "stop": jnp.any(batch["stop"])}


def init_state(task: Task, optimizer: optax.GradientTransformation, config: PretrainConfig | FinetuneConfig,
               mesh: Mesh) -> TrainState:
    """Returns the state at step 0, replicated over the mesh."""
    params, batch_stats = task.init(jax.random.key(config.seed))
    average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if config.optimizer.ema else {}
    state = TrainState(step=jnp.int32(0), params=params, batch_stats=batch_stats, opt_state=optimizer.init(params),
                       average=average)
    return jax.device_put(state, mesh_lib.replicated(mesh))


def bind_step(task: Task, optimizer: optax.GradientTransformation, config: PretrainConfig | FinetuneConfig):
    """Returns `train_step` of a run: (state, batch) -> (state, metrics)."""
    return functools.partial(train_step, task=task, optimizer=optimizer, seed=config.seed, ema=config.optimizer.ema)


def compile_step(task: Task, optimizer: optax.GradientTransformation, config: PretrainConfig | FinetuneConfig,
                 mesh: Mesh):
    """Returns `bind_step` as one program over all devices of the mesh: (state, batch) -> (state, metrics)."""
    replicated = mesh_lib.replicated(mesh)
    return jax.jit(bind_step(task, optimizer, config), donate_argnums=0,
                   in_shardings=(replicated, mesh_lib.by_row(mesh)), out_shardings=(replicated, replicated))


def check_batch(config: PretrainConfig | FinetuneConfig, mesh: Mesh) -> None:
    """Raises UserError unless batch and micro-batch can be split evenly over the devices."""
    mesh_lib.check_rows("batch_size", config.batch_size, mesh)
    if isinstance(config, PretrainConfig):
        mesh_lib.check_rows("train.micro_batch", config.train.micro_batch, mesh, of=config.batch_size)


def check_crop(crop: int, task: Task, info: DatasetInfo) -> None:
    """Raises UserError when the images of a data set are smaller than the crop."""
    size = min(side for name in task.features for side in info.tensors[name].shape[:2])
    if crop > size:
        raise UserError(f"config.augment.crop is {crop}, the images have {size} pixels; use at most {size}, or 0 for "
                        "whole images")


def evaluator(task: Task, records: Records, batch_size: int, mesh: Mesh
              ) -> Callable[[TrainState], tuple[dict[str, Any], dict[str, Any]]]:
    """Returns state -> (scores, pictures): `task.predict` over the split, compiled once, then `task.evaluate`."""
    predict = jax.jit(task.predict, out_shardings=mesh_lib.replicated(mesh))
    batch_size = -(-min(batch_size, _EVAL_BATCH) // mesh.size) * mesh.size
    rows = mesh_lib.local_rows(batch_size)

    def outputs(state: TrainState) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for batch, valid in input_lib.in_order(records, batch_size):
            mine = {name: array[rows.start:rows.stop] for name, array in batch.items()}
            result = jax.device_get(predict(**state.model, batch=mesh_lib.to_global(mine, mesh)))
            yield batch["record"][:valid], {name: array[:valid] for name, array in result.items()}

    return lambda state: task.evaluate(outputs(state), records)


def fit(config: PretrainConfig | FinetuneConfig, task: Task, records: Records, eval_records: Records, mesh: Mesh,
        workdir: epath.Path, profile_steps: int = 0) -> None:
    """Trains to the end of the schedule, from the newest checkpoint of `workdir` if there is one.

    `profile_steps` steps are traced, from the third one on: the first compiles, the second may still wait for data.

    Raises:
      UserError: batch, workdir or data do not fit; a loss that is not finite.
      SystemExit: with code STOPPED after SIGTERM or SIGINT, when the state is saved.
    """
    schedule = config.schedule
    check_batch(config, mesh)
    check_crop(config.augment.crop, task, records.info)
    order = records.order(config.seed, config.batch_size)
    last = schedule.steps or schedule.epochs * order.steps_per_epoch
    facts = workdir_lib.facts(to_dict(config), records.info, task.sensors)
    workdir_lib.check(workdir, facts)
    with contextlib.ExitStack() as run:
        if mesh_lib.is_main_process():
            run.enter_context(workdir_lib.claim(workdir))  # while a signal still ends the wait
        stop = run.enter_context(_StopRequest())
        optimizer = optim.build(config.optimizer, config.batch_size, last, task.frozen)
        state = init_state(task, optimizer, config, mesh)
        checkpoints = Checkpoints(workdir, schedule.keep, facts)
        run.callback(checkpoints.close)
        restored = checkpoints.restore(state)
        state = state if restored is None else restored
        start = int(state.step)
        writer = None
        if mesh_lib.is_main_process():
            parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
            workdir_lib.record_run(workdir, facts, parameters)
            writer = MetricWriter(workdir, start)
            run.callback(writer.close)
            if start < last:
                writer.write(start, "event", {"event": "started" if start == 0 else "resumed"})
            say(f"{config.task}: {len(records)} records, {order.steps_per_epoch} steps per epoch, "
                f"{parameters / 1e6:.1f} M parameters, {mesh.size} {mesh.devices.flat[0].platform} device(s), from "
                f"step {start} to {last}")

        def name_records(step: int) -> list[str]:
            return [records.record(number)["id"] for number in order.numbers(step).tolist()]

        log = hooks.TrainLog(writer, start, last, schedule.log_every, config.batch_size, name_records)
        run.callback(log.close)
        save = hooks.SaveCheckpoint(checkpoints, writer, schedule.checkpoint_every, last)
        score = hooks.Evaluate(evaluator(task, eval_records, config.batch_size, mesh), writer, workdir,
                               schedule.eval_every, last, lambda: write_report(workdir))
        profile = hooks.Profile(workdir, start + 3, profile_steps, log.settle)
        run.callback(profile.close)
        step_fn = compile_step(task, optimizer, config, mesh)
        stream = input_lib.batches(records, seed=config.seed, batch_size=config.batch_size,
                                   rows=mesh_lib.local_rows(config.batch_size), start=start, stop=last,
                                   threads=config.data.threads, processes=config.data.processes)
        run.callback(stream.close)
        bad = 0
        with mesh_lib.together():  # as the innermost: to close the run would wait for the dead
            if start and score.due(start) and score.is_missing(start):  # it ended between a checkpoint and its scores
                score(start, state)
                log.resume_clock()
            for step in range(start + 1, last + 1):
                profile(step)
                began = time.perf_counter()
                batch = mesh_lib.to_global(next(stream), mesh, stop.requested)
                log.waited(time.perf_counter() - began)
                if writer and len(records.bad) > bad:
                    bad = len(records.bad)
                    writer.write(step, "event", {"event": f"{bad} damaged records replaced so far"})
                state, metrics = step_fn(state, batch)
                del batch  # its memory may be a reader's, who ends before this frame does
                log(step, metrics)
                stopping = log.stop or (stop.requested and mesh_lib.is_alone())
                if stopping or save.due(step) or score.due(step):
                    log.settle()
                if stopping or save.due(step):
                    save(step, state)
                if stopping:
                    say(f"stopped by a signal after step {step}; saved, run the same command to continue")
                    sys.exit(STOPPED)
                if score.due(step):
                    score(step, state)
                    log.resume_clock()
    if mesh_lib.is_main_process():
        say(f"report: {write_report(workdir)}")


class _StopRequest:
    """Notes SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts at once."""

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "_StopRequest":
        self._old = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
