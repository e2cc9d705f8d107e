"""The results of the last evaluation: written to the workdir, and as text."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from dual_encoder.config import flatten
from dual_encoder.evaluation.table import Evaluation, Table
from dual_encoder.workdir import digests
from dual_encoder.workdir.folder import read_json, write_json
from dual_encoder.workdir.metrics import numbers


def save_evaluation(workdir: epath.Path, step: int, evaluation: Evaluation) -> None:
    """Writes an evaluation to WORKDIR/evaluation, in place of the one before.

        <name>.png     each picture
        <name>.csv     what each image adds to the scores of a table
        <name>.npz     'predictions' of the images in the order of that table, uint8 [images, height, width]
        tables.json    {"step", "tables"}: the tables, for the report
        scores.json    {"step", ...}: the numbers of the tables as nested dictionaries, for other programs

    Args:
      workdir: of the run.
      step: of the checkpoint.
      evaluation: what `Task.evaluate` returned.
    """
    (workdir / "evaluation").mkdir(parents=True, exist_ok=True)
    for name, picture in evaluation.images.items():
        png = io.BytesIO()
        picture.save(png, "PNG")
        digests.write(workdir, f"evaluation/{name}.png", png.getvalue())
    for name, values in evaluation.per_image.items():
        digests.write(workdir, f"evaluation/{name}.csv", values.to_csv().encode())
        if values.predictions is not None:
            packed = io.BytesIO()
            np.savez_compressed(packed, predictions=values.predictions)
            digests.write(workdir, f"evaluation/{name}.npz", packed.getvalue())
    write_json(workdir, "evaluation/tables.json",
               {"step": step, "tables": [table.to_json() for table in evaluation.tables]})
    # This comes last: the evaluation is then complete.
    write_json(workdir, "evaluation/scores.json", {"step": step, **evaluation.scores()})


def save_curve_tables(workdir: epath.Path, name: str, step: int, tables: Sequence[Table]) -> None:
    """Writes the tables of an evaluation that only makes curves to WORKDIR/curves/<name>.json.

    The form is that of tables.json. The report groups the curves by the last tables.
    """
    (workdir / "curves").mkdir(parents=True, exist_ok=True)
    write_json(workdir, f"curves/{name}.json", {"step": step, "tables": [table.to_json() for table in tables]})


def read_scores(workdir: epath.PathLike) -> dict[str, Any]:
    """Returns the scores of the last evaluation of a run by their paths, such as 'iou/flood'; with 'step'.

    Raises:
      UserError: scores.json is damaged.
      FileNotFoundError: there is none.
    """
    return flatten(read_json(epath.Path(workdir) / "evaluation" / "scores.json"), "/")


def summary(scores: Mapping[str, Any]) -> str:
    """Returns nested scores as text: single numbers on the first line, then a line per group."""
    single = {name: value for name, value in scores.items() if not isinstance(value, Mapping)}
    groups = {name: value for name, value in scores.items() if isinstance(value, Mapping)}
    lines = [f"  {_numbers(single)}"] if single else []
    return "\n".join(lines + [f"  {name}: {_numbers(values)}" for name, values in groups.items()])


def _numbers(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.3f}" if value != int(value) else f"{name} {int(value)}"
                     for name, value in numbers(values).items())
