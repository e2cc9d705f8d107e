"""The tables of an experiment as plain cells, in Markdown and in LaTeX."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from dual_encoder.config import flatten
from dual_encoder.evaluation.comparison import Interval
from dual_encoder.experiment.analysis import Difference, Mean
from dual_encoder.experiment.beside import OtherScore
from dual_encoder.experiment.plan import percent
from dual_encoder.experiment.results import Results
from dual_encoder.workdir.scores import read_scores

_ESCAPED = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
            "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$"}


@dataclasses.dataclass(frozen=True)
class TextTable:
    """A table of text.

    Attributes:
      title: heading.
      head: of the columns.
      rows: the cells.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def score_tables(results: Results, means: Sequence[Mean]) -> list[TextTable]:
    """Returns a table per task: initialisations by fractions. A mark counts the cells that are missing."""
    tables = []
    for task in results.plan.tasks:
        fractions = results.plan.fractions_of(task)
        rows = []
        for one in results.plan.taking_part(task):
            mine = {mean.fraction: mean for mean in means if (mean.task, mean.initialisation) == (task.name, one.name)}
            rows.append((one.name, *(_score(mine[fraction]) for fraction in fractions)))
        tables.append(TextTable(f"{task.name}: {task.metric}",
                                ("initialisation", *(f"{percent(fraction)} of the labels" for fraction in fractions)),
                                tuple(rows)))
    return tables


def difference_table(differences: Sequence[Difference]) -> TextTable:
    """Returns a row per comparison, with its verdict in words."""
    return TextTable("Paired differences", ("task", "labels", "first − second", "difference", "95 % interval",
                                            "of places alone", "p (Holm)", "verdict"),
                     tuple((one.task, percent(one.fraction), f"{one.first} − {one.second}",
                            *_difference(one), f"{one.verdict}: {one.reason}" + _left_out(one)) for one in differences))


def pretraining_table(results: Results, out: pathlib.Path) -> TextTable:
    """Returns rows per pre-training run: retrieval among the held-out places, and among those of other groups."""
    rows = []
    for cell in results.cells:
        if cell.kind == "pretrain" and results.outcomes[cell.name].state == "done":
            scores = read_scores(out / cell.name)
            for path in scores:
                if path.endswith("/recall@1") and ("_of_" not in path or path.startswith("groups/")
                                                   and "_of_largest/" in path):
                    group, recall = path.removesuffix("/recall@1"), scores[path]
                    gallery = scores[f"{group}/gallery_size"]
                    title = group.removesuffix("_of_largest").replace("groups/", "other groups: ").replace("_", " ")
                    rows.append((cell.initialisation.name, str(cell.fold), str(cell.seed),
                                 title, f"{recall:.3f}", f"{gallery:,}", f"{recall * gallery:.1f}"))
    return TextTable("Pre-training: retrieval of the held-out places", (
        "initialisation", "fold", "seed", "gallery", "recall@1", "size", "times chance"), tuple(rows))


def settings_table(results: Results) -> TextTable:
    """Returns how often each group of candidate settings was the best, by task and initialisation."""
    rows = []
    for task in results.plan.tasks:
        for one in results.plan.taking_part(task) if task.candidates else ():
            used: dict[str, int] = {}
            for cell in results.cells:
                if cell.kind == "score" and cell.task == task and cell.initialisation == one:
                    config = flatten(results.outcomes[cell.name].config)
                    for candidate in task.candidates:
                        keys = flatten(candidate)
                        if config and all(config.get(key) == value for key, value in keys.items()):
                            name = ", ".join(f"{key} {value}" for key, value in keys.items())
                            used[name] = used.get(name, 0) + 1
            rows.append((task.name, one.name, "; ".join(f"{name}: {count} cells" for name, count in used.items())))
    return TextTable("Settings that were the best on validation", ("task", "initialisation", "settings"), tuple(rows))


def missing_table(results: Results) -> TextTable:
    """Returns the cells that have failed or are not done."""
    return TextTable("Missing cells", ("cell", "state", "reason"), tuple(
        (cell.name, results.outcomes[cell.name].state, results.outcomes[cell.name].message)
        for cell in results.cells if results.outcomes[cell.name].state != "done"))


def beside_table(scores: Sequence[OtherScore]) -> TextTable:
    """Returns a row per score, sorted by data set, protocol and model; models of one protocol stand together."""
    rows = [(one.dataset, one.protocol, one.name, one.metric, "–" if math.isnan(one.value) else f"{one.value:.3f}",
             "[{:.3f}, {:.3f}]".format(*one.interval) if one.interval else "–", one.images, one.seed)
            for one in sorted(scores, key=lambda one: (one.dataset, one.protocol, one.metric, one.name))]
    return TextTable("Beside: results of torchgeo-bench", ("data set", "protocol", "model", "metric", "score",
                                                           "95 % of images", "test images", "seed"), tuple(rows))


def markdown(tables: Sequence[TextTable]) -> str:
    """Returns tables in Markdown."""
    parts = []
    for table in tables:
        lines = [f"## {table.title}", "", _line(table.head), _line(["---"] * len(table.head)), *map(_line, table.rows)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def latex(tables: Sequence[TextTable]) -> str:
    """Returns tables in LaTeX, each a `tabular` with lines of the package booktabs."""
    parts = []
    for table in tables:
        rows = [" & ".join(map(_tex, row)) + r" \\" for row in table.rows]
        parts.append("\n".join([f"% {table.title}", rf"\begin{{tabular}}{{{'l' * len(table.head)}}}", r"\toprule",
                                " & ".join(map(_tex, table.head)) + r" \\", r"\midrule", *rows, r"\bottomrule",
                                r"\end{tabular}"]) + "\n")
    return "\n".join(parts)


def _interval(score: Interval) -> str:
    """Returns '0.412 [0.390, 0.434]'."""
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _score(mean: Mean) -> str:
    if mean.score is None:
        return f"– ({len(mean.missing)} cells missing)"
    return _interval(mean.score) + f" ({len(mean.missing)} cells missing)" * bool(mean.missing)


def _difference(one: Difference) -> tuple[str, str, str, str]:
    if one.comparison is None:
        return "–", "–", "–", "–"
    found, places = one.comparison.difference, one.of_places
    return (f"{found.value:+.3f}", f"[{found.low:+.3f}, {found.high:+.3f}]",
            f"[{places.low:+.3f}, {places.high:+.3f}]" if places else "–", f"{one.p_value:.3f}")


def _left_out(one: Difference) -> str:
    return f" (without {one.left_out} seeds, whose cells are missing)" if one.left_out else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _tex(cell: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in cell)


def tables_of(results: Results, means: Sequence[Mean], differences: Sequence[Difference], out: pathlib.Path
              ) -> list[TextTable]:
    """Returns all tables that have rows, in the order of the report."""
    tables = [*score_tables(results, means), difference_table(differences), pretraining_table(results, out),
              settings_table(results), missing_table(results)]
    return [table for table in tables if table.rows]
