"""The report of an experiment: report.html, and the same tables as CSV, Markdown and LaTeX."""

import pathlib
from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from dual_encoder.console import clock
from dual_encoder.experiment.analysis import Difference, differences, means
from dual_encoder.experiment.beside import OtherScore
from dual_encoder.experiment.figures import forest, label_efficiency
from dual_encoder.experiment.panels import disagreements
from dual_encoder.experiment.plan import percent
from dual_encoder.experiment.results import Results, per_image, tidy
from dual_encoder.experiment.tables import TextTable, beside_table, latex, markdown, tables_of
from dual_encoder.report import html
from dual_encoder.storage import atomic

_METHOD = (
    "Scores are of all test images together, from one sum of counts. Intervals are 95 % over groups of images "
    "({groups}) and over seeds: the variance over groups by bootstrap, that over seeds from their scores, "
    "together with Student's t. Both initialisations of a comparison see the same images, labels and order of the "
    "data for each seed. p-values are two-sided, by exchanging the two models at whole groups, and corrected for "
    "all {count} comparisons of this page (Holm 1979). A gain or a loss needs an interval that excludes 0 and a "
    "corrected p-value of at most 0.05. Differences below {margin:g} do not matter.")


_FEW = 30  # rows of others that are shown unfolded


def write(results: Results, out: pathlib.Path, others: Sequence[OtherScore] = ()) -> pathlib.Path:
    """Writes the report and its tables to the experiment's folder.

        report.html    one page
        results.csv    a row per cell and metric, and per score of others
        images.csv     the metric of each image, for each initialisation and seed
        tables.md, tables.tex

    Args:
      results: of the cells that are done.
      out: the experiment's folder.
      others: results of torchgeo-bench to show beside, in a table of their own.

    Returns:
      the path of report.html.

    Raises:
      UserError: the folder cannot be written to, or results do not belong together.
    """
    of_means, of_pairs = means(results), differences(results)
    tables = tables_of(results, of_means, of_pairs, out)
    beside = [beside_table(others)] if others else []
    curves = [(task, [mean for mean in of_means if mean.task == task.name]) for task in results.plan.tasks]
    figures = html.join(html.drawing(label_efficiency(task.name, task.metric, some),
                                     f"{task.name}: {task.metric} against the share of the labels")
                        for task, some in curves if any(mean.score for mean in some))
    compared = sum(one.comparison is not None for one in of_pairs)
    body = [_head(results, compared), _verdicts(of_pairs), html.section("Score by share of the labels", figures),
            _forest(results, of_pairs), _panels(results, out),
            *(html.section(table.title, html.table(table.head, table.rows)) for table in tables),
            *map(_beside, beside), _leaks(results), _provenance(results)]
    for name, text in (("results.csv", tidy(results, out, others)), ("images.csv", per_image(results)),
                       ("tables.md", markdown([*tables, *beside])), ("tables.tex", latex([*tables, *beside])),
                       ("report.html", html.page(results.plan.title, html.join(body)))):
        atomic.write(out / name, text.encode(errors="replace"))
    return out / "report.html"


def _verdicts(pairs: list[Difference]) -> Markup:
    """Returns a sentence per comparison."""
    lines = []
    for one in pairs:
        where = f"{one.task}, {percent(one.fraction)} of the labels: {one.first} against {one.second}"
        found = one.comparison.difference if one.comparison else None
        size = f" ({found.value:+.3f}, {found.low:+.3f} to {found.high:+.3f})" if found else ""
        lines.append(f"{where}: {one.verdict}{size}; {one.reason}")
    return html.section("Verdicts", html.points(lines)) if pairs else Markup("")


def _head(results: Results, comparisons: int) -> Markup:
    states = Counter(outcome.state for outcome in results.outcomes.values())
    seconds = sum(outcome.seconds for outcome in results.outcomes.values())
    plan = results.plan
    text = (f"{len(results.cells)} runs: {states['done']} done, {states['failed']} failed, {states['open']} open. "
            f"{clock(seconds)} of computing. {plan.seeds} seeds, {plan.folds or 'no'} folds.")
    method = _METHOD.format(groups=plan.groups, margin=plan.margin, count=comparisons)
    runs = (f"Pre-training: {plan.pretrain_seeds} run(s)" + (" per fold, without the places of the fold" if
            plan.pretrain_per_fold else "") + "; the intervals hold for other seeds of pre-training only as far as "
            "several were made.")
    missing = states["failed"] + states["open"]
    warnings = [f'Missing runs: {missing} of {len(results.cells)}; "Missing cells" names them.'] if missing else []
    return html.join([html.heading(plan.title), *map(html.note, (text, method, runs)), html.warning(warnings)])


def _forest(results: Results, pairs: list[Difference]) -> Markup:
    shown = [one for one in pairs if one.comparison]
    if not shown:
        return Markup("")
    svg = forest("Paired differences with 95 % intervals", shown, results.plan.margin)
    return html.section("Paired differences", html.drawing(svg, "forest plot of paired differences"))


def _panels(results: Results, out: pathlib.Path) -> Markup:
    found = [(task.name, panels) for task in results.plan.tasks if (panels := disagreements(results, task, out))]
    return html.section("Examples", html.join(
        html.figure(f"{name}: {panels.title}", panels.png, name, panels.caption) for name, panels in found))


def _beside(one: TextTable) -> Markup:
    """Returns the results of others, with the warning that they are no part of the comparisons."""
    note = html.note("Other images, labels and settings than those of this experiment. Rows of one data set and one "
                     "protocol can be compared with each other. No mean, interval or verdict of this page uses them.")
    shown = html.table(one.head, one.rows)
    return html.section(one.title, note + (html.details(f"{len(one.rows)} rows", shown) if len(one.rows) > _FEW
                                           else shown))


def _leaks(results: Results) -> Markup:
    """Returns what was compared before each scored run, and what the overlap audits of the data sets say."""
    lines = Counter(line for outcome in results.outcomes.values() for line in outcome.audit)
    return html.section("Leaks", html.table(("what was compared", "runs"), sorted(lines.items())))


def _provenance(results: Results) -> Markup:
    """Returns command, data, code and digest of every run that is done."""
    rows = [[cell.name, found.dataset[:12], found.code_version, found.digest[:12], f"{found.seconds:.1f}",
             "python main.py " + " ".join(found.command)]
            for cell in results.cells if (found := results.outcomes[cell.name]).state == "done"]
    table = html.table(("run", "data", "code", "digest", "seconds", "command"), rows)
    note = html.note("python -m dual_encoder.reproduce REPORT makes a run again and compares the digest of its scores.")
    folded = html.details(f"{len(rows)} runs with command and digest", table)
    return html.section("Every run", folded + note) if rows else Markup("")
