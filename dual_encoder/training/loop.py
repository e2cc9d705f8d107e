"""The training loop: opens a run in its workdir, and makes its steps."""

import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import optax
from etils import epath
from jax.sharding import Mesh

from dual_encoder.config import to_dict, upgrade
from dual_encoder.console import say
from dual_encoder.data import overlap
from dual_encoder.data.batches import batches
from dual_encoder.data.order import Order
from dual_encoder.errors import UserError, is_device_memory, one_line
from dual_encoder.optim.optimizer import learning_rate, make_optimizer, rate_at
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.runtime.stop_request import StopRequest
from dual_encoder.state import TrainState
from dual_encoder.tasks.build import Built
from dual_encoder.tasks.checks import check_batch, check_crop, check_signal
from dual_encoder.tasks.pretrain import PretrainConfig
from dual_encoder.training import hooks
from dual_encoder.training.evaluate import evaluator
from dual_encoder.training.probe import knn_evaluator
from dual_encoder.training.selection import SelectCheckpoint
from dual_encoder.training.step import compile_step, init_state
from dual_encoder.workdir import folder as workdir_lib
from dual_encoder.workdir.checkpoint import Checkpoints
from dual_encoder.workdir.metrics import MetricWriter
from dual_encoder.workdir.sinks import open_sink

STOPPED = 75  # exit code after a signal to stop: saved, run the same command again (EX_TEMPFAIL)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is open in its workdir.

    Attributes:
      built: configuration, task and records.
      mesh: the devices.
      workdir: its folder.
      order: which records make up the batch of a step.
      start, last: the run goes from step `start` to `last`.
      state: at step `start`.
      optimizer: of the steps.
      checkpoints: of the workdir.
      writer: of the metrics; None on all but the main process.
      stop: notes the signals that request the end of the run.
    """

    built: Built
    mesh: Mesh
    workdir: epath.Path
    order: Order
    start: int
    last: int
    state: TrainState
    optimizer: optax.GradientTransformation
    checkpoints: Checkpoints
    writer: MetricWriter | None
    stop: StopRequest


@contextlib.contextmanager
def open_run(built: Built, mesh: Mesh, workdir: epath.Path) -> Iterator[Run]:
    """Claims the workdir for this process and restores the newest checkpoint, if there is one.

    Raises:
      UserError: batch, workdir or data do not fit.
    """
    config, task, records = built.config, built.task, built.records
    check_batch(config, mesh)
    check_crop(config.augment, task, records.info)
    check_signal(config, records, built.eval_records, built.select_records)
    order = records.order(config.seed, config.batch_size)
    last = config.schedule.steps or config.schedule.epochs * order.steps_per_epoch
    facts = workdir_lib.facts(to_dict(config), records.info, task.sensors, built.start)
    as_stored_now = functools.partial(upgrade, type(config))
    workdir_lib.check(workdir, facts, as_stored_now)
    with contextlib.ExitStack() as stack:
        if mesh_lib.is_main_process():
            stack.enter_context(workdir_lib.claim(workdir))  # a signal still ends the wait for another run
        stop = stack.enter_context(StopRequest())
        optimizer = make_optimizer(config.optimizer, config.batch_size, last, task.frozen, config.rate_factor())
        state = init_state(task, optimizer, config, mesh)
        checkpoints = Checkpoints(workdir, config.schedule.keep, facts, as_stored_now)
        stack.callback(checkpoints.close)
        restored = checkpoints.restore(state)
        state = state if restored is None else restored
        start, writer = int(state.step), None
        if mesh_lib.is_main_process():
            parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
            workdir_lib.record_run(workdir, facts, parameters)
            writer = MetricWriter(workdir, start, open_sink(config.schedule.log_to, workdir, facts["config"]))
            stack.callback(writer.close)
            if start < last:
                writer.write(start, "event", {"event": "started" if start == 0 else "resumed"})
            say(f"{config.task}: {len(records)} records, {order.steps_per_epoch} steps per epoch, "
                f"{parameters / 1e6:.1f} M parameters, {mesh.size} {mesh.devices.flat[0].platform} device(s), from "
                f"step {start} to {last}")
            for line in built.notes:
                say(f"  {line}")
        yield Run(built, mesh, workdir, order, start, last, state, optimizer, checkpoints, writer, stop)


def fit(built: Built, mesh: Mesh, workdir: epath.Path, *, profile_steps: int = 0,
        after_evaluation: Callable[[epath.Path], Any] = lambda workdir: None) -> None:
    """Trains to the end of the schedule, from the newest checkpoint of `workdir` if there is one.

    Args:
      built: configuration, task and records.
      mesh: the devices.
      workdir: folder of the run.
      profile_steps: number of steps to trace, from the third one on: the first compiles, the second may still wait for
        data.
      after_evaluation: called with the workdir on the main process, after the evaluations of each step but the last.

    Raises:
      UserError: batch, workdir or data do not fit; a loss that is not finite.
      SystemExit: with code STOPPED after a signal to stop, when the state is saved.
    """
    with open_run(built, mesh, workdir) as run, contextlib.ExitStack() as stack:
        log = _train_log(run)
        stack.callback(log.close)
        stack.callback(_note_end, run, log, time.perf_counter())
        schedule = built.config.schedule
        profile = hooks.Profile(workdir, run.start + 3, profile_steps, log.settle)
        stack.callback(profile.close)
        trained = [(part.info.fingerprint, part.split) for part in built.records.parts]
        if built.select_records is not None:  # what a choice is made on favours the model, too
            trained += [(part.info.fingerprint, part.split) for part in built.select_records.parts]
        notes = overlap.lines(built.eval_records, trained, held_out=built.config.data.subset.folds > 0)
        evaluate = hooks.Evaluate(
            evaluator(built.task, built.eval_records, built.config.batch_size, mesh, notes), run.writer, workdir,
            schedule.eval_every, run.last, log.resume_clock, notes)
        part = built.eval_records.evenly_spaced(schedule.quick_eval_records)
        evaluate_part = evaluator(built.task, part, built.config.batch_size, mesh)
        selects = built.select_records is not None
        around = [
            profile,
            hooks.NameDamage(built.records, run.writer),
            hooks.SaveCheckpoint(run.checkpoints, run.writer, schedule.checkpoint_every, run.last,
                                 also=schedule.eval_every if selects else 0),
            hooks.QuickEvaluate("part", evaluate_part, run.writer, workdir, schedule.quick_eval_every, run.last,
                                log.resume_clock),
            _selection(run, log, evaluate, stack) if selects else evaluate,
        ]
        if schedule.eval_every and (count := min(schedule.train_eval_records, len(built.eval_records))):
            score = evaluator(built.task, built.records.evenly_spaced(count), built.config.batch_size, mesh)
            around.insert(-1, hooks.QuickEvaluate("", score, run.writer, workdir, schedule.eval_every, run.last,
                                                  log.resume_clock, kind="train_eval"))
        intervals = [schedule.eval_every, schedule.quick_eval_every]
        if built.knn and isinstance(built.config, PretrainConfig):
            intervals.append(built.config.knn.every)
            around.insert(-1, hooks.QuickEvaluate("knn", knn_evaluator(built, mesh), run.writer, workdir,
                                                  built.config.knn.every, run.last, log.resume_clock))
        if run.writer:
            around.append(hooks.ShowScores(functools.partial(after_evaluation, workdir), intervals, run.last,
                                           log.resume_clock))
        train(run, log, around)


def train(run: Run, log: hooks.TrainLog, around: Sequence[hooks.Hook]) -> None:
    """Makes the steps of a run; `around` happens before and after each of them, in that order.

    Raises:
      UserError: a loss that is not finite, damaged records, or a device without enough memory.
      SystemExit: with code STOPPED after a signal to stop, when the hooks have had the last state.
    """
    config, records, state = run.built.config, run.built.records, run.state
    step_fn = compile_step(run.built.task, run.optimizer, config, run.mesh)
    stream = batches(records, seed=config.seed, batch_size=config.batch_size,
                     rows=mesh_lib.local_rows(config.batch_size), start=run.start, stop=run.last,
                     threads=config.data.threads, processes=config.data.processes)
    # `together` is innermost, so that a lost peer ends this process before anything waits for it.
    with contextlib.closing(stream), _memory_explained(), mesh_lib.together():
        for hook in around:
            hook.begin(run.start, state)
        for step in range(run.start + 1, run.last + 1):
            for hook in around:
                hook.before(step)
            began = time.perf_counter()
            batch = mesh_lib.to_global(next(stream), run.mesh, run.stop.requested)
            log.waited(time.perf_counter() - began)
            with log.compiling() if step == run.start + 1 else contextlib.nullcontext():
                state, metrics = step_fn(state, batch)
            del batch  # on a CPU it may share a reader's memory; it is released before the readers are closed
            log(step, metrics)
            stopping = log.stop or (run.stop.requested and mesh_lib.is_alone())
            due = [hook for hook in around if hook.due(step, stopping)]
            if due or stopping:
                log.settle()
            for hook in due:
                hook.after(step, state)
            if stopping:
                say(f"stopped by a signal after step {step}; saved, run the same command to continue")
                sys.exit(STOPPED)


@contextlib.contextmanager
def _memory_explained() -> Iterator[None]:
    """Turns the error of a device whose memory ran out into a UserError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_device_memory(error):
            raise
        raise UserError(f"the memory of the device ran out ({one_line(error, 160)}); lower --config.batch_size or "
                        "--config.augment.crop (pre-training also has train.micro_batch); `python -m "
                        "dual_encoder.plan` says what fits") from error


