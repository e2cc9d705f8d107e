"""The sections of the page about a run, each from what the workdir holds; a section without content is left out."""

import datetime
import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from dual_encoder.config import flatten
from dual_encoder.console import clock
from dual_encoder.evaluation.table import Cell, Table
from dual_encoder.report import html
from dual_encoder.report.curves import Panel, Series
from dual_encoder.report.run_time import RunTime

# The metrics of training in the order of the page, with their titles; others follow by name.
_FIRST = {"loss": "loss", "learning_rate": "learning rate", "grad_norm": "gradient norm", "temperature": "temperature",
          "pairs_per_second": "records per second", "data_wait": "share of time waiting for data"}


def title(folder: pathlib.Path, run: Mapping[str, Any]) -> str:
    """Returns task and data set, or the folder's name if they are unknown; plain text."""
    return " · ".join(str(part) for part in (run.get("task"), run.get("dataset", {}).get("config")) if part) or (
        folder.resolve().name)


def head(folder: pathlib.Path, run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Returns the title, the start of the run and its command."""
    parts = [f"workdir {folder.resolve().name}"]
    if "started" in run:
        parts.append(f"started {_time_text(run['started'])}")
    resumed = sum(row.get("event") == "resumed" for row in rows)
    if resumed:
        parts.append("resumed once" if resumed == 1 else f"resumed {resumed} times")
    return html.heading(title(folder, run), ", ".join(parts), run.get("command", ""))


def facts(run: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], tables: Sequence[Table], time: RunTime) -> Markup:
    """Returns the numbers that a reader looks for first: headlines beside chance, loss, time, size, devices."""
    shown = headlines(tables)
    train = series(rows, "train")
    if "loss" in train:
        steps, values = train["loss"]
        shown.append(html.Fact(html.number_text(values[-1]), f"loss at step {steps[-1]:,}"))
    if time.training is not None:
        total = f"; {_duration(time.total)} with evaluation and saving" if time.total is not None else ""
        shown.append(html.Fact(_duration(time.training), f"of training{total}"))
    rates = sorted(train["pairs_per_second"][1]) if "pairs_per_second" in train else []
    rate = _three_digits(rates[len(rates) // 2]) if rates else ""
    if time.steps_per_second is not None:
        shown.append(html.Fact(_three_digits(time.steps_per_second),
                               f"steps per second; {rate} records per second, median"))
    elif rate:
        shown.append(html.Fact(rate, "records per second, median"))
    if "parameters" in run:
        shown.append(html.Fact(f"{run['parameters'] / 1e6:.1f} M", "parameters"))
    if "devices" in run:
        devices = run["devices"]
        shown.append(html.Fact(f"{devices.get('count', '?')} × {devices.get('platform', '?').upper()}",
                               str(devices.get("kind", ""))))
    return html.facts(shown)


def headlines(tables: Sequence[Table]) -> list[html.Fact]:
    """Returns the headlines of tables, each with the value that chance gives."""
    found = []
    for table in tables:
        columns = {column.name: column for column in table.columns}
        for line in table.headlines:
            column, value = columns[line.column], table.value(line.row, line.column)
            chance, better = "", True
            if value is not None and (reference := table.by_chance(line.row, line.column)):
                better = value < reference[1] if column.better == "lower" else value > reference[1]
                chance = f"{reference[0]}: {html.value_text(reference[1], column.unit)}{', not better' * (not better)}"
            found.append(html.Fact(html.value_text(value, column.unit), line.title, chance, better))
    return found


def curves(rows: Sequence[Mapping[str, Any]], tables: Sequence[Table], quick: Sequence[Table]) -> Markup:
    """Returns the curves of training, and those of the evaluations during training.

    Args:
      rows: of metrics.jsonl.
      tables: of the last evaluation; they say how the metrics of 'eval' rows are grouped.
      quick: the same of 'quick_eval' rows.
    """
    events = [(row["step"], str(row.get("event", ""))) for row in rows
              if row["kind"] == "event" and row["step"] > 0 and "seconds" not in row]
    train = series(rows, "train")
    names = [name for name in _FIRST if name in train] + sorted(set(train) - set(_FIRST))
    panels = {_FIRST.get(name, name.replace("_", " ")): Panel({"": train[name]}) for name in names}
    whole, part, chosen = (html.plots(evaluation_panels(rows, of, kind), events)
                           for of, kind in ((tables, "eval"), (quick, "quick_eval"), (tables, "select")))
    if any(row["kind"] == "train_eval" for row in rows):
        dashed = html.note("Dashed: the same scores of training records. A solid line that turns away from its dashed "
                           "one shows that the model overfits.")
        whole, chosen = (content and content + dashed for content in (whole, chosen))
    return html.join([
        html.section("Evaluation during training", whole),
        html.section("Quick evaluation during training", part and part + html.note(
            "Of a part of the records: galleries are smaller than those of the whole evaluation.")),
        html.section("Scores that the checkpoint was chosen by", chosen),
        html.section("Training", html.plots(panels, events))])


def evaluation_panels(rows: Sequence[Mapping[str, Any]], tables: Sequence[Table], kind: str) -> dict[str, Panel]:
    """Returns title -> content of the rows of one kind: a panel per column of a table that has a better direction, with
    a line per row, that of training records, and chance. Metrics that are in no table are grouped by the first part of
    their name."""
    cells: dict[str, tuple[Table, Cell]] = {"/".join(cell.path): (table, cell)
                                            for table in tables for cell in table.cells()}
    titles = Counter(column.title for table in tables for column in table.columns if column.better)
    training = series(rows, "train_eval")
    panels: dict[str, Panel] = {}
    for name, values in series(rows, kind).items():
        if len(values[0]) == 1:
            continue  # a table says more than a curve of one point
        if name in cells:
            table, cell = cells[name]
            if not cell.column.better:
                continue
            shown = cell.column.title if titles[cell.column.title] == 1 else f"{table.title}: {cell.column.title}"
            panel, label = panels.setdefault(shown, Panel()), cell.row.title
            if chance := table.by_chance(cell.row.name, cell.column.name):
                panel.levels[chance[0]] = chance[1]
        else:
            first, _, label = name.partition("/")
            panel = panels.setdefault(first.replace("_", " "), Panel())
        panel.lines[label] = values
        if name in training:
            panel.training[label] = training[name]
    return panels


def results(tables: Sequence[Table], step: int | None, pictures: Mapping[str, pathlib.Path]
            ) -> Markup:
    """Returns a section per title of the tables, with their notes and pictures.

    Args:
      tables: of the last evaluation.
      step: of the checkpoint, if it is known.
      pictures: file stem -> PNG file. A text file beside it replaces the caption.
    """
    sections: dict[str, list[Table]] = {}
    for table in tables:
        sections.setdefault(table.title, []).append(table)
    page = []
    for name, group in sections.items():
        notes = [f"Checkpoint of step {html.number_text(step)}."] if step is not None else []
        notes += [table.note for table in group if table.note]
        if any(column.better for table in group for column in table.columns):
            notes.append("↑: higher is better; ↓: lower is better.")
        figures = [html.figure(picture.title, pictures[picture.name].read_bytes(), picture.name,
                               _caption(pictures[picture.name]) or picture.caption)
                   for table in group for picture in table.pictures if picture.name in pictures]
        page.append(html.section(name, html.join([
            *map(html.results_table, group), html.note(" ".join(notes)), *figures])))
    return html.join(page)


def other_results(values: Mapping[str, Any], pictures: Sequence[pathlib.Path]) -> Markup:
    """Returns the numbers (name -> value) and pictures that belong to no table."""
    figures = [html.figure(path.stem.replace("_", " "), path.read_bytes(), path.stem, _caption(path))
               for path in pictures]
    rows = [[name, html.number_text(value)] for name, value in values.items()]
    return html.section("Other results", html.join([html.table(["evaluation", "value"], rows), *figures]))


def data(run: Mapping[str, Any]) -> Markup:
    """Returns the data set and the sensors of a run."""
    dataset = run.get("dataset", {})
    records = dataset.get("records", {})
    rows = [["data set", " ".join(str(dataset[key]) for key in ("name", "config", "version") if key in dataset)],
            ["records", ", ".join(f"{split} {html.number_text(count)}" for split, count in records.items())],
            ["fingerprint", dataset.get("fingerprint", "")], ["classes", ", ".join(dataset.get("classes", ()))],
            *([key, value] for key, value in sorted(dataset.get("source", {}).items()))]
    content = html.table([], [row for row in rows if row[1]])
    for feature, spec in (run.get("sensors") or dataset.get("sensors", {})).items():
        shape = dataset.get("tensors", {}).get(feature, {}).get("shape")
        size = f", {' x '.join(str(n) for n in shape[:2])} px" if shape else ""
        content += html.subheading(f"{feature}: {spec['name']}{size}")
        content += html.note(f"Stored as {spec['dtype']}, no data = {spec['no_data']}; stored x {spec['scale']:g} = "
                             f"{spec['unit']}. Statistics in stored integers: {spec['provenance']}.")
        content += html.table(["band", *spec["bands"]], [["mean", *map(html.number_text, spec["mean"])],
                                                         ["std", *map(html.number_text, spec["std"])]])
    return html.section("Data", content)


def config(values: Mapping[str, Any]) -> Markup:
    """Returns the configuration, a row per key."""
    return html.section("Configuration",
                        html.table([], [[key, json.dumps(value)] for key, value in flatten(values).items()]))


def versions(run: Mapping[str, Any]) -> Markup:
    """Returns the versions of the packages."""
    return html.section("Versions", html.table([], [[key, value] for key, value in run.get("versions", {}).items()]))


def series(rows: Iterable[Mapping[str, Any]], kind: str) -> Mapping[str, Series]:
    """Returns metric -> (steps, values) of the rows of one kind; numbers only."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        if row["kind"] != kind:
            continue
        for name, value in row.items():
            if name not in ("step", "kind") and isinstance(value, int | float):
                steps, values = found.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(float(value))
    return found


def _three_digits(value: float) -> str:
    return html.number_text(float(f"{value:.3g}"))


def _duration(seconds: float) -> str:
    """Returns a duration as '95 s', '12:34 min' or '1:02:03 h'."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{clock(seconds)} {'h' if seconds >= 3600 else 'min'}"


def _caption(path: pathlib.Path) -> str:
    """Returns the text of the file beside a picture, or nothing."""
    beside = path.with_suffix(".txt")
    return beside.read_text(encoding="utf-8", errors="replace") if beside.exists() else ""


def _time_text(value: Any) -> str:
    """Returns '2026-11-23T10:00:00+01:00' as '2026-11-23 10:00:00 UTC+01:00'. Old runs have no offset."""
    try:
        return datetime.datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except ValueError:
        return str(value)
