"""Curves of metrics as SVG pictures."""

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = tuple[Sequence[float], Sequence[float]]  # steps and values


@dataclasses.dataclass
class Panel:
    """The content of one panel.

    Attributes:
      lines: label -> steps and values. A value that is not finite leaves a gap. A single line has no legend.
      training: the same of training records, for some labels of `lines`; dashed, in the colour of that line.
      levels: label -> a value to compare with, such as that of chance; a dotted line across the panel.
    """

    lines: dict[str, Series] = dataclasses.field(default_factory=dict)
    training: dict[str, Series] = dataclasses.field(default_factory=dict)
    levels: dict[str, float] = dataclasses.field(default_factory=dict)


INK, QUIET, GRID, EDGE = "#1d2733", "#5c6b7a", "#edf0f3", "#b4bec8"
# Of lines, at least 3:1 against a white and against a dark panel; neighbours differ in lightness, too.
COLOURS = ("#0b72b9", "#cf5a0a", "#128a68", "#b0588f", "#8a7300", "#5b7fd0", "#77808a", "#c23b5a")
_STYLES = ("-", (0, (6, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
_POINTS = 500  # of a curve, at most
_SHORT = 20  # characters of a label
# A reader in dark mode sees these colours instead; the page shows through.
_DARK = "".join(f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}' for light, dark in (
    (INK, "#e6ebf0"), (QUIET, "#a9b5c0"), (GRID, "#2a343e"), (EDGE, "#4a5763"), ("#000000", "#c5ced7"))
    for kind in ("fill", "stroke"))
_DARK_STYLE = f"<style>@media (prefers-color-scheme: dark){{text{{fill:#c5ced7}}{_DARK}}}</style>"


def plot(title: str, panel: Panel, marks: Sequence[int]) -> bytes:
    """Draws one panel. Equal input gives equal bytes.

    Args:
      title: of the panel.
      panel: its content.
      marks: steps of events, as of a resumed run; each is a dotted line.

    Returns:
      an SVG document.
    """
    labels = [*panel.lines, *panel.training, *panel.levels]
    columns = 2 if len(labels) > 4 and max(map(len, labels)) <= _SHORT else 1  # long labels need the whole width
    below = math.ceil(len(labels) / columns) if len(labels) > 3 else 0  # rows of a legend that would hide lines
    with drawing(title, (4.4, 2.7 + 0.18 * below)) as (axes, svg):
        for number, (label, series) in enumerate(panel.lines.items()):
            colour = COLOURS[number % len(COLOURS)]
            style = _STYLES[number // len(COLOURS) % len(_STYLES)]
            _line(axes, label, series, colour, style)
            if label in panel.training:
                _line(axes, f"{label}, training" if label else "training", panel.training[label], colour, "--")
        for label, value in panel.levels.items():
            axes.axhline(value, color=QUIET, linestyle=":", linewidth=1.3, label=_plain(label))
        for step in marks:
            axes.axvline(step, color="#b9541b", linestyle=":", linewidth=1)
        if below:
            axes.figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=columns)
        elif len(labels) > 1:
            axes.legend(frameon=False, fontsize=8)
        axes.set_xlabel("step", color=QUIET)
        axes.locator_params(axis="x", nbins=5, integer=True)
    return svg.getvalue()


def _line(axes: "Axes", label: str, series: Series, colour: str, style: Any) -> None:
    steps, values = thin(*series)
    axes.plot(steps, values, color=colour, linewidth=1.6, linestyle=style, label=_plain(label) or "validation",
              marker="o" if len(steps) <= 30 else None, markersize=3)


@contextlib.contextmanager
def drawing(title: str, size: tuple[float, float]) -> Iterator[tuple["Axes", io.BytesIO]]:
    """Gives axes to draw on, and a buffer that holds them as an SVG document when the block ends.

    Args:
      title: of the picture. Equal titles and drawings give equal bytes.
      size: width and height in inches.
    """
    import matplotlib  # here: it takes half a second to import, and most commands draw nothing
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9,
                                "font.family": "sans-serif", "axes.edgecolor": EDGE, "axes.labelcolor": QUIET,
                                "text.color": INK, "xtick.color": QUIET, "ytick.color": QUIET}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(_plain(title), fontsize=10, loc="left", color=INK)
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        svg, drawn = io.BytesIO(), io.BytesIO()
        yield axes, svg
        figure.savefig(drawn, format="svg", metadata={"Date": None}, transparent=True)
        svg.write(drawn.getvalue().replace(b"<defs>", _DARK_STYLE.encode() + b"<defs>", 1))


def thin(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Returns a series with at most 500 points: means over equal blocks of rows. A shorter series is unchanged."""
    size = math.ceil(len(steps) / _POINTS)
    blocks = [slice(start, start + size) for start in range(0, len(steps), size)]
    return [sum(steps[b]) / len(steps[b]) for b in blocks], [sum(values[b]) / len(values[b]) for b in blocks]


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib reads $...$ as a formula
