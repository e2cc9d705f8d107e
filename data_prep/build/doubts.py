"""Counts images whose values are not plausible: over a shard, a build, or the records that `inspect` reads."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery.plausibility import RULES, judge, sample
from dual_encoder.imagery.sensors import SensorSpec

_SHARE = 0.2  # of the images that a rule can judge; more stop a build
_EARLY, _EARLY_SHARE = 200, 0.5  # of one shard, so that a build of days stops on its first day
_TOGETHER = 64  # images are judged together: one by one would take ten times as long


@dataclasses.dataclass
class _Count:
    """One rule on one of the images: how many were judged, how many break it, id and figures of the first."""

    judged: int = 0
    broken: int = 0
    name: str = ""
    seen: str = ""

    def add(self, judged: int, broken: int, name: str, seen: str) -> None:
        if broken and not self.broken:
            self.name, self.seen = name, seen
        self.judged += judged
        self.broken += broken


class Doubts:
    """For each image and rule: how many images were judged, how many break the rule, and the first one that does."""

    def __init__(self) -> None:
        self._judged: dict[tuple[str, str], _Count] = {}
        self._waiting: list[tuple[str, dict[str, np.ndarray], int]] = []  # id, pixels of each image, S2 offset
        self._sensors: Mapping[str, SensorSpec] = {}

    def add(self, name: str, images: Mapping[str, np.ndarray], sensors: Mapping[str, SensorSpec], removed: int) -> None:
        """Adds the images of a record; all records have the same size and sensors.

        Args:
          name: id of the record.
          images: feature -> [height, width, bands], stored integers.
          sensors: feature -> spec.
          removed: the DN offset that was subtracted from its S2 values.
        """
        self._sensors = sensors
        self._waiting.append((name, {feature: sample(images[feature]) for feature in sensors}, removed))
        if len(self._waiting) == _TOGETHER:
            self._counts()

    def merge(self, other: "Doubts") -> None:
        """Adds the counts of other records, which come after these."""
        counts = self._counts()
        for key, count in other._counts().items():
            counts.setdefault(key, _Count()).add(count.judged, count.broken, count.name, count.seen)

    def lines(self) -> Iterator[str]:
        """Yields a line for each rule that is broken: the share, the first example, and what to do."""
        return (_line(*key, count) for key, count in self._broken())

    def text(self) -> str:
        """Returns the counts on one line, for the manifest."""
        return "; ".join(f"{' '.join(key)} {count.broken} of {count.judged} (first '{count.name}')"
                         for key, count in self._broken()) or "no image breaks a rule"

    def too_many(self, accepted: Collection[str]) -> list[str]:
        """Returns the rules, not accepted ones, that more than a fifth of the images break."""
        return self._above(accepted, 1, _SHARE)

    def stop_early(self, accepted: Collection[str]) -> None:
        """Raises UserError if a rule is broken by most of the many images of one shard."""
        if rules := self._above(accepted, _EARLY, _EARLY_SHARE):
            raise UserError(self.refusal(rules))

    def refusal(self, rules: Collection[str]) -> str:
        """Returns the message that names rules that are broken too often."""
        lines = " | ".join(_line(*key, count) for key, count in self._broken() if key[1] in rules)
        return (f"the values of many images are not what was stated: {lines}; then run the same command again, or "
                f"accept the values with --accept={','.join(rules)}")

    def _above(self, accepted: Collection[str], least: int, share: float) -> list[str]:
        return sorted({rule for (_, rule), count in self._broken() if RULES[rule].stops and rule not in accepted
                       and count.judged >= least and count.broken > share * count.judged})

    def _broken(self) -> list[tuple[tuple[str, str], _Count]]:
        """The rules that are broken, the largest share first."""
        found = [(key, count) for key, count in self._counts().items() if count.broken]
        return sorted(found, key=lambda item: (-item[1].broken / item[1].judged, item[0]))

    def _counts(self) -> dict[tuple[str, str], _Count]:
        """Judges the images that wait, and returns all counts."""
        waiting, self._waiting = self._waiting, []
        for feature, spec in self._sensors.items() if waiting else ():
            removed = np.array([offset if spec.modality == "optical" else 0 for _, _, offset in waiting])
            for outcome in judge(np.stack([pixels[feature] for _, pixels, _ in waiting]), spec, removed):
                broken = np.flatnonzero(outcome.broken)
                first = (waiting[broken[0]][0], outcome.seen(int(broken[0]))) if len(broken) else ("", "")
                self._judged.setdefault((feature, outcome.rule), _Count()).add(
                    int(outcome.judged.sum()), len(broken), *first)
        return self._judged

    def to_json(self) -> list[list[Any]]:
        """Returns JSON values."""
        return [[*key, *dataclasses.astuple(count)] for key, count in self._counts().items()]

    @classmethod
    def from_json(cls, rows: list[list[Any]]) -> "Doubts":
        """Reads what `to_json` returned."""
        doubts = cls()
        doubts._judged = {(feature, rule): _Count(*count) for feature, rule, *count in rows}
        return doubts


def _line(feature: str, rule: str, count: _Count) -> str:
    return (f"{feature} {rule}: {count.broken} of {count.judged} images, first '{count.name}': {count.seen}; "
            f"{RULES[rule].advice}")
