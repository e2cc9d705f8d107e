"""The plan of an experiment: which initialisations are compared on which tasks, and how often.

A plan is a Python file like those in configs/: its `get_config(variant)` returns the keys of `Plan`.
"""

import dataclasses
import math
import re
from typing import Annotated, Any

from dual_encoder.command_line.config_file import load_config
from dual_encoder.config import AtLeast, IsPath, parse, require
from dual_encoder.data.subsets import GROUPS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclasses.dataclass(frozen=True)
class Initialisation:
    """What the encoders of a cell start from.

    Attributes:
      name: letters, digits, '_', '.', '+' and '-'.
      pretrain: configuration file of a pre-training run that the experiment makes, FILE.py[:VARIANT]; '' = none.
      keys: keys of that configuration to replace, nested.
      init_from: workdir of a finished run in its place; '' = none.
      like: name of another initialisation, for controls of probes: architecture and statistics of the sensors are
        those of its run. '' = none.
      cell_keys: keys to replace in every cell, such as {"frozen": True} or {"representation": "random"}.
      tasks: names of the tasks that it takes part in; () = all.
    """

    name: str
    pretrain: str
    keys: dict[str, Any]
    init_from: Annotated[str, IsPath()]
    like: str
    cell_keys: dict[str, Any]
    tasks: tuple[str, ...]

    def check(self, path: str) -> None:
        """Raises UserError for a bad name, or more than one source."""
        _check_name(self.name, f"{path}.name")
        given = [key for key in ("pretrain", "init_from", "like") if getattr(self, key)]
        require(len(given) < 2, f"{path}", given, "at most one of pretrain, init_from and like")


@dataclasses.dataclass(frozen=True)
class TaskPlan:
    """A downstream task.

    Attributes:
      name: as of an initialisation.
      config: configuration file of fine-tuning, classification or a probe, FILE.py[:VARIANT].
      keys: keys of that configuration to replace, nested.
      metric: the score that is compared, as a path in scores.json, such as 'iou/flood' or 'linear/accuracy'; higher is
        better.
      candidates: groups of keys. For each initialisation and fold, the group with the best metric on a part of the
        places to learn from is used, so no test place takes part. () = nothing is chosen.
      fractions: of this task, out of the plan's; () = all of them.
    """

    name: str
    config: str
    keys: dict[str, Any]
    metric: str
    candidates: tuple[dict[str, Any], ...]
    fractions: tuple[float, ...]

    def check(self, path: str) -> None:
        """Raises UserError for a bad name, or a choice of one."""
        _check_name(self.name, f"{path}.name")
        require(len(self.candidates) != 1, f"{path}.candidates", self.candidates, "(), or at least two groups of keys")


@dataclasses.dataclass(frozen=True)
class Plan:
    """An experiment.

    Attributes:
      title: of the report.
      initialisations, tasks: see there.
      encoder: keys of the group 'encoder' of every configuration that has one, so that all encoders are alike.
      fractions: shares of the places with labels to learn from, each in (0, 1].
      candidate_fraction: the share at which candidates are tried.
      folds: number of folds of the places; 0 = the tasks' own eval_split is scored.
      groups: what a fold holds out as a whole; see `SubsetConfig`.
      pretrain_per_fold: pre-train without the places of the fold. False: one run for all folds, on data without any
        place of the tasks.
      seeds: number of repetitions; each has its own fraction of the places, order and random weights.
      pretrain_seeds: number of pre-training runs; seed k starts from run k modulo this.
      keep_models: keep the checkpoints of the cells. False deletes them when the cell is scored; those of pre-training
        stay.
      comparisons: pairs (first, second) of initialisations: the difference first - second is tested.
      margin: a smaller difference does not matter, in the unit of the metrics.
    """

    title: str
    initialisations: tuple[Initialisation, ...]
    tasks: tuple[TaskPlan, ...]
    encoder: dict[str, Any]
    fractions: tuple[float, ...]
    candidate_fraction: float
    folds: Annotated[int, AtLeast(0)]
    groups: Annotated[str, IsPath(GROUPS)]
    pretrain_per_fold: bool
    seeds: Annotated[int, AtLeast(1)]
    pretrain_seeds: Annotated[int, AtLeast(1)]
    keep_models: bool
    comparisons: tuple[tuple[str, ...], ...]
    margin: float

    def check(self, path: str) -> None:
        """Raises UserError for names that occur twice or do not exist, and for shares that are none."""
        names, tasks = [one.name for one in self.initialisations], [task.name for task in self.tasks]
        for key, given in (("initialisations", names), ("tasks", tasks)):
            require(len(given) > 0 and len(set(given)) == len(given), f"{path}.{key}", given, "distinct names")
        for one in self.initialisations:
            require(one.like in ("", *names), f"{path}.{one.name}.like", one.like, f"one of {', '.join(names)}")
            for name in one.tasks:
                require(name in tasks, f"{path}.{one.name}.tasks", name, f"one of {', '.join(tasks)}")
        require(len(self.fractions) > 0 and len(set(self.fractions)) == len(self.fractions), f"{path}.fractions",
                self.fractions, "distinct shares in (0, 1]")
        for task in self.tasks:
            require(set(task.fractions) <= set(self.fractions), f"{path}.{task.name}.fractions", task.fractions,
                    f"some of {self.fractions}")
        for share in (*self.fractions, self.candidate_fraction):
            require(0 < share <= 1, f"{path}.fractions", share, "a share in (0, 1]")
        require(self.folds != 1, f"{path}.folds", 1, "0, or at least 2")
        require(self.margin > 0 and math.isfinite(self.margin), f"{path}.margin", self.margin, "more than 0")
        for pair in self.comparisons:
            require(len(pair) == 2 and pair[0] != pair[1] and set(pair) <= set(names), f"{path}.comparisons", pair,
                    f"two of {', '.join(names)}")

    def source(self, one: Initialisation) -> Initialisation:
        """Returns the initialisation whose run a cell starts from: `one`, or that which it is like."""
        return next(other for other in self.initialisations if other.name == (one.like or one.name))

    def fractions_of(self, task: TaskPlan) -> tuple[float, ...]:
        """Returns the fractions of a task."""
        return task.fractions or self.fractions

    def taking_part(self, task: TaskPlan) -> list[Initialisation]:
        """Returns the initialisations of a task, in their order."""
        return [one for one in self.initialisations if not one.tasks or task.name in one.tasks]


def load(file: str) -> Plan:
    """Returns the plan of a file, FILE.py or FILE.py:VARIANT.

    Raises:
      UserError: the file cannot be read, or a key is unknown, missing or wrong.
    """
    return parse(Plan, load_config(file, "--plan"), name="plan")


def merged(values: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """Returns nested keys with some of them replaced; groups are merged key by key."""
    result = dict(values)
    for change in changes:
        for key, value in change.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def percent(share: float) -> str:
    """Returns a share as '5 %'."""
    return f"{100 * share:g} %"


def _check_name(name: str, path: str) -> None:
    require(_NAME.fullmatch(name) is not None, path, name, "letters, digits, '_', '.', '+' and '-': a folder's name")
