"""The section about calibration.json: is the model as sure as it is right, and how far are its areas off?"""

import numpy as np
from markupsafe import Markup

from dual_encoder.evaluation.area_errors import LEVELS
from dual_encoder.evaluation.calibration import BINS, Reliability
from dual_encoder.evaluation.conformal import interval, places_needed
from dual_encoder.report import html
from dual_encoder.report.curves import COLOURS, QUIET, drawing
from dual_encoder.workdir.calibration import Calibration

_LEVEL = 0.9  # of the intervals that are shown
_EXAMPLE = 0.1  # a share


def section(found: Calibration) -> Markup:
    """Returns the section."""
    both = {"before": found.before, "after": found.after}
    errors = [["expected calibration error", *(f"{one.error:.4f}" for one in both.values())],
              ["negative log-likelihood", *(f"{one.nll:.4f}" for one in both.values())]]
    note = (f"Checkpoint of step {found.step:,}. {found.records:,} images of {found.data}, {found.pixels:,} labelled "
            f"pixels. After: the logits are divided by the temperature {found.temperature:.3f}. The classes of a map "
            "do not change. In the picture: of the pixels that the model is so sure of, the share that is right; on "
            "the dotted line both are equal. A larger point stands for more pixels.")
    header = ["size of an area", "places", "squares", *found.classes]
    rows = [[f"{area.side} px", html.number_text(area.places), html.number_text(area.squares),
             *(_around(value) for value in area.radii[LEVELS.index(_LEVEL)] or [None] * len(found.classes))]
            for area in found.areas]
    below = (f"In the table: the interval of {_LEVEL:.0%} of the true share where a map shows {_EXAMPLE:.0%}, by class "
             f"and by the size of the area; it needs {places_needed(_LEVEL)} places. In the pictures each point is an "
             "image, and the lines bound the interval of an area of that size.")
    return html.section("Calibration", html.join([
        html.table(["", *both], errors), html.drawings({"reliability diagram": _reliability(both)}), html.note(note),
        html.subheading("Errors of areas"), html.table(header, rows),
        html.drawings({f"shares of {name}": _shares(found, number) for number, name in enumerate(found.classes)}),
        html.note(below)]))


def _around(radius: float | None) -> str:
    if radius is None:
        return "too few places"
    low, high = interval(_EXAMPLE, radius)
    return f"{low:.1%} to {high:.1%}"


def _reliability(both: dict[str, Reliability]) -> bytes:
    """Draws accuracy over confidence."""
    with drawing("Sure and right", (4.4, 3.4)) as (axes, svg):
        axes.axline((0, 0), slope=1, color=QUIET, linestyle=":", linewidth=1.3)
        for colour, marker, (name, one) in zip(COLOURS, "os", both.items(), strict=False):
            counts = np.array(one.counts)
            full = counts > 0
            sizes = 8 + 60 * np.sqrt(counts[full] / counts.max())
            x, y = np.array(one.confidence)[full], np.array(one.accuracy)[full]
            axes.plot(x, y, color=colour, linewidth=1)
            axes.scatter(x, y, sizes, color=colour, marker=marker, label=f"{name}, error {one.error:.3f}")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(f"confidence, {BINS} bins", color=QUIET)
        axes.set_ylabel("share that is right", color=QUIET)
        axes.legend(frameon=False, fontsize=8)
    return svg.getvalue()


def _shares(found: Calibration, number: int) -> bytes:
    """Draws the true share of a class over the share in the map, an image each, with the intervals."""
    with drawing(f"Share of {found.classes[number]} in an image", (4.4, 3.4)) as (axes, svg):
        axes.axline((0, 0), slope=1, color=QUIET, linestyle=":", linewidth=1.3)
        if radii := found.areas[0].radii[LEVELS.index(_LEVEL)]:
            mapped = np.linspace(0, 1, 101)
            low, high = np.transpose([interval(share, radii[number]) for share in mapped.tolist()])
            for edge in (low, high):
                axes.plot(mapped, edge, color=COLOURS[1], linewidth=1.3)
        axes.plot([image.mapped[number] for image in found.shares], [image.true[number] for image in found.shares],
                  "o", color=COLOURS[0], markersize=3)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("in the map", color=QUIET)
        axes.set_ylabel("true", color=QUIET)
    return svg.getvalue()
