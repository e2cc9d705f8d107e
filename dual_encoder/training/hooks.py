"""The actions around the steps: progress and metrics, checkpoints, evaluation."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from dual_encoder.console import clock, progress_bar, say
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.evaluation.table import Evaluation
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.runtime.compiling import compiling
from dual_encoder.state import TrainState
from dual_encoder.training.evaluate import noted
from dual_encoder.workdir.checkpoint import Checkpoints
from dual_encoder.workdir.metrics import MetricWriter, numbers
from dual_encoder.workdir.scores import save_curve_tables, save_evaluation, summary


def is_due(step: int, every: int, last: int) -> bool:
    """True when `step` ends an interval of `every` steps (0: none) or the run."""
    return step == last or (every > 0 and step % every == 0)


class Hook:
    """Something that happens around the steps of a run; the methods of this class do nothing."""

    def begin(self, step: int, state: TrainState) -> None:
        """Called once, before the first step, with the state that the run starts from."""

    def before(self, step: int) -> None:
        """Called before the step that brings the state to `step` updates."""

    def due(self, step: int, stopping: bool) -> bool:
        """Returns True when `after` is to be called after this step; `stopping`: a signal ends the run here."""
        return False

    def after(self, step: int, state: TrainState) -> None:
        """Called after a step that is due, when its state is finished and known to be finite."""


class TrainLog:
    """Reads the metrics of finished steps, stops on a non-finite one, writes means and shows progress.

    A row holds the means since the row before, or since the start of this process. Metrics are read one step late, so
    that the devices always have a step to work on. All processes read the same ones after the same step.

    Args:
      writer: None on all but the main process.
      start, last: the run goes from step `start` to `last`.
      every: interval of the rows, in steps.
      batch_size: of the global batch.
      name_records: step -> ids of the records of its batch.
      facts: step -> further values of its row, such as the learning rate.

    Attributes:
      stop: a process got the signal to stop before a step whose metrics were read.
      step: the last step whose metrics were read.
    """

    def __init__(self, writer: MetricWriter | None, start: int, last: int, every: int, batch_size: int,
                 name_records: Callable[[int], list[str]],
                 facts: Callable[[int], Mapping[str, float]] = lambda step: {}):
        self._writer, self._last, self._every, self._batch_size = writer, last, every, batch_size
        self._name_records, self._facts, self.stop, self.step = name_records, facts, False, start
        self._pending: list[tuple[int, Mapping[str, jax.Array]]] = []
        self._sums: dict[str, float] = {}
        self._count = 0  # steps in the sums
        self.resume_clock()
        self._bar = progress_bar(last, start, "step ", "compiling") if writer and sys.stdout.isatty() else None
        if self._bar:
            self._bar.start()

    def waited(self, seconds: float) -> None:
        """Adds time that the step loop spent waiting for data."""
        self._waited += seconds

    def __call__(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of the step that brought the state to `step` updates."""
        self._pending.append((step, metrics))
        while len(self._pending) > 1:
            self._read_oldest()
        if is_due(step, self._every, self._last):
            self.settle()
            self._write(step)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Is what the first step runs in, which compiles; a line says so, or the progress bar.

        The time that is left is estimated without it.
        """
        began = time.perf_counter()
        with compiling("the training step", say if self._writer and not self._bar else lambda text: None):
            yield
        self._compiled = time.perf_counter() - began

    def settle(self) -> None:
        """Waits for all steps; after it, the state is known to be finite."""
        while self._pending:
            self._read_oldest()

    def resume_clock(self) -> None:
        """Leaves the time since the last row out of the rates, because an evaluation ran in between."""
        self._timed, self._waited, self._since = 0, 0.0, time.perf_counter()  # `_timed`: steps on the clock
        self._compiled = 0.0  # seconds of compilation on the clock

    def close(self) -> None:
        """Ends the progress bar."""
        if self._bar:
            self._bar.stop()

    def _read_oldest(self) -> None:
        step, metrics = self._pending.pop(0)
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        self.stop |= bool(values.pop("stop"))
        if not values.pop("finite"):
            ids = self._name_records(step - 1)
            seen = " ".join(f"{name}={values[name]}" for name in ("loss", "grad_norm", "param_norm"))
            raise UserError(f"{seen} at step {step}: not finite, the update was not applied; pair ids: "
                            f"{' '.join(ids)}; look at these records with `python -m data_prep inspect`, or lower "
                            "--config.optimizer.learning_rate in a new workdir")
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._timed += 1
        self.step = step

    def _write(self, step: int) -> None:
        seconds = time.perf_counter() - self._since
        if self._writer:
            row = {name: total / self._count for name, total in self._sums.items()}
            row |= {"pairs_per_second": self._timed * self._batch_size / seconds, "data_wait": self._waited / seconds}
            row |= self._facts(step)
            self._writer.write(step, "train", row)
            if row.get("grad_norm") == 0:
                self._writer.write(step, "event", {"event": "the gradient norm was exactly 0"})
                say(f"step {step}: the gradient norm was exactly 0 in the last {self._count} steps: nothing was "
                    "learnt; look at the records with `python -m data_prep inspect`, or use another objective")
            self._show(step, row, (seconds - self._compiled) / max(self._timed, 1) * (self._last - step))
        self._sums, self._count = {}, 0
        self.resume_clock()

    def _show(self, step: int, row: Mapping[str, float], eta: float) -> None:
        text = f"loss {row['loss']:.4f}  {row['pairs_per_second']:.1f} pairs/s  data wait {row['data_wait']:.0%}"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, facts=text)
        else:
            say(f"step {step}/{self._last}  {text}  ETA {clock(eta)}")


class Profile(Hook):
    """Traces some steps into WORKDIR/profile, for XProf, TensorBoard or Perfetto.

    Args:
      workdir: of the run.
      first: the first step that is traced.
      count: number of steps; 0 traces nothing.
      settle: waits for the steps that were started.
    """

    def __init__(self, workdir: epath.Path, first: int, count: int, settle: Callable[[], None]):
        self._folder, self._first, self._end, self._settle = workdir / "profile", first, first + count, settle
        self._tracing, self._traced = False, 0

    def before(self, step: int) -> None:
        """Starts or ends the trace."""
        if step == self._first < self._end:
            self._settle()
            jax.profiler.start_trace(os.fspath(self._folder))
            self._tracing = True
        elif step == self._end:
            self._settle()
            self.close()
        self._traced += self._tracing

    def close(self) -> None:
        """Writes the trace, also of a run that ended before its last traced step; says so when it has none."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            say(f"trace of {self._traced} steps: '{self._folder}' (TensorBoard's profile plugin, or *.trace.json.gz in "
                "ui.perfetto.dev)")
        elif self._first < self._end and not self._traced:
            say(f"no trace: the run ended before step {self._first}, the first to be traced")


