"""The pieces of a page: tables, pictures, curves, text and numbers, as HTML without scripts or links."""

import base64
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dual_encoder.evaluation.table import Table, Unit, Value
from dual_encoder.imagery.palette import class_colours
from dual_encoder.report.curves import Series, plot

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; background: #f5f7f9; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0; } h2 { font-size: 19px; margin: 0 0 12px; } h3 { font-size: 15px; margin: 18px 0 6px; }
section { background: #fff; border: 1px solid #e1e6eb; border-radius: 8px; padding: 18px 22px; margin-top: 18px; }
.sub, figcaption, .note { color: #5c6b7a; font-size: 13px; } .sub code { overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 18px; }
.facts div { background: #fff; border: 1px solid #e1e6eb; border-radius: 8px; padding: 10px 16px; }
.facts b { display: block; font-size: 21px; font-variant-numeric: tabular-nums; }
.facts span { color: #5c6b7a; font-size: 13px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 10px; }
img { max-width: 100%; height: auto; } figure { margin: 14px 0 0; }
.scroll { overflow-x: auto; } .scroll + .scroll { margin-top: 16px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid #edf0f3; }
th { color: #5c6b7a; font-weight: 600; font-size: 13px; } td { overflow-wrap: anywhere; }
td:first-child { white-space: nowrap; overflow-wrap: normal; }
td.number, th.number { text-align: right; white-space: nowrap; } tr.quiet td { color: #8a97a3; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin-right: 8px; }
.warning { background: #fff6e0; border-color: #ecd9a4; }
"""


def page(title: str, body: str) -> str:
    """Returns a whole document.

    Args:
      title: plain text.
      body: HTML.
    """
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
            f"<body><main>{body}</main></body></html>\n")


def section(title: str, content: str) -> str:
    """Returns a section of the page, or nothing if `content` (HTML) is empty."""
    return f"<section><h2>{text(title)}</h2>{content}</section>\n" if content else ""


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], quiet: int = 0, colours: Sequence[str] = ()) -> str:
    """Returns a table, or nothing if there are no rows.

    Args:
      header: one cell per column, or none. With a header, all cells after the first are right-aligned.
      rows: the cells, as plain text or numbers.
      quiet: number of last rows in grey.
      colours: CSS colours shown before the first cells, for as many rows.
    """
    if not rows:
        return ""
    kind = ' class="number"' if header else ""
    head = "".join(f"<th{kind if i else ''}>{text(cell)}</th>" for i, cell in enumerate(header))
    swatches = [f'<span class="swatch" style="background: {colour}"></span>' for colour in colours]
    swatches += [""] * (len(rows) - len(swatches))
    lines = [f'<tr{" class=quiet" if number >= len(rows) - quiet else ""}>' + "".join(
        f"<td{kind if i else ''}>{swatches[number] if i == 0 else ''}{text(cell)}</td>"
        for i, cell in enumerate(row)) + "</tr>" for number, row in enumerate(rows)]
    lines = ([f"<tr>{head}</tr>"] if header else []) + lines
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def results_table(results: Table) -> str:
    """Returns a table of results, its references in grey; an arrow in the heading points to the better values."""
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    header = [results.row_title, *(column.title + arrows[column.better] for column in results.columns)]
    rows = [[row.title, *(value_text(value, column.unit)
                          for value, column in zip(row.values, results.columns, strict=True))]
            for row in (*results.rows, *results.references)]
    colours = [f"rgb{colour}" for colour in class_colours(len(results.rows), results.colours)
               ] if results.class_colours else []
    return table(header, rows, quiet=len(results.references), colours=colours)


def plots(panels: Mapping[str, Mapping[str, Series]], events: Sequence[tuple[int, str]]) -> str:
    """Returns curves.

    Args:
      panels: title -> label of a line -> steps and values.
      events: (step, what happened), each a dotted line in every panel.
    """
    if not panels:
        return ""
    images = "".join(image(plot(title, lines, [step for step, _ in events]), "image/svg+xml", title)
                     for title, lines in panels.items())
    marks = ", ".join(f"{name} at step {step:,}" for step, name in events)
    return f'<div class="curves">{images}</div>' + (note(f"Dotted lines: {marks}.") if marks else "")


def figure(title: str, png: bytes, name: str, caption: str) -> str:
    """Returns a picture (a PNG file) with a heading and a caption, both plain text."""
    return (f"<h3>{text(title)}</h3><figure>{image(png, 'image/png', name)}<figcaption>{text(caption)}</figcaption>"
            "</figure>")


def image(data: bytes, kind: str, alt: str) -> str:
    """Returns a picture that the page contains, as MIME type `kind`."""
    return f'<img alt="{text(alt)}" src="data:{kind};base64,{base64.b64encode(data).decode()}">'


def note(content: str) -> str:
    """Returns a paragraph of small print from plain text."""
    return f'<p class="note">{text(content)}</p>'


def text(value: Any) -> str:
    """Returns a value as text that cannot be read as HTML."""
    return html.escape(str(value))


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
