"""The choice of the checkpoint: the state with the best score on one split is scored on another, once, at the end.

The rows of kind 'select' in metrics.jsonl are the scores to choose by. WORKDIR/best/checkpoints holds the best state so
far. A state is saved as a checkpoint of the run, then as the best one, and then its row is written. So a run that was
killed at any moment finds the best of its rows there, and chooses as an undisturbed run does.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from dual_encoder.console import say
from dual_encoder.errors import UserError
from dual_encoder.evaluation import table
from dual_encoder.evaluation.table import Goal, goal
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.state import TrainState
from dual_encoder.training.hooks import Evaluate, Hook, is_due
from dual_encoder.workdir import metrics
from dual_encoder.workdir.checkpoint import Checkpoints
from dual_encoder.workdir.folder import BEST
from dual_encoder.workdir.metrics import MetricWriter, numbers
from dual_encoder.workdir.scores import summary

_KIND = "select"  # of the rows


def best_row(rows: Sequence[Mapping[str, Any]], by: Goal) -> Mapping[str, Any]:
    """Returns the row with the best number, the first of equal ones; a row without the number is the worst."""
    name = "/".join(by.path)
    return max(rows, key=lambda row: by.sign * row[name] if math.isfinite(row.get(name, math.nan)) else -math.inf)


class SelectCheckpoint(Hook):
    """Scores states on the split to choose on, keeps the best one, and has it evaluated at the end.

    Args:
      score: state -> evaluation on the split to choose on.
      split: its name.
      checkpoints: of the run.
      best: holds one checkpoint, in WORKDIR/best.
      evaluate: at the end, it scores the state that was chosen.
      writer: None on all but the main process.
      workdir: of the run.
      every, last: the steps are those of `is_due`.
      resume_clock: called afterwards, so that the time does not count in the rates of training.
    """

    def __init__(self, score: Callable[[TrainState], table.Evaluation], split: str, checkpoints: Checkpoints,
                 best: Checkpoints, evaluate: Evaluate, writer: MetricWriter | None, workdir: epath.Path, every: int,
                 last: int, resume_clock: Callable[[], None]):
        self._score, self._split, self._checkpoints, self._best = score, split, checkpoints, best
        self._evaluate, self._writer, self._workdir = evaluate, writer, workdir
        self._every, self._last, self._resume_clock = every, last, resume_clock

    def begin(self, step: int, state: TrainState) -> None:
        """Forgets choices of lost work, and makes up for those that an earlier process did not come to."""
        self._best.forget_after(step)
        if step and self.due(step, stopping=False) and (
                not self._holds(step) or (step == self._last and self._evaluate.is_missing(step))):
            self.after(step, state)

    def due(self, step: int, stopping: bool) -> bool:
        """Returns True when the state of `step` is one to choose from."""
        return not stopping and is_due(step, self._every, self._last)

    def after(self, step: int, state: TrainState) -> None:
        """Scores the state, and keeps it if it is the best; at the end, has the best one evaluated."""
        evaluation = self._score(state)  # also if it is known: the tables say what counts
        by = goal(evaluation.tables)
        if not self._holds(step):
            self._add(step, state, evaluation, by)
        if step == self._last:
            self._finish(state, by)
        self._resume_clock()

    def _add(self, step: int, state: TrainState, evaluation: table.Evaluation, by: Goal) -> None:
        row = {"step": step, **numbers(evaluation.scores())}
        is_best = mesh_lib.agree(int(best_row([*self._rows(), row], by) is row))
        if is_best:
            self._checkpoints.wait()
            self._best.save(step, state)
            self._best.wait()
        if self._writer:
            self._writer.write(step, _KIND, {name: value for name, value in row.items() if name != "step"})
            say("\n".join([f"step {step} on '{self._split}'{', the best so far' if is_best else ''}",
                           summary(evaluation.scores())]))

    def _finish(self, state: TrainState, by: Goal) -> None:
        rows = self._rows()
        chosen = mesh_lib.agree(int(best_row(rows, by)["step"]) if rows else 0)
        best = self._best.restore(state)
        if best is None or int(best.step) != chosen:
            raise UserError(f"'{self._workdir / BEST}' does not hold the state of step {chosen}, which was chosen on "
                            f"'{self._split}'; restore it, or run the configuration in a new workdir")
        found = best_row(rows, by).get("/".join(by.path)) if rows else None
        value = "" if found is None else f" ({by.title}: {found:.4g})"
        self._evaluate.score(self._last, best, chosen, [f"the state of step {chosen} is the best of {len(rows)} on "
                                                        f"'{self._split}'{value}"])

    def _rows(self) -> list[dict[str, Any]]:
        """Returns the scores so far; [] on all but the main process."""
        return [row for row in metrics.read(self._workdir) if row["kind"] == _KIND] if self._writer else []

    def _holds(self, step: int) -> bool:
        """True if an earlier process wrote the row of `step`; the same on all processes."""
        return bool(mesh_lib.agree(int(self._writer is not None and self._writer.holds(step, _KIND))))
