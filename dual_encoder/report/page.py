"""One static HTML page about a run, from the files in its workdir alone: no scripts, no links, pictures inside."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from dual_encoder.config import flatten
from dual_encoder.errors import one_line
from dual_encoder.evaluation.table import Table
from dual_encoder.report import calibration, html, sections
from dual_encoder.report.run_files import read_run
from dual_encoder.report.run_time import run_time
from dual_encoder.storage import atomic
from dual_encoder.workdir import calibration as calibration_file


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
    """Writes WORKDIR/report.html and returns its path.

    The page leaves out files that are missing, and names those that cannot be read, that hold values of a wrong type,
    or that differ from their digest.

    Args:
      workdir: local folder of a run.

    Raises:
      UserError: there is no such folder, it holds no file of a run, or it cannot be written to.
    """
    found = read_run(workdir)
    run, rows, tables, problems = found.run, found.rows, found.tables, found.problems
    shown = {str(picture.name) for table in tables for picture in table.pictures}

    def part(source: str, make: Callable[[], Markup]) -> Markup:
        """Returns a section, or nothing if its files hold values that it cannot show."""
        try:
            return make()
        except Exception as error:
            problems.append(f"{source} could not be shown: {type(error).__name__}: {one_line(error)}")
            return Markup("")

    parts = [
        part("the headlines", lambda: sections.facts(run, rows, tables, run_time(rows, found.config))),
        part("the curves of metrics.jsonl", lambda: sections.curves(rows, tables, found.quick)),
        part("the results", lambda: sections.results(tables, found.step, found.pictures)),
        part("the calibration", lambda: _calibration(found.folder)),
        part("other results", lambda: sections.other_results(
            _in_no_table(found.files, tables), [path for name, path in found.pictures.items() if name not in shown])),
        part("the data set of run.json", lambda: sections.data(run)),
        part("config.json", lambda: sections.config(found.config)),
        part("the versions of run.json", lambda: sections.versions(run))]
    body = html.join([sections.head(found.folder, run, rows), html.warning(problems), *parts])
    page = html.page(sections.title(found.folder, run), body)
    atomic.write(found.folder / "report.html", page.encode(errors="replace"))  # JSON may hold half a surrogate pair
    return found.folder / "report.html"


def _calibration(folder: pathlib.Path) -> Markup:
    found = calibration_file.read(folder)
    return calibration.section(found) if found else Markup("")


def _in_no_table(files: Mapping[str, Mapping[str, Any]], tables: Sequence[Table]) -> dict[str, Any]:
    """Returns 'file: a/b' -> value for the values in evaluation/*.json (file stem -> content) that no table holds."""
    in_tables = {("scores", "/".join(cell.path)) for table in tables for cell in table.cells()}
    return {f"{file}: {name}": value for file, content in files.items() for name, value in flatten(content, "/").items()
            if name != "step" and (file, name) not in in_tables}
