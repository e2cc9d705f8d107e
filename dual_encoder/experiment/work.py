"""Runs the cells of an experiment. Any number of processes, also on several machines, share the work through files.

    OUT/<cell>/            the workdir of a cell, as of any run
    OUT/<cell>/cell.json   written when the cell is done or has failed
    OUT/<cell>/log.txt     what the run printed
    OUT/locks/<cell>       held by the process that runs the cell; the kernel releases it when that process ends
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from etils import epath
from jax.sharding import Mesh

from dual_encoder import __version__
from dual_encoder.config import differences, parse, to_dict
from dual_encoder.errors import UserError, one_line
from dual_encoder.experiment import leaks
from dual_encoder.experiment.cells import Cell, command, configuration
from dual_encoder.experiment.plan import Plan
from dual_encoder.report.page import write_report
from dual_encoder.storage import atomic, lock
from dual_encoder.tasks.build import AnyConfig
from dual_encoder.training.run import run

State = Literal["open", "done", "failed"]
_NOTE = "cell.json"
_PATHS = ("cache", "init_from", "data.dir", "data.subset.groups")  # the experiment's folder or the data may have moved
_PAUSE = 0.5  # seconds between looks at cells that other processes run


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is known of a cell.

    Attributes:
      state: 'open' until it has ended.
      seconds: that its run took.
      message: why it failed.
      digest: sha256 of its scores, hexadecimal.
      command: arguments of `python main.py` for the same run.
      config: its configuration.
      dataset: fingerprint of the data.
      code_version: of dual_encoder.
      audit: what is known of leaks, as of `leaks.check`.
    """

    state: State
    seconds: float = 0.0
    message: str = ""
    digest: str = ""
    command: tuple[str, ...] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dataset: str = ""
    code_version: str = ""
    audit: tuple[str, ...] = ()


def outcome(out: pathlib.Path, name: str) -> Outcome:
    """Returns what is known of a cell; UserError if its note is damaged."""
    path = out / name / _NOTE
    try:
        values = json.loads(path.read_bytes())
        return Outcome(**values | {"command": tuple(values["command"]), "audit": tuple(values.get("audit", ()))})
    except FileNotFoundError:
        return Outcome("open")
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"'{path}' is damaged ({one_line(error)}); delete it, and the cell is made anew") from error


def has_ended(out: pathlib.Path, name: str) -> bool:
    """Returns whether a cell is done or has failed, without reading its note."""
    return (out / name / _NOTE).exists()


def digest(workdir: pathlib.Path) -> str:
    """Returns the sha256 of the scores of a run: evaluation/scores.json and the tables of images."""
    sums = hashlib.sha256()
    for path in sorted((workdir / "evaluation").glob("*")):
        if path.name == "scores.json" or path.suffix == ".csv":
            sums.update(path.name.encode() + path.read_bytes())
    return sums.hexdigest()


def forget_failures(cells: Sequence[Cell], out: pathlib.Path) -> None:
    """Lets cells that failed be tried again."""
    for cell in cells:
        if outcome(out, cell.name).state == "failed":
            (out / cell.name / _NOTE).unlink()


def work(plan: Plan, cells: Sequence[Cell], out: pathlib.Path, mesh: Mesh,
         ended: Callable[[Cell, Outcome], None] = lambda cell, outcome: None) -> None:
    """Runs cells until all have ended, here or in another process. A cell that fails does not stop the others.

    Args:
      plan: of the experiment.
      cells: to run; a cell stands behind those that it needs.
      out: the experiment's folder.
      mesh: the devices.
      ended: called for each cell that this process has run.

    Raises:
      UserError: a cell was made with another configuration.
      SystemExit: with code 75 after a signal to stop in a training run, which is saved.
    """
    left = list(cells)
    while left:
        for cell in left:  # the first cells come first: others need them
            if has_ended(out, cell.name):
                _check_unchanged(plan, cell, outcome(out, cell.name), out)
            elif not (all(has_ended(out, need) for need in cell.needs) and _try(plan, cell, out, mesh, ended)):
                continue
            left.remove(cell)
            break
        else:
            time.sleep(_PAUSE)


def _try(plan: Plan, cell: Cell, out: pathlib.Path, mesh: Mesh, ended: Callable[[Cell, Outcome], None]) -> bool:
    """Runs a cell unless another process does, or has done so; returns whether it ended here."""
    with _claimed(out, cell) as mine:
        if not mine or has_ended(out, cell.name):
            return False
        started = time.monotonic()
        result = _run(plan, cell, out, mesh)
        result = dataclasses.replace(result, seconds=round(time.monotonic() - started, 3), code_version=__version__)
        (out / cell.name).mkdir(parents=True, exist_ok=True)
        atomic.write(out / cell.name / _NOTE, (json.dumps(dataclasses.asdict(result), indent=1) + "\n").encode())
    ended(cell, result)
    return True


@contextlib.contextmanager
def _claimed(out: pathlib.Path, cell: Cell) -> Iterator[bool]:
    path = out / "locks" / cell.name.replace("/", "__")
    with atomic.explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")
    with file:
        yield lock.take(file)


def _run(plan: Plan, cell: Cell, out: pathlib.Path, mesh: Mesh) -> Outcome:
    """Makes the run of a cell."""
    workdir = out / cell.name
    failed = [need for need in cell.needs if outcome(out, need).state == "failed"]
    if failed:
        return Outcome("failed", message=f"it needs '{failed[0]}', which failed")
    with atomic.explained(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        log = open(workdir / "log.txt", "a", encoding="utf-8")
    values: dict[str, Any] = {}
    arguments: tuple[str, ...] = ()
    with log, contextlib.redirect_stdout(log):
        try:
            values = configuration(plan, cell, out)
            arguments = tuple(command(values, cell.task.config if cell.task else cell.initialisation.pretrain, workdir))
            audit = leaks.check(values) if cell.kind == "score" else ()
            config: AnyConfig = parse(AnyConfig, values)
            run(config, mesh, epath.Path(workdir), after_evaluation=write_report)
            write_report(workdir)
            fingerprint = json.loads((workdir / "run.json").read_bytes())["dataset"]["fingerprint"]
            if cell.kind != "pretrain" and not plan.keep_models:
                shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
            return Outcome("done", digest=digest(workdir), command=arguments, config=values, dataset=fingerprint,
                           audit=audit)
        except Exception as error:
            traceback.print_exc(file=log)
            kind = "" if isinstance(error, UserError | OSError) else f"{type(error).__name__}: "
            return Outcome("failed", message=kind + one_line(error), command=arguments, config=values)


def _check_unchanged(plan: Plan, cell: Cell, found: Outcome, out: pathlib.Path) -> None:
    """Raises UserError if a cell that is done was made with another configuration than the plan gives it now."""
    if found.state != "done":
        return
    then, now = (to_dict(parse(AnyConfig, values, stored=True)) for values in (
        found.config, configuration(plan, cell, out)))
    changed = differences(then, now)
    changed = {key: values for key, values in changed.items() if key not in _PATHS}
    if changed:
        key, (old, new) = next(iter(changed.items()))
        raise UserError(f"'{out / cell.name}' was made with config.{key}={old!r}, the plan now says {new!r}; use "
                        "another --out, or delete the folder of that cell and of the cells that start from it")
