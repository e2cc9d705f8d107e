"""The pieces of a page, as HTML without links; the templates are in templates/, and they escape all text."""

import base64
import functools
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from dual_encoder.evaluation.table import Table, Unit, Value
from dual_encoder.imagery.palette import class_colours
from dual_encoder.report.curves import Panel, plot


class Fact(NamedTuple):
    """A number that a reader looks for first.

    Attributes:
      value, title: the number and its meaning.
      chance: the number that chance gives, as text; '' if it is unknown.
      better: the value is better than that of chance.
    """

    value: str
    title: str
    chance: str = ""
    better: bool = True


def page(title: str, body: Markup, sortable: bool = False) -> str:
    """Returns a whole document. It loads nothing, and runs no script but the one that sorts tables.

    Args:
      title: plain text.
      body: HTML.
      sortable: the headings of sortable tables get a script.
    """
    script = _source("sort.js") if sortable else ""
    allowed = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else "'none'"
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
    return _templates().get_template("page.html").render(title=title, body=body, script=Markup(script), policy=policy)


def join(parts: Iterable[Markup]) -> Markup:
    """Returns pieces one after the other."""
    return Markup("").join(parts)


def section(title: str, content: Markup) -> Markup:
    """Returns a section of the page, or nothing if `content` is empty."""
    return _part("section", title, content) if content else Markup("")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], quiet: int = 0, colours: Sequence[str] = (),
          sortable: bool = False) -> Markup:
    """Returns a table, or nothing if there are no rows.

    Args:
      header: one cell per column, or none. With a header, all cells after the first are right-aligned.
      rows: the cells, as plain text or numbers.
      quiet: number of last rows in grey.
      colours: CSS colours shown before the first cells, for as many rows.
      sortable: a click on a heading sorts the rows.
    """
    return _part("table", header, rows, quiet, colours, sortable) if rows else Markup("")


def results_table(results: Table) -> Markup:
    """Returns a table of results, its references in grey; an arrow in the heading points to the better values."""
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    header = [results.row_title, *(column.title + arrows[column.better] for column in results.columns)]
    rows = [[row.title, *(value_text(value, column.unit)
                          for value, column in zip(row.values, results.columns, strict=True))]
            for row in (*results.rows, *results.references)]
    colours = [f"rgb{colour}" for colour in class_colours(len(results.rows), results.colours)
               ] if results.class_colours else []
    return table(header, rows, quiet=len(results.references), colours=colours)


def facts(tiles: Sequence[Fact]) -> Markup:
    """Returns the numbers that a reader looks for first, or nothing if there are none."""
    return _part("facts", tiles) if tiles else Markup("")


def plots(panels: Mapping[str, Panel], events: Sequence[tuple[int, str]]) -> Markup:
    """Returns curves.

    Args:
      panels: title -> content.
      events: (step, what happened), each a dotted line in every panel.
    """
    if not panels:
        return Markup("")
    images = join(image(plot(title, panel, [step for step, _ in events]), "image/svg+xml", title)
                  for title, panel in panels.items())
    marks = ", ".join(f"{name} at step {step:,}" for step, name in events)
    return _part("curves", images) + (note(f"Dotted upright lines: {marks}.") if marks else Markup(""))


def figure(title: str, png: bytes, name: str, caption: str) -> Markup:
    """Returns a picture (a PNG file) with a heading and a caption, both plain text."""
    return _part("figure", title, image(png, "image/png", name), caption)


def drawing(svg: bytes, alt: str) -> Markup:
    """Returns a drawing as wide as its section."""
    return _part("wide", image(svg, "image/svg+xml", alt))


def drawings(svgs: Mapping[str, bytes]) -> Markup:
    """Returns small drawings side by side, by their descriptions for people who do not see them."""
    return _part("curves", join(image(svg, "image/svg+xml", alt) for alt, svg in svgs.items()))


def image(data: bytes, kind: str, alt: str) -> Markup:
    """Returns a picture that the page contains, as MIME type `kind`."""
    return _part("image", f"data:{kind};base64,{base64.b64encode(data).decode()}", alt)


def heading(title: str, below: str = "", command: str = "") -> Markup:
    """Returns the title of a page, with a line and a command below it."""
    return _part("heading", title, below, command)


def subheading(content: str) -> Markup:
    """Returns a heading within a section."""
    return _part("subheading", content)


def note(content: str) -> Markup:
    """Returns a paragraph of small print."""
    return _part("note", content)


def points(lines: Sequence[str]) -> Markup:
    """Returns a list with a point for each line."""
    return _part("points", lines)


def warning(lines: Sequence[str]) -> Markup:
    """Returns a warning with a line for each problem, or nothing if there is none."""
    return _part("warning", lines) if lines else Markup("")


def details(summary: str, content: Markup) -> Markup:
    """Returns content that is folded below its summary."""
    return _part("details", summary, content)


def value_text(value: Value, unit: Unit) -> str:
    """Returns a number as its unit is written; a dash for None."""
    if value is None:
        return "–"
    return {"share": f"{value:.3f}", "percent": f"{value:.1%}"}.get(unit) or number_text(value)


def number_text(value: Any) -> str:
    """Returns four significant digits, with thousands separated; a dash for None; any other value as it is."""
    if value is None:
        return "–"
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def _part(name: str, *values: Any) -> Markup:
    """Returns a macro of parts.html, filled in."""
    return Markup(getattr(_templates().get_template("parts.html").module, name)(*values))


def _source(name: str) -> str:
    """Returns a template as it is."""
    loader = _templates().loader
    assert loader is not None
    return loader.get_source(_templates(), name)[0].strip()


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.PackageLoader("dual_encoder.report"), autoescape=True,
                              undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
