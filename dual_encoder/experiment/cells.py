"""The cells of an experiment: one run each, in the order in which they can be made."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from dual_encoder.command_line.config_file import load_config
from dual_encoder.config import flatten
from dual_encoder.errors import UserError
from dual_encoder.experiment.plan import Initialisation, Plan, TaskPlan, merged
from dual_encoder.workdir.scores import read_scores

Kind = Literal["pretrain", "candidate", "score"]
FEATURES = "features"  # folder of the outputs of frozen encoders, which all probes share


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of an experiment.

    Attributes:
      name: path of its workdir below the experiment's folder; unique.
      kind: 'pretrain'; 'candidate', a try of settings; 'score', a run that counts.
      initialisation: what it starts from; of a pre-training run, what it is made for.
      task: None for pre-training.
      fraction: share of the places to learn from.
      fold: that is held out; 0 without folds.
      seed: of the run.
      candidate: number of the group of settings; -1 for none.
      needs: names of the cells that must be done before.
    """

    name: str
    kind: Kind
    initialisation: Initialisation
    task: TaskPlan | None
    fraction: float
    fold: int
    seed: int
    candidate: int
    needs: tuple[str, ...]


def cells(plan: Plan) -> list[Cell]:
    """Returns all cells: pre-training, then for each task its candidates and scores. No cell needs a later one."""
    return [*_pretraining(plan),
            *(cell for task in plan.tasks for part in (_candidates, _scores) for cell in part(plan, task))]


def _folds(plan: Plan) -> range:
    return range(max(plan.folds, 1))


def _pretraining(plan: Plan) -> Iterator[Cell]:
    for one in plan.initialisations:
        if one.pretrain:
            for fold in _folds(plan) if plan.pretrain_per_fold else range(1):
                for seed in range(plan.pretrain_seeds):
                    yield Cell(_pretrain_name(plan, one, fold, seed), "pretrain", one, None, 1.0, fold, seed, -1, ())


def _candidates(plan: Plan, task: TaskPlan) -> Iterator[Cell]:
    for one in plan.taking_part(task):
        for fold in _folds(plan):
            for number, name in enumerate(_candidate_names(task, one, fold)):
                yield Cell(name, "candidate", one, task, plan.candidate_fraction, fold, 0, number,
                           _sources(plan, one, fold, 0))


def _scores(plan: Plan, task: TaskPlan) -> Iterator[Cell]:
    for fraction in plan.fractions_of(task):
        for seed in range(plan.seeds):
            for fold in _folds(plan):
                for one in plan.taking_part(task):
                    needs = (*_sources(plan, one, fold, seed), *_candidate_names(task, one, fold))
                    yield Cell(f"cells/{task.name}/{one.name}/fraction{fraction:g}/fold{fold}/seed{seed}", "score", one,
                               task, fraction, fold, seed, -1, needs)


def _pretrain_name(plan: Plan, one: Initialisation, fold: int, seed: int) -> str:
    return f"pretrain/{one.name}/fold{fold if plan.pretrain_per_fold else 0}/seed{seed % plan.pretrain_seeds}"


def _candidate_names(task: TaskPlan, one: Initialisation, fold: int) -> list[str]:
    return [f"candidates/{task.name}/{one.name}/fold{fold}/candidate{number}" for number in range(len(task.candidates))]


def _sources(plan: Plan, one: Initialisation, fold: int, seed: int) -> tuple[str, ...]:
    """Returns the pre-training run that a cell needs, if there is one."""
    source = plan.source(one)
    return (_pretrain_name(plan, source, fold, seed),) if source.pretrain else ()


def configuration(plan: Plan, cell: Cell, out: pathlib.Path) -> dict[str, Any]:
    """Returns the keys of a cell's configuration file with those of the plan in place.

    Args:
      plan: of the experiment.
      cell: one of its cells; those that it needs are done.
      out: the experiment's folder.

    Raises:
      UserError: a configuration file cannot be loaded, or no candidate has a score.
    """
    one, task = cell.initialisation, cell.task
    if task is None:
        values = merged(load_config(one.pretrain), one.keys)
        held_out = plan.folds if plan.pretrain_per_fold else 0
        chosen: Mapping[str, Any] = {}
    else:
        values = merged(load_config(task.config), task.keys, one.cell_keys)
        held_out = plan.folds
        sources = _sources(plan, one, cell.fold, cell.seed)
        values["init_from"] = str(out / sources[0]) if sources else plan.source(one).init_from
        chosen = _settings(task, cell, out)
    subset: dict[str, Any] = {"fraction": cell.fraction, "folds": held_out, "fold": cell.fold if held_out else 0,
                              "validate": cell.kind == "candidate", "seed": cell.seed}
    if task or held_out:
        subset["groups"] = plan.groups
    changes: dict[str, Any] = {"seed": cell.seed, "data": {"subset": subset}}
    if "encoder" in values:
        changes["encoder"] = plan.encoder
    if "cache" in values:
        changes["cache"] = str(out / FEATURES)
    return merged(values, dict(chosen), changes)


def command(values: Mapping[str, Any], file: str, workdir: pathlib.Path) -> list[str]:
    """Returns the arguments of `python main.py` that make the same run.

    Args:
      values: of the cell, as of `configuration`.
      file: its configuration file.
      workdir: of the run.
    """
    before = flatten(load_config(file))
    changed = {key: value for key, value in flatten(values).items() if before.get(key) != value}
    return [f"--config={file}", f"--workdir={workdir}",
            *(f"--config.{key}={value}" for key, value in sorted(changed.items()))]


def score(workdir: pathlib.Path, metric: str) -> float | None:
    """Returns a metric of a finished run by its path in scores.json, such as 'iou/flood'; None if it has none.

    Raises:
      UserError: the file cannot be read, or there is no such metric.
    """
    scores = read_scores(workdir)
    if metric not in scores:
        raise UserError(f"'{workdir / 'evaluation' / 'scores.json'}' has no '{metric}'; it has "
                        f"{', '.join(sorted(scores))}: change the task's metric")
    return scores[metric]


def _settings(task: TaskPlan, cell: Cell, out: pathlib.Path) -> Mapping[str, Any]:
    """Returns the group of settings of a cell: its own as a candidate, otherwise the best one."""
    if not task.candidates:
        return {}
    if cell.kind == "candidate":
        return task.candidates[cell.candidate]
    names = _candidate_names(task, cell.initialisation, cell.fold)
    reached = [score(out / name, task.metric) for name in names]
    known = [number for number, value in enumerate(reached) if value is not None]
    if not known:
        raise UserError(f"no candidate of '{names[0].rsplit('/', 1)[0]}' has a '{task.metric}'; the places to choose "
                        "on lack the class: take fewer folds, or a larger candidate_fraction")
    return task.candidates[max(known, key=lambda number: reached[number] or 0.0)]