def _selection(run: Run, log: hooks.TrainLog, evaluate: hooks.Evaluate, stack: contextlib.ExitStack
               ) -> SelectCheckpoint:
    """Returns the hook that chooses the checkpoint, and has it evaluated at the end."""
    config, records = run.built.config, run.built.select_records
    assert records is not None
    built = run.built
    facts = workdir_lib.facts(to_dict(config), built.records.info, built.task.sensors, built.start)
    best = Checkpoints(run.workdir / workdir_lib.BEST, 1, facts, functools.partial(upgrade, type(config)))
    stack.callback(best.close)
    return SelectCheckpoint(
        evaluator(run.built.task, records, config.batch_size, run.mesh), config.data.select_split, run.checkpoints,
        best, evaluate, run.writer, run.workdir, config.schedule.eval_every, run.last, log.resume_clock)


def _note_end(run: Run, log: hooks.TrainLog, began: float) -> None:
    """Writes how long this process worked on the run."""
    if run.writer and log.step > run.start:
        run.writer.write(log.step, "event", {"event": "ended", "seconds": time.perf_counter() - began})


def _train_log(run: Run) -> hooks.TrainLog:
    """Returns the log of a run, which names records by their ids and adds the learning rate."""
    config, records = run.built.config, run.built.records
    rate = jax.jit(learning_rate(config.optimizer, config.batch_size, run.last))

    def name_records(step: int) -> list[str]:
        return [records.record(number)["id"] for number in run.order.numbers(step).tolist()]

    return hooks.TrainLog(run.writer, run.start, run.last, config.schedule.log_every, config.batch_size, name_records,
                          lambda step: {"learning_rate": rate_at(rate, step)})
