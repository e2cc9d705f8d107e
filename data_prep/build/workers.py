"""Writes the shards of a plan by some processes of this machine, or by a Beam pipeline. The bytes are the same."""

import concurrent.futures
import multiprocessing
from collections.abc import Sequence
from multiprocessing.context import SpawnContext

from data_prep.build import shards
from data_prep.build.plan import Plan, Task
from dual_encoder.console import Progress
from dual_encoder.errors import UserError
from dual_encoder.runtime import processes

_worker: dict = {}  # of a worker process: job, plan, meter and importer, made once


def run(job: shards.Job, plan: Plan, workers: int) -> list[shards.Note]:
    """Writes all shards that are not finished, shows progress, and returns the notes of all in the plan's order.

    Raises:
      UserError: as `shards.write`; a worker that died.
    """
    tasks = plan.tasks()
    # Unusable records may have been mended since: a shard with faults is written again.
    notes = [note if note and not note.faults else None for note in (shards.finished(job, task) for task in tasks)]
    todo = [task for task, note in zip(tasks, notes, strict=True) if note is None]
    if len(todo) < len(tasks):
        print(f"{len(tasks) - len(todo)} of {len(tasks)} shards are finished already", flush=True)
    if todo:
        meter = _Meter(multiprocessing.get_context("spawn"))
        meter.add(0, 0, plan.faults)
        for task, note in zip(tasks, notes, strict=True):
            if note:
                meter.add(task.stop - task.start, note.bytes, 0)
        with Progress(job.kind, sum(plan.entries.values()), meter.read):
            if workers == 1:
                importer = job.open()
                for task in todo:
                    shards.write(job, importer, plan, task, meter)
            else:
                _run_processes(job, plan, todo, min(workers, len(todo)), meter)
    return _notes(job, tasks)


def run_beam(job: shards.Job, plan: Plan, options: Sequence[str]) -> list[shards.Note]:
    """Does the work of `run` as a Beam pipeline with pipeline options such as ['--runner=DirectRunner'].

    Raw folder and output must be reachable under the same paths from all of Beam's workers. The bound on unusable
    records is kept within each shard, and over all of them at the end.

    Raises:
      UserError: Beam is not installed, the pipeline stopped, its workers wrote elsewhere, or too many unusable records.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError("--beam needs Apache Beam; install it with `pip install -e '.[beam]'`") from error

    tasks = plan.tasks()
    done = [note is not None and not note.faults for note in (shards.finished(job, task) for task in tasks)]
    todo = [task for task, is_done in zip(tasks, done, strict=True) if not is_done]
    for task in todo:
        job.note(task).unlink(missing_ok=True)

    def count() -> tuple[int, int, str]:
        there = [task for task in tasks if job.note(task).exists()]
        return len(there), sum(job.shard(task).stat().st_size for task in there), ""

    try:
        with (Progress("shards", len(tasks), count),
              beam.Pipeline(options=PipelineOptions(list(options), save_main_session=False)) as pipeline):
            _ = pipeline | beam.Create(todo) | beam.Reshuffle() | beam.Map(_write_in_beam, job, plan)
    except Exception as error:  # Beam wraps the errors of its workers
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(f"the Beam pipeline stopped: {lines[0][:400]}; run the same command again: finished shards are "
                        "kept") from error
    notes = _notes(job, tasks)
    faults = plan.faults + sum(note.faults for note in notes)
    if faults > job.max_rejected:
        raise UserError(f"{faults} unusable records, more than {job.max_rejected}, see {job.log}; mend the raw data or "
                        "raise --max-rejected, then run the same command again: finished shards are kept")
    return notes


def _notes(job: shards.Job, tasks: Sequence[Task]) -> list[shards.Note]:
    """Returns the notes on all shards; UserError if one is not there."""
    notes = [note for note in (shards.finished(job, task) for task in tasks) if note is not None]
    if len(notes) < len(tasks):
        raise UserError(f"the workers ended, but {len(tasks) - len(notes)} of {len(tasks)} shards are not in "
                        f"'{job.folder}'; give a --data_dir that all workers reach under this path, then run the same "
                        "command again")
    return notes


def _write_in_beam(task: Task, job: shards.Job, plan: Plan) -> None:
    if shards.finished(job, task) is None:
        shards.write(job, job.open(), plan, task, _LocalMeter())


def _run_processes(job: shards.Job, plan: Plan, todo: list[Task], workers: int, meter: "_Meter") -> None:
    with processes.pool(workers, _start, (job, plan, meter), kept="finished shards are kept") as pool:
        for done in concurrent.futures.as_completed([pool.submit(_write, task) for task in todo]):
            done.result()


def _start(job: shards.Job, plan: Plan, meter: "_Meter") -> None:
    _worker.update(job=job, plan=plan, meter=meter, importer=job.open())


def _write(task: Task) -> None:
    shards.write(_worker["job"], _worker["importer"], _worker["plan"], task, _worker["meter"])


class _Meter:
    """A shards.Meter over processes."""

    def __init__(self, context: SpawnContext):
        self._values = context.Array("q", 3)

    def add(self, entries: int, size: int, faults: int) -> None:
        with self._values.get_lock():
            for place, value in enumerate((entries, size, faults)):
                self._values[place] += value

    def faults(self) -> int:
        return self._values[2]

    def read(self) -> tuple[int, int, str]:
        entries, size, faults = self._values[:]
        return entries, size, f"{faults} rejected" if faults else ""


class _LocalMeter:
    """A shards.Meter within one Beam task."""

    def __init__(self):
        self._faults = 0

    def add(self, entries: int, size: int, faults: int) -> None:
        self._faults += faults

    def faults(self) -> int:
        return self._faults
