"""The results of an experiment's cells: one row per cell and metric, and the images of whole repetitions."""

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from dual_encoder.data.subsets import groups_of
from dual_encoder.errors import UserError
from dual_encoder.evaluation.comparison import Scored
from dual_encoder.evaluation.per_image import PerImage
from dual_encoder.experiment.beside import OtherScore
from dual_encoder.experiment.cells import Cell
from dual_encoder.experiment.plan import Plan, TaskPlan
from dual_encoder.experiment.work import Outcome, outcome
from dual_encoder.workdir import digests
from dual_encoder.workdir.folder import read_json
from dual_encoder.workdir.metrics import numbers
from dual_encoder.workdir.scores import read_scores

_HEAD = ("task", "initialisation", "fraction", "fold", "seed", "metric", "value", "kind", "cell", "protocol")
_OURS = "experiment"  # the protocol of a plan's cells


@dataclasses.dataclass(frozen=True)
class Arm:
    """One initialisation at one task and fraction.

    Attributes:
      task, initialisation, fraction: which.
      tables: seed -> the images of all folds together, sorted by id; of the seeds whose folds are all done.
      missing: cells that have failed or are not done.
    """

    task: TaskPlan
    initialisation: str
    fraction: float
    tables: Mapping[int, PerImage]
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Results:
    """All that the cells of an experiment gave.

    Attributes:
      plan: of the experiment.
      cells: all of them.
      outcomes: cell -> what is known of it.
      arms: by task, fraction and initialisation, in the order of the plan.
    """

    plan: Plan
    cells: Sequence[Cell]
    outcomes: Mapping[str, Outcome]
    arms: Sequence[Arm]

    def arm(self, task: str, initialisation: str, fraction: float) -> Arm:
        """Returns an arm by its names."""
        return next(arm for arm in self.arms
                    if (arm.task.name, arm.initialisation, arm.fraction) == (task, initialisation, fraction))


def collect(plan: Plan, cells: Sequence[Cell], out: pathlib.Path) -> Results:
    """Reads the results of all cells that are done.

    Raises:
      UserError: a file of a cell is damaged, or cells of one arm were scored on different images.
    """
    outcomes = {cell.name: outcome(out, cell.name) for cell in cells}
    arms = []
    for task in plan.tasks:
        for fraction in plan.fractions_of(task):
            for one in plan.taking_part(task):
                mine = [cell for cell in cells if cell.kind == "score" and cell.task == task
                        and cell.fraction == fraction and cell.initialisation == one]
                arms.append(_arm(task, one.name, fraction, mine, outcomes, out))
    return Results(plan, cells, outcomes, arms)


def _arm(task: TaskPlan, name: str, fraction: float, cells: Sequence[Cell], outcomes: Mapping[str, Outcome],
         out: pathlib.Path) -> Arm:
    tables: dict[int, PerImage] = {}
    missing = tuple(cell.name for cell in cells if outcomes[cell.name].state != "done")
    for seed in sorted({cell.seed for cell in cells}):
        folds = [cell for cell in cells if cell.seed == seed]
        if not any(cell.name in missing for cell in folds):
            tables[seed] = _joined([images(out / cell.name, task.metric) for cell in folds])
    if len({table.ids for table in tables.values()}) > 1:
        raise UserError(f"the cells of '{name}' at task '{task.name}' were scored on different images; the data have "
                        "changed: use another --out")
    return Arm(task, name, fraction, tables, missing)


def images(workdir: pathlib.Path, metric: str) -> PerImage:
    """Returns the table of images that a metric is computed from.

    Args:
      workdir: of a run that is done.
      metric: path of the score, such as 'iou/flood' or 'linear/accuracy'.

    Raises:
      UserError: the table is missing or damaged.
    """
    run, file = read_json(epath.Path(workdir) / "run.json"), table_file(workdir, metric)
    label = run["dataset"].get("label", {}).get("kind", "")
    try:
        if fault := digests.fault(workdir, f"evaluation/{file.name}"):
            raise ValueError(fault)
        return PerImage.from_csv(file.read_text(), "probabilities" if label == "image_classes" else "counts",
                                 run["dataset"]["classes"])
    except (KeyError, OSError, ValueError) as error:
        raise UserError(f"'{workdir / 'evaluation'}' has no table of images that can be read ({error}); delete the "
                        "folder of the cell and run it again") from error


