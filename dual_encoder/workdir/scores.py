"""The scores and pictures of an evaluation: written to the workdir, and as text."""

import io
from collections.abc import Mapping
from typing import Any

from etils import epath

from dual_encoder.storage import atomic
from dual_encoder.workdir.folder import write_json
from dual_encoder.workdir.metrics import flatten


def save_evaluation(workdir: epath.Path, step: int, scores: Mapping[str, Any], pictures: Mapping[str, Any]) -> None:
    """Writes scores (JSON) and pictures (PNG) to WORKDIR/evaluation, in place of older ones."""
    folder = workdir / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        png = io.BytesIO()
        picture.save(png, "PNG")
        atomic.write(folder / f"{name}.png", png.getvalue())
    write_json(folder / "scores.json", {"step": step, **scores})  # last: where they stand, the evaluation is complete


def summary(scores: Mapping[str, Any]) -> str:
    """Returns the scores as text: single numbers on the first line, then a line per group."""
    single = {name: value for name, value in scores.items() if not isinstance(value, Mapping)}
    groups = {name: value for name, value in scores.items() if isinstance(value, Mapping)}
    lines = [f"  {_numbers(single)}"] if single else []
    return "\n".join(lines + [f"  {name}: {_numbers(values)}" for name, values in groups.items()])


def _numbers(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.3f}" if value != int(value) else f"{name} {int(value)}"
                     for name, value in flatten(values).items())
