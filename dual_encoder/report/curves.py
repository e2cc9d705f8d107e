"""Curves of metrics as SVG pictures."""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Series = tuple[Sequence[float], Sequence[float]]  # steps and values

_POINTS = 500  # of a curve, at most
_SHORT = 20  # characters of a label
_COLOURS = ("#1f5fa8", "#d1622b", "#2f8f5b", "#8a4fa3", "#b8962e", "#5b6770", "#c23b5a", "#2a9d9d")


def plot(title: str, lines: Mapping[str, Series], marks: Sequence[int]) -> bytes:
    """Draws one panel. Equal input gives equal bytes.

    Args:
      title: of the panel.
      lines: label -> steps and values. A value that is not finite leaves a gap. A single line has no legend.
      marks: steps of events, as of a resumed run; each is a dotted line.

    Returns:
      an SVG document.
    """
    with drawing(title, (4.4, 2.5)) as (axes, svg):
        for number, (label, series) in enumerate(lines.items()):
            steps, values = thin(*series)
            axes.plot(steps, values, color=_COLOURS[number % len(_COLOURS)], linewidth=1.4, label=_plain(label),
                      marker="o" if len(steps) <= 30 else None, markersize=3)
        for step in marks:
            axes.axvline(step, color="#b9541b", linestyle=":", linewidth=1)
        if len(lines) > 1:
            two = len(lines) > 4 and max(map(len, lines)) <= _SHORT  # two columns of long labels leave no panel
            axes.legend(frameon=False, fontsize=8, ncols=2 if two else 1)
        axes.set_xlabel("step", color="#5c6b7a")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return svg.getvalue()


@contextlib.contextmanager
def drawing(title: str, size: tuple[float, float]) -> Iterator[tuple[Axes, io.BytesIO]]:
    """Gives axes to draw on, and a buffer that holds them as an SVG document when the block ends.

    Args:
      title: of the picture. Equal titles and drawings give equal bytes.
      size: width and height in inches.
    """
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9,
                                "font.family": "sans-serif", "axes.edgecolor": "#b4bec8"}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(_plain(title), fontsize=10, loc="left", color="#1d2733")
        axes.grid(color="#edf0f3")
        axes.spines[["top", "right"]].set_visible(False)
        svg = io.BytesIO()
        yield axes, svg
        figure.savefig(svg, format="svg", metadata={"Date": None})


def thin(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Returns a series with at most 500 points: means over equal blocks of rows. A shorter series is unchanged."""
    size = math.ceil(len(steps) / _POINTS)
    blocks = [slice(start, start + size) for start in range(0, len(steps), size)]
    return [sum(steps[b]) / len(steps[b]) for b in blocks], [sum(values[b]) / len(values[b]) for b in blocks]


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib reads $...$ as a formula
