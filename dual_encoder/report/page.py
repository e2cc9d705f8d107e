"""One static HTML page about a run, from the files in its workdir alone: no scripts, no links, pictures inside."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dual_encoder.config import flatten
from dual_encoder.errors import UserError, one_line
from dual_encoder.evaluation.table import Table
from dual_encoder.report import html, sections
from dual_encoder.report.old_scores import tables_of_scores
from dual_encoder.report.run_facts import well_formed
from dual_encoder.storage import atomic
from dual_encoder.workdir import digests
from dual_encoder.workdir.metrics import rows_and_damage


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes WORKDIR/report.html and returns its path.

    Reads config.json, run.json, metrics.jsonl, evaluation/*.{json,png,txt} and curves/*.json. The page leaves out files
    that are missing, and names those that cannot be read, that hold values of a wrong type, or that differ from their
    digest.

    Args:
      workdir: local folder of a run.

    Raises:
      UserError: there is no such folder, it holds no file of a run, or it cannot be written to.
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
    shown = {str(picture.name) for table in tables for picture in table.pictures}

    def part(source: str, make: Callable[[], str]) -> str:
        """Returns a section, or nothing if its files hold values that it cannot show."""
        try:
            return make()
        except Exception as error:
            problems.append(f"{source} could not be shown: {type(error).__name__}: {one_line(error)}")
            return ""

    parts = [
        part("the headlines", lambda: sections.facts(run, rows, tables)),
        part("the curves of metrics.jsonl", lambda: sections.curves(rows, tables, quick)),
        part("the results", lambda: sections.results(tables, step, pictures)),
        part("other results", lambda: sections.other_results(
            _in_no_table(files, tables), [path for name, path in pictures.items() if name not in shown])),
        part("the data set of run.json", lambda: sections.data(run)),
        part("config.json", lambda: sections.config(config)),
        part("the versions of run.json", lambda: sections.versions(run))]
    body = "".join([sections.head(folder, run, rows), sections.problems(problems), *parts])
    page = html.page(sections.title(folder, run), body)
    atomic.write(folder / "report.html", page.encode(errors="replace"))  # JSON may hold half a surrogate pair
    return folder / "report.html"


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


def _in_no_table(files: Mapping[str, Mapping[str, Any]], tables: Sequence[Table]) -> dict[str, Any]:
    """Returns 'file: a/b' -> value for the values in evaluation/*.json (file stem -> content) that no table holds."""
    in_tables = {("scores", "/".join(cell.path)) for table in tables for cell in table.cells()}
    return {f"{file}: {name}": value for file, content in files.items() for name, value in flatten(content, "/").items()
            if name != "step" and (file, name) not in in_tables}
