"""One static HTML page about a run, from the files in its workdir alone: no scripts, no links, pictures inside."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from dual_encoder.config import flatten
from dual_encoder.errors import UserError
from dual_encoder.evaluation.table import Table
from dual_encoder.report import html, sections
from dual_encoder.report.old_scores import tables_of_scores
from dual_encoder.storage import atomic
from dual_encoder.workdir.metrics import rows_and_damage


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes WORKDIR/report.html and returns its path.

    Reads config.json, run.json, metrics.jsonl and evaluation/*.{json,png,txt}. The page leaves out files that are
    missing, and names those that cannot be read.

    Args:
      workdir: local folder of a run.

    Raises:
      UserError: there is no such folder, it holds no file of a run, or it cannot be written to.
    """
    folder = pathlib.Path(workdir)
    if not folder.is_dir():
        raise UserError(f"--workdir '{folder}' is not a folder; give the folder of a run")
    problems: list[str] = []
    run, config = (_read_json(folder / name, problems) for name in ("run.json", "config.json"))
    rows = _read_rows(folder / "metrics.jsonl", problems)
    files = {path.stem: _read_json(path, problems) for path in sorted(folder.glob("evaluation/*.json"))}
    pictures = {path.stem: path for path in sorted(folder.glob("evaluation/*.png"))}
    if not (run or config or rows or files or pictures):
        raise UserError(f"'{folder}' holds no run.json, config.json, metrics.jsonl or evaluation; give the --workdir "
                        "of a run")
    tables, step = _tables(files.pop("tables", {}), files.get("scores", {}), problems)
    shown = {picture.name for table in tables for picture in table.pictures}
    body = "".join([
        sections.head(folder, run, rows), sections.problems(problems), sections.facts(run, rows, tables),
        sections.curves(rows, tables), sections.results(tables, step, pictures),
        sections.other_results(_in_no_table(files, tables),
                               [path for name, path in pictures.items() if name not in shown]),
        sections.data(run), sections.config(config), sections.versions(run)])
    atomic.write(folder / "report.html", html.page(sections.title(folder, run), body).encode())
    return folder / "report.html"


def _read_json(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return {}
    return values if isinstance(values, dict) else {"value": values}


def _read_rows(path: pathlib.Path, problems: list[str]) -> list[dict[str, Any]]:
    rows, damaged = rows_and_damage(path) if path.exists() else ([], [])
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
        except (KeyError, TypeError, ValueError) as error:
            problems.append(f"tables.json could not be read: {error}")
    return tables_of_scores(scores), scores.get("step")


def _in_no_table(files: Mapping[str, Mapping[str, Any]], tables: Sequence[Table]) -> dict[str, Any]:
    """Returns 'file: a/b' -> value for the values in evaluation/*.json (file stem -> content) that no table holds."""
    in_tables = {("scores", "/".join(cell.path)) for table in tables for cell in table.cells()}
    return {f"{file}: {name}": value for file, content in files.items() for name, value in flatten(content, "/").items()
            if name != "step" and (file, name) not in in_tables}