class NameDamage(Hook):
    """Writes an event when damaged records were replaced.

    Args:
      records: of the run.
      writer: None on all but the main process.
    """

    def __init__(self, records: Records, writer: MetricWriter | None):
        self._records, self._writer, self._seen = records, writer, 0

    def due(self, step: int, stopping: bool) -> bool:
        """Returns True after a step whose batch had a replaced record."""
        return self._writer is not None and len(self._records.bad) > self._seen

    def after(self, step: int, state: TrainState) -> None:
        """Writes the event."""
        self._seen = len(self._records.bad)
        if self._writer:
            self._writer.write(step, "event", {"event": f"{self._seen} damaged records replaced so far"})


class SaveCheckpoint(Hook):
    """Saves every `every` and every `also` steps, at the end, and when a signal ends the run."""

    def __init__(self, checkpoints: Checkpoints, writer: MetricWriter | None, every: int, last: int, also: int = 0):
        self._checkpoints, self._writer, self._every, self._last = checkpoints, writer, every, last
        self._also = also

    def due(self, step: int, stopping: bool) -> bool:
        """Returns True when a checkpoint of `step` is to be saved."""
        return stopping or is_due(step, self._every, self._last) or is_due(step, self._also, self._last)

    def after(self, step: int, state: TrainState) -> None:
        """Saves `state`; the metrics up to it are made safe first."""
        if self._writer:
            self._writer.sync()
        self._checkpoints.save(step, state)


