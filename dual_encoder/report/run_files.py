"""What the files of a workdir say about a run; files that are missing or damaged are left out, and named."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from dual_encoder.errors import UserError, one_line
from dual_encoder.evaluation.table import Table
from dual_encoder.report.old_scores import tables_of_scores
from dual_encoder.report.run_facts import well_formed
from dual_encoder.workdir import digests
from dual_encoder.workdir.metrics import rows_and_damage


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The content of a workdir.

    Attributes:
      folder: the workdir.
      run: run.json, without values of a wrong type.
      config: config.json.
      rows: of metrics.jsonl.
      tables: of the last evaluation.
      step: of its checkpoint; None if it is unknown.
      quick: tables of evaluations that only make curves.
      files: name of a file in evaluation/ -> content, of those that hold neither tables nor pictures.
      pictures: name of a picture in evaluation/ -> its path.
      problems: a line for each file that is damaged.
    """

    folder: pathlib.Path
    run: dict[str, Any]
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    tables: tuple[Table, ...]
    step: int | None
    quick: list[Table]
    files: dict[str, dict[str, Any]]
    pictures: dict[str, pathlib.Path]
    problems: list[str]


def read_run(workdir: str | pathlib.Path) -> RunFiles:
    """Reads config.json, run.json, metrics.jsonl, evaluation/*.{json,png} and curves/*.json.

    Args:
      workdir: local folder of a run.

    Raises:
      UserError: there is no such folder, or it holds no file of a run.
    """
    folder = pathlib.Path(workdir)
    if not folder.is_dir():
        raise UserError(f"--workdir '{folder}' is not a folder; give the folder of a run")
    problems: list[str] = []
    run, config = (_read_json(folder, name, problems) for name in ("run.json", "config.json"))
    rows = _read_rows(folder / "metrics.jsonl", problems)
    files = {path.stem: _read_json(folder, f"evaluation/{path.name}", problems)
             for path in sorted(folder.glob("evaluation/*.json"))}
    pictures = {path.stem: path for path in sorted(folder.glob("evaluation/*.png"))
                if not _differs(folder, f"evaluation/{path.name}", problems)}
    if not (run or config or rows or files or pictures or problems):
        raise UserError(f"'{folder}' holds no run.json, config.json, metrics.jsonl or evaluation; give the --workdir "
                        "of a run")
    run = well_formed(run, problems)
    tables, step = _tables(files.pop("tables", {}), files.get("scores", {}), problems)
    quick = [table for path in sorted(folder.glob("curves/*.json"))
             for table in _tables(_read_json(folder, f"curves/{path.name}", problems), {}, problems)[0]]
    return RunFiles(folder, run, config, rows, tables, step, quick, files, pictures, problems)


def _read_json(folder: pathlib.Path, name: str, problems: list[str]) -> dict[str, Any]:
    path = folder / name
    if not path.exists():
        return {}
    _differs(folder, name, problems)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} could not be read: {one_line(error)}")
        return {}
    return values if isinstance(values, dict) else {"value": values}


def _differs(folder: pathlib.Path, name: str, problems: list[str]) -> bool:
    """Returns whether a file differs from its digest, and adds that to `problems`."""
    try:
        fault = digests.fault(folder, name)
    except OSError as error:
        fault = f"{name} could not be read: {one_line(error)}"
    problems += [fault] if fault else []
    return fault is not None


def _read_rows(path: pathlib.Path, problems: list[str]) -> list[dict[str, Any]]:
    try:
        rows, damaged = rows_and_damage(path) if path.exists() else ([], [])
    except OSError as error:
        problems.append(f"{path.name} could not be read: {one_line(error)}")
        return []
    if damaged:
        problems.append(f"{path.name}: {len(damaged)} damaged lines were left out (first: line {damaged[0]})")
    return rows


def _tables(saved: Mapping[str, Any], scores: Mapping[str, Any], problems: list[str]
            ) -> tuple[tuple[Table, ...], int | None]:
    """Returns the tables of the last evaluation and the step of its checkpoint.

    Args:
      saved: tables.json; empty if it is missing. It counts only if it has the step of scores.json: code from before
        it existed may have evaluated the run again.
      scores: scores.json; empty if it is missing.
      problems: lines for the page are added to it.
    """
    if saved and (not scores or saved.get("step") == scores.get("step")):
        try:
            return tuple(Table.from_json(table) for table in saved["tables"]), saved["step"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problems.append(f"tables.json could not be read: {one_line(error)}")
    try:
        return tables_of_scores(scores), scores.get("step")
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        problems.append(f"scores.json could not be read: {type(error).__name__}: {one_line(error)}")
        return (), None
