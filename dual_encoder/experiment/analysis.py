"""Means with intervals, paired comparisons, and verdicts in words."""

import dataclasses
from collections.abc import Sequence

from dual_encoder.evaluation.comparison import Comparison, Interval, Verdict, compare, holm, interval, verdict
from dual_encoder.experiment.results import Results, scored


@dataclasses.dataclass(frozen=True)
class Mean:
    """The score of an initialisation at a task and fraction.

    Attributes:
      task, initialisation, fraction: which.
      score: with its 95 % interval over places and seeds; None if no repetition is whole.
      missing: cells that have failed or are not done.
    """

    task: str
    initialisation: str
    fraction: float
    score: Interval | None
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired comparison of two initialisations at a task and fraction.

    Attributes:
      task, fraction: which.
      first, second: the initialisations; the difference is first - second.
      comparison: None if no repetition is whole in both.
      p_value: of the comparison, corrected for the number of comparisons of the plan (Holm).
      verdict: in a word.
      reason: in a sentence.
      left_out: seeds of the plan without both results.
    """

    task: str
    fraction: float
    first: str
    second: str
    comparison: Comparison | None
    p_value: float
    verdict: Verdict
    reason: str
    left_out: int


def means(results: Results) -> list[Mean]:
    """Returns the scores of all arms; those of arms with missing cells are of the whole repetitions alone."""
    return [Mean(arm.task.name, arm.initialisation, arm.fraction,
                 interval(scored(results.plan, arm, list(arm.tables))) if arm.tables else None, arm.missing)
            for arm in results.arms]


def differences(results: Results) -> list[Difference]:
    """Returns the comparisons of the plan, for each task and fraction in which both initialisations take part."""
    found: list[tuple[str, float, str, str, Comparison | None, int]] = []
    plan = results.plan
    for task in plan.tasks:
        names = [one.name for one in plan.taking_part(task)]
        for fraction in plan.fractions_of(task):
            for first, second in plan.comparisons:
                if first in names and second in names:
                    one, other = (results.arm(task.name, name, fraction) for name in (first, second))
                    seeds = sorted(set(one.tables) & set(other.tables))
                    both = compare(scored(plan, one, seeds), scored(plan, other, seeds)) if seeds else None
                    found.append((task.name, fraction, first, second, both, plan.seeds - len(seeds)))
    return _judged(found, plan.margin)


def _judged(found: Sequence[tuple[str, float, str, str, Comparison | None, int]], margin: float) -> list[Difference]:
    corrected = iter(holm([both.p_value for *_, both, _ in found if both]))
    judged = []
    for task, fraction, first, second, both, left_out in found:
        p_value = next(corrected) if both else 1.0
        word, reason = verdict(both.difference, p_value, margin) if both else (
            "can't tell", "no repetition is whole in both")
        judged.append(Difference(task, fraction, first, second, both, p_value, word, reason, left_out))
    return judged
