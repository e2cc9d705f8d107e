"""The one training loop."""

import contextlib
import sys
import time

import jax
from etils import epath
from jax.sharding import Mesh

from dual_encoder.config import FinetuneConfig, PretrainConfig, to_dict
from dual_encoder.console import say
from dual_encoder.data.batches import batches
from dual_encoder.data.records import Records
from dual_encoder.optim.optimizer import make_optimizer
from dual_encoder.report.page import write_report
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.runtime.stop_request import StopRequest
from dual_encoder.tasks.checks import check_batch, check_crop
from dual_encoder.tasks.task import Task
from dual_encoder.training import hooks
from dual_encoder.training.evaluate import evaluator
from dual_encoder.training.step import compile_step, init_state
from dual_encoder.workdir import folder as workdir_lib
from dual_encoder.workdir.checkpoint import Checkpoints
from dual_encoder.workdir.metrics import MetricWriter

STOPPED = 75  # exit code after SIGTERM or SIGINT: saved, run the same command again (EX_TEMPFAIL)


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
        stop = run.enter_context(StopRequest())
        optimizer = make_optimizer(config.optimizer, config.batch_size, last, task.frozen)
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
        stream = batches(records, seed=config.seed, batch_size=config.batch_size,
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