def table_file(workdir: pathlib.Path, metric: str) -> pathlib.Path:
    """Returns the file of the table that a metric is computed from; it may be missing."""
    files = {path.stem: path for path in sorted((workdir / "evaluation").glob("*.csv"))}
    probe = metric.split("/")[0]
    return files.get(probe) or next(iter(files.values()), workdir / "evaluation" / "segmentation.csv")


def score_name(metric: str) -> str:
    """Returns a metric without the name of its probe: 'linear/accuracy' -> 'accuracy'."""
    first, _, rest = metric.partition("/")
    return rest if first in ("linear", "knn") else metric


def scored(groups: str, arm: Arm, seeds: Sequence[int]) -> Scored:
    """Returns the images of an arm as a comparison takes them.

    Args:
      groups: images of one group are drawn together; as in `SubsetConfig`.
      arm: with all of `seeds`.
      seeds: to use, in this order.

    Raises:
      UserError: the metric does not exist, or the groups lack a place.
    """
    tables = [arm.tables[seed] for seed in seeds]
    group_of = groups_of(tables[0].places, groups)
    try:
        score = tables[0].score(score_name(arm.task.metric))
    except ValueError as error:
        raise UserError(f"task '{arm.task.name}': {error}; change the task's metric") from error
    return Scored(np.stack([table.values for table in tables]), np.asarray(group_of), score)


def _joined(parts: Sequence[PerImage]) -> PerImage:
    """Returns the tables of several folds as one, sorted by id."""
    ids = [name for part in parts for name in part.ids]
    places = [place for part in parts for place in part.places]
    order = sorted(range(len(ids)), key=lambda at: ids[at])
    return PerImage(parts[0].kind, parts[0].classes, tuple(ids[at] for at in order), tuple(places[at] for at in order),
                    np.concatenate([part.values for part in parts])[order])


def tidy(results: Results, out: pathlib.Path, others: Sequence[OtherScore] = ()) -> str:
    """Returns a CSV table with a row per cell and metric, then one for each of the others with their protocol."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEAD)
    for cell in results.cells:
        if results.outcomes[cell.name].state != "done":
            continue
        for metric, value in numbers(read_scores(out / cell.name)).items():
            writer.writerow([cell.task.name if cell.task else "", cell.initialisation.name, f"{cell.fraction:g}",
                             cell.fold, cell.seed, metric, f"{value:.9g}", cell.kind, cell.name, _OURS])
    for one in others:
        writer.writerow([one.dataset, one.name, f"{one.fraction:g}", "", one.seed, f"{one.method}/{one.metric}",
                         "" if math.isnan(one.value) else f"{one.value:.9g}", "beside", "", one.protocol])
    return text.getvalue()


def per_image(results: Results) -> str:
    """Returns a CSV table with the metric of each image, for every task, fraction, initialisation and seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "initialisation", "fraction", "seed", "metric", "id", "location_id", "group", "value"])
    for arm in results.arms:
        for seed, table in arm.tables.items():
            score = scored(results.plan.groups, arm, [seed])
            for at, facts in enumerate(zip(table.ids, table.places, score.places.tolist(), strict=True)):
                value = float(score.score(table.values[at:at + 1], np.ones((1, 1)))[0])
                writer.writerow([arm.task.name, arm.initialisation, f"{arm.fraction:g}", seed, arm.task.metric, *facts,
                                 "" if np.isnan(value) else f"{value:.6g}"])
    return text.getvalue()
