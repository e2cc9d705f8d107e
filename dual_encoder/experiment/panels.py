"""Pictures of the test images on which two initialisations disagree most."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dual_encoder.data.records import Records
from dual_encoder.evaluation.per_image import PerImage
from dual_encoder.experiment.cells import Cell
from dual_encoder.experiment.plan import TaskPlan, percent
from dual_encoder.experiment.results import Results, images, score_name, table_file
from dual_encoder.imagery.palette import label_to_rgb
from dual_encoder.imagery.pictures import class_legend, grid, image_to_rgb
from dual_encoder.imagery.sensors import dates

_ROWS = 4
_TILE = 160  # pixels


class Panels(NamedTuple):
    """A picture with a row per image.

    Attributes:
      title: heading.
      png: the picture.
      caption: its columns, and the rows with their scores.
    """

    title: str
    png: bytes
    caption: str


def disagreements(results: Results, task: TaskPlan, out: pathlib.Path) -> Panels | None:
    """Draws the images with the largest differences, of the plan's first comparison, least fraction and first seed.

    Args:
      results: of the experiment.
      task: with a class for each pixel.
      out: the experiment's folder.

    Returns:
      None if the task has no predictions of pixels, or no comparison of runs that are done.
    """
    names = [one.name for one in results.plan.taking_part(task)]
    pair = next((pair for pair in results.plan.comparisons if set(pair) <= set(names)), None)
    if pair is None:
        return None
    fraction = min(results.plan.fractions_of(task))
    cells = [[cell for cell in results.cells if cell.kind == "score" and cell.task == task and cell.seed == 0
              and (cell.initialisation.name, cell.fraction) == (name, fraction)] for name in pair]
    found = []
    for first, second in zip(*cells, strict=True):
        if any(results.outcomes[cell.name].state != "done" for cell in (first, second)):
            return None
        tables = [_table(out / cell.name, task) for cell in (first, second)]
        if any(table.predictions is None for table in tables):
            return None
        found += _differences(first, tables, task)
    found.sort(key=lambda one: (-abs(one.scores[0] - one.scores[1]), one.id))
    return _draw(results, found[:_ROWS], pair, fraction) if found else None


class _Image(NamedTuple):
    """An image with the predictions and scores of two runs, and a cell that was scored on it."""

    id: str
    cell: Cell
    predictions: tuple[np.ndarray, np.ndarray]
    scores: tuple[float, float]


def _table(workdir: pathlib.Path, task: TaskPlan) -> PerImage:
    """Returns the images of a run with their predictions, if those were kept."""
    table, file = images(workdir, task.metric), table_file(workdir, task.metric).with_suffix(".npz")
    if not file.exists():
        return table
    with np.load(file, allow_pickle=False) as arrays:
        return PerImage(table.kind, table.classes, table.ids, table.places, table.values, arrays["predictions"])


def _differences(cell: Cell, tables: Sequence[PerImage], task: TaskPlan) -> list[_Image]:
    """Returns the images that both runs have a score of."""
    one, other = tables
    assert one.predictions is not None and other.predictions is not None
    at = {name: row for row, name in enumerate(other.ids)}
    score, result = one.score(score_name(task.metric)), []
    for row, name in enumerate(one.ids):
        rows = row, at[name]
        scores = tuple(float(score(table.values[r:r + 1], np.ones((1, 1)))[0])
                       for table, r in zip(tables, rows, strict=True))
        if np.isfinite(scores).all():
            result.append(_Image(name, cell, (one.predictions[rows[0]], other.predictions[rows[1]]),
                                 (scores[0], scores[1])))
    return result


def _draw(results: Results, found: Sequence[_Image], pair: Sequence[str], fraction: float) -> Panels:
    rows, sides = [], []
    for image in found:
        config = results.outcomes[image.cell.name].config
        records = _scored(config)
        shown = dates(config["inputs"].split("+")[0], config["change"] != "none")
        record = records.record(records.ids.index(image.id))
        inputs = [image_to_rgb(record[name], records.info.sensors[name]) for name in shown.values()]
        label = records.info.label
        colours = label.colours if label else ()
        rows.append([*inputs, *(label_to_rgb(classes, colours) for classes in (record["label"], *image.predictions))])
        sides.append(f"{image.scores[0]:.2f}, {image.scores[1]:.2f} {image.id}")
    picture = io.BytesIO()
    columns = [*shown, "label", *(name.replace("_", " ") for name in pair)]
    grid(rows, _TILE, columns, sides, class_legend(records.info.classes, colours)).save(picture, "PNG")
    return Panels(f"Where {pair[0]} and {pair[1]} disagree most, {percent(fraction)} of the labels",
                  picture.getvalue(), f"Columns: {', '.join(columns)}. To the left: the scores of both, and the id.")


def _scored(config: Mapping[str, Any]) -> Records:
    """Returns the split that the images of a run are in."""
    data = config["data"]
    return Records(data["dir"], data["split"] if data["subset"]["folds"] else data["eval_split"], ())