class Evaluate(Hook):
    """Scores the evaluation split every `every` steps and at the end.

    Args:
      evaluate: state -> the result of `Task.evaluate`.
      writer: None on all but the main process.
      workdir: scores and pictures go to its folder evaluation/.
      every, last: the evaluated steps are those of `is_due`.
      resume_clock: called after each evaluation, so that its time does not count in the rates of training.
      notes: lines about the records of the evaluation, printed below the scores.
    """

    def __init__(self, evaluate: Callable[[TrainState], Evaluation], writer: MetricWriter | None,
                 workdir: epath.Path, every: int, last: int, resume_clock: Callable[[], None],
                 notes: Sequence[str] = ()):
        self._evaluate, self._writer, self._workdir, self._notes = evaluate, writer, workdir, notes
        self._every, self._last, self._resume_clock = every, last, resume_clock

    def begin(self, step: int, state: TrainState) -> None:
        """Evaluates the first state if an earlier process ended between its checkpoint and its scores."""
        if step and self.due(step, stopping=False) and self.is_missing(step):
            self.after(step, state)

    def due(self, step: int, stopping: bool) -> bool:
        """Returns True when the state of `step` is to be evaluated."""
        return not stopping and is_due(step, self._every, self._last)

    def is_missing(self, step: int) -> bool:
        """True unless the scores of `step` were written; the same on all processes."""
        file = self._workdir / "evaluation" / "scores.json"
        written = self._writer is None or (self._writer.holds(step, "eval") and file.exists())
        return not mesh_lib.agree(int(written))

    def after(self, step: int, state: TrainState) -> None:
        """Evaluates on all processes; the main one writes."""
        self.score(step, state, step)
        self._resume_clock()

    def score(self, step: int, state: TrainState, of: int, notes: Sequence[str] = ()) -> None:
        """Evaluates the state of step `of`, after step `step`; `notes` are further lines about it."""
        evaluation = noted(self._evaluate(state), notes)
        if self._writer:
            save_evaluation(self._workdir, of, evaluation)  # before the row that says so
            self._writer.write(step, "eval", numbers(evaluation.scores()))
            say("\n".join([f"evaluation at step {of}", summary(evaluation.scores()),
                           *(f"  {line}" for line in (*notes, *self._notes))]))


class QuickEvaluate(Hook):
    """Scores the state every `every` steps and at the end, for the curves alone.

    Args:
      name: of the evaluation; unique in the run. '' if its tables are those of the whole evaluation.
      evaluate: state -> scores, such as those of a part of the evaluation split.
      writer: None on all but the main process.
      workdir: of the run.
      every, last: the evaluated steps are those of `is_due`; with `every` 0 there are none.
      resume_clock: as of `Evaluate`.
      kind: of the rows.
    """

    def __init__(self, name: str, evaluate: Callable[[TrainState], Evaluation], writer: MetricWriter | None,
                 workdir: epath.Path, every: int, last: int, resume_clock: Callable[[], None],
                 kind: str = "quick_eval"):
        self._name, self._evaluate, self._writer, self._workdir, self._kind = name, evaluate, writer, workdir, kind
        self._every, self._last, self._resume_clock = every, last, resume_clock

    def due(self, step: int, stopping: bool) -> bool:
        """Returns True when the state of `step` is to be scored."""
        return not stopping and self._every > 0 and is_due(step, self._every, self._last)

    def after(self, step: int, state: TrainState) -> None:
        """Evaluates on all processes; the main one writes a row."""
        evaluation = self._evaluate(state)
        if self._writer:
            if self._name:
                save_curve_tables(self._workdir, self._name, step, evaluation.tables)
            self._writer.write(step, self._kind, numbers(evaluation.scores()))
        self._resume_clock()


class ShowScores(Hook):
    """Draws the page of the run after the evaluations of each step but the last; the caller draws the last page.

    Args:
      show: draws the page.
      every: intervals of the evaluations; 0: none.
      last: step of the run.
      resume_clock: as of `Evaluate`.
    """

    def __init__(self, show: Callable[[], Any], every: Sequence[int], last: int, resume_clock: Callable[[], None]):
        self._show, self._every, self._last, self._resume_clock = show, every, last, resume_clock

    def due(self, step: int, stopping: bool) -> bool:
        """Returns True when a state before the last one was evaluated."""
        return not stopping and step != self._last and any(is_due(step, every, self._last) for every in self._every)

    def after(self, step: int, state: TrainState) -> None:
        """Draws the page."""
        self._show()
        self._resume_clock()
