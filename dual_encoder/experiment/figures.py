"""The figures of an experiment as SVG: scores against the number of labels, and a forest plot of differences."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dual_encoder.evaluation.comparison import Interval
from dual_encoder.experiment.analysis import Difference, Mean
from dual_encoder.experiment.plan import percent
from dual_encoder.report.curves import COLOURS, GRID, QUIET, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = "osD^vPX*"
_WORDS = {"gain": COLOURS[2], "loss": COLOURS[1], "no difference that matters": COLOURS[0], "can't tell": COLOURS[6]}


def label_efficiency(title: str, metric: str, means: Sequence[Mean]) -> bytes:
    """Draws a curve per initialisation: the score against the share of the labels, with its 95 % interval as a band.

    With one share the intervals are bars, side by side.

    Args:
      title: of the figure.
      metric: of the axis.
      means: of one task.

    Returns:
      an SVG document; equal input gives equal bytes.
    """
    with drawing(title.replace("_", " "), (6.6, 3.8)) as (axes, svg):
        names = list(dict.fromkeys(mean.initialisation for mean in means))
        for number, name in enumerate(names):
            known: list[tuple[float, Interval]] = sorted(
                ((mean.fraction, mean.score) for mean in means if mean.initialisation == name and mean.score),
                key=lambda pair: pair[0])
            shares = [100 * fraction for fraction, _ in known]
            colour = COLOURS[number % len(COLOURS)]
            if len(known) == 1:
                shares = [shares[0] + 0.04 * shares[0] * (number - (len(names) - 1) / 2)]
                axes.vlines(shares, known[0][1].low, known[0][1].high, color=colour, linewidth=1.5)
            axes.plot(shares, [score.value for _, score in known], color=colour, label=name.replace("_", " "),
                      marker=_MARKS[number % len(_MARKS)], markersize=5, linewidth=1.5)
            axes.fill_between(shares, [score.low for _, score in known], [score.high for _, score in known],
                              color=colour, alpha=0.13, linewidth=0)
        shares = sorted({100 * mean.fraction for mean in means})
        if len(shares) > 1:
            axes.set_xscale("log")
        axes.set_xticks(shares, [f"{share:g} %" for share in shares])
        axes.minorticks_off()
        if len(shares) == 1:
            axes.set_xlim(0.8 * shares[0], 1.2 * shares[0])
        axes.set_xlabel("labelled places")
        axes.set_ylabel(metric)
        axes.legend(frameon=False, fontsize=8)
    return svg.getvalue()


def forest(title: str, differences: Sequence[Difference], margin: float) -> bytes:
    """Draws each paired difference with its 95 % interval; the grey band holds differences that do not matter.

    Args:
      title: of the figure.
      differences: from top to bottom.
      margin: half the width of the band.

    Returns:
      an SVG document; equal input gives equal bytes.
    """
    shown = [one for one in differences if one.comparison]
    with drawing(title, (7.6, 1.1 + 0.27 * len(shown))) as (axes, svg):
        axes.axvspan(-margin, margin, color=GRID)
        axes.axvline(0, color=QUIET, linewidth=1)
        for row, one in enumerate(shown):
            assert one.comparison is not None
            found, colour = one.comparison.difference, _WORDS[one.verdict]
            axes.plot([found.low, found.high], [row, row], color=colour, linewidth=2)
            axes.plot([found.value], [row], color=colour, marker="o", markersize=5)
        axes.set_yticks(range(len(shown)), [
            f"{one.first} − {one.second}, {one.task}, {percent(one.fraction)}".replace("_", " ") for one in shown])
        axes.tick_params(axis="y", labelsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("difference")
        _key(axes, {word: colour for word, colour in _WORDS.items() if any(one.verdict == word for one in shown)})
    return svg.getvalue()


def _key(axes: "Axes", colours: Mapping[str, str]) -> None:
    """Adds a legend of colours below the axes."""
    lines = [axes.plot([], [], color=colour, marker="o", linewidth=2, label=word)[0]
             for word, colour in colours.items()]
    axes.figure.legend(handles=lines, frameon=False, fontsize=8, loc="outside lower left", ncols=4)
