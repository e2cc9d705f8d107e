"""One HTML page that compares runs: the differences of their configurations, their scores, curves over each other."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from dual_encoder.config import flatten
from dual_encoder.evaluation.table import Table
from dual_encoder.report import html, sections
from dual_encoder.report.curves import Panel
from dual_encoder.report.run_files import RunFiles, read_run
from dual_encoder.report.run_time import run_time
from dual_encoder.storage import atomic

_ABSENT = "–"


def write_comparison(workdirs: Sequence[str], out: str | pathlib.Path) -> pathlib.Path:
    """Writes a page about several runs and returns its path.

    Args:
      workdirs: local folders of runs, two or more.
      out: the HTML file.

    Raises:
      UserError: a folder holds no run, or the page cannot be written.
    """
    runs = dict(zip(_names(workdirs), map(read_run, workdirs), strict=True))
    problems = [f"{name}: {problem}" for name, run in runs.items() for problem in run.problems]
    changed = _changed({name: run.config for name, run in runs.items()})
    body = html.join([
        html.heading(f"Comparison of {len(runs)} runs", "A click on a heading sorts the rows."),
        html.warning(problems), _overview(runs, changed), _scores(runs), html.section("Curves", _curves(runs)),
        _data(runs)])
    atomic.write(out, html.page(f"Comparison of {len(runs)} runs", body, sortable=True).encode(errors="replace"))
    return pathlib.Path(out)


def _names(workdirs: Sequence[str]) -> list[str]:
    """Returns a name for each run: its path without the folders that all of them share."""
    paths = [os.path.abspath(path) for path in workdirs]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [os.path.relpath(path, shared) for path in paths]
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, start=1)]


def _changed(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Returns key -> its value in each run, of the keys in which the runs differ."""
    flat = [{key: json.dumps(value) for key, value in flatten(config).items()} for config in configs.values()]
    keys = sorted(set().union(*flat))
    values = {key: [one.get(key, _ABSENT) for one in flat] for key in keys}
    return {key: of_runs for key, of_runs in values.items() if len(set(of_runs)) > 1}


def _overview(runs: Mapping[str, RunFiles], changed: Mapping[str, Sequence[str]]) -> Markup:
    """Returns a row per run: its headlines, its time, and the keys in which the runs differ."""
    lines = [{line.title: line.value for line in sections.headlines(run.tables)} for run in runs.values()]
    titles = list(dict.fromkeys(title for line in lines for title in line))
    rows = []
    for number, (name, run) in enumerate(runs.items()):
        time = run_time(run.rows, run.config)
        loss = sections.series(run.rows, "train").get("loss", ([], []))[1]
        rows.append([name, *(lines[number].get(title, _ABSENT) for title in titles),
                     html.number_text(loss[-1] if loss else None), html.number_text(run.step),
                     html.number_text(None if time.training is None else round(time.training, 1)),
                     *(values[number] for values in changed.values())])
    header = ["run", *titles, "last loss", "step of the scores", "training, seconds", *changed]
    same = html.note("The configurations are the same." if not changed else
                     f"{len(changed)} keys of the configurations differ; they are the last columns.")
    return html.section("Runs", html.table(header, rows, sortable=True) + same)


def _scores(runs: Mapping[str, RunFiles]) -> Markup:
    """Returns all scores with a better direction: a table for each table of results, a row per run and row."""
    names: dict[tuple[str, str], list[tuple[str, Table]]] = {}
    for name, run in runs.items():
        for table in run.tables:
            names.setdefault((table.title, table.name), []).append((name, table))
    content: dict[str, list[Markup]] = {}
    for (title, _), of_runs in names.items():
        columns = {column.name: column for _, table in of_runs for column in table.columns if column.better}
        if not columns:
            continue
        rows = []
        for name, table in of_runs:
            at = {column.name: index for index, column in enumerate(table.columns)}
            rows += [[name, row.title, *(html.value_text(row.values[at[key]], column.unit) if key in at else _ABSENT
                                         for key, column in columns.items())] for row in table.rows]
        arrows = {"higher": "↑", "lower": "↓", None: ""}
        header = ["run", of_runs[0][1].row_title or "of",
                  *(f"{column.title} {arrows[column.better]}" for column in columns.values())]
        content.setdefault(title, []).append(html.table(header, rows, sortable=True))
    return html.join(html.section(title, html.join(tables)) for title, tables in content.items())


def _curves(runs: Mapping[str, RunFiles]) -> Markup:
    """Returns the loss, the learning rate and the headlines of all runs, over each other."""
    panels: dict[str, Panel] = {}
    for name, run in runs.items():
        train = sections.series(run.rows, "train")
        for key in ("loss", "learning_rate"):
            if len(train.get(key, ((), ()))[0]) > 1:
                panels.setdefault(f"training: {key.replace('_', ' ')}", Panel()).lines[name] = train[key]
        for kind, what in (("eval", "evaluation"), ("select", "choice")):
            scored = sections.series(run.rows, kind)
            for table in run.tables:
                for line in table.headlines:
                    path = next("/".join(cell.path) for cell in table.cells()
                                if (cell.row.name, cell.column.name) == (line.row, line.column))
                    if len(scored.get(path, ((), ()))[0]) > 1:
                        panel = panels.setdefault(f"{what}: {line.title}", Panel())
                        panel.lines[name] = scored[path]
                        if chance := table.by_chance(line.row, line.column):
                            panel.levels[chance[0]] = chance[1]
    return html.plots(panels, [])


def _data(runs: Mapping[str, RunFiles]) -> Markup:
    """Returns data set, code and start of each run."""
    rows = []
    for name, run in runs.items():
        data = run.run.get("dataset", {})
        rows.append([name, str(run.run.get("task", _ABSENT)),
                     " ".join(str(data[key]) for key in ("name", "config", "version") if key in data) or _ABSENT,
                     str(data.get("fingerprint", _ABSENT))[:12], str(run.run.get("started", _ABSENT)),
                     str(run.run.get("versions", {}).get("dual_encoder", _ABSENT))])
    return html.section("Data and code", html.table(["run", "task", "data set", "fingerprint", "started", "version"],
                                                    rows, sortable=True))
