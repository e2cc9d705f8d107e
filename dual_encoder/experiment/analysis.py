"""Means with intervals, paired comparisons, and verdicts in words."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from dual_encoder.data.subsets import PLACE
from dual_encoder.evaluation.comparison import Comparison, Interval, Verdict, compare, holm, interval, verdict
from dual_encoder.experiment.plan import Plan
from dual_encoder.experiment.results import Arm, Results, scored


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
      comparison: with its interval over groups and seeds; None if no repetition is whole in both.
      of_places: the same with places drawn one by one, which says how sure the difference is on more places of these
        groups; None if the groups are places.
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
    of_places: Interval | None
    p_value: float
    verdict: Verdict
    reason: str
    left_out: int


def means(results: Results) -> list[Mean]:
    """Returns the scores of all arms; those of arms with missing cells are of the whole repetitions alone."""
    return [Mean(arm.task.name, arm.initialisation, arm.fraction,
                 interval(scored(results.plan.groups, arm, list(arm.tables))) if arm.tables else None, arm.missing)
            for arm in results.arms]


def differences(results: Results) -> list[Difference]:
    """Returns the comparisons of the plan, for each task and fraction in which both initialisations take part."""
    found: list[_Found] = []
    plan = results.plan
    for task in plan.tasks:
        names = [one.name for one in plan.taking_part(task)]
        for fraction in plan.fractions_of(task):
            for first, second in plan.comparisons:
                if first in names and second in names:
                    found.append(_compared(plan, *(results.arm(task.name, name, fraction) for name in (first, second))))
    return _judged(found, plan.margin)


class _Found(NamedTuple):
    """A comparison before its p-value is corrected."""

    one: Arm
    other: Arm
    comparison: Comparison | None
    of_places: Interval | None
    left_out: int


def _compared(plan: Plan, one: Arm, other: Arm) -> _Found:
    seeds = sorted(set(one.tables) & set(other.tables))
    if not seeds:
        return _Found(one, other, None, None, plan.seeds)
    both, of_places = (compare(scored(groups, one, seeds), scored(groups, other, seeds))
                       for groups in (plan.groups, PLACE))
    return _Found(one, other, both, None if plan.groups == PLACE else of_places.difference, plan.seeds - len(seeds))


def _judged(found: Sequence[_Found], margin: float) -> list[Difference]:
    corrected = iter(holm([pair.comparison.p_value for pair in found if pair.comparison]))
    judged = []
    for pair in found:
        both = pair.comparison
        p_value = next(corrected) if both else 1.0
        word, reason = verdict(both.difference, p_value, margin) if both else (
            "can't tell", "no repetition is whole in both")
        judged.append(Difference(pair.one.task.name, pair.one.fraction, pair.one.initialisation,
                                 pair.other.initialisation, both, pair.of_places, p_value, word, reason,
                                 pair.left_out))
    return judged
