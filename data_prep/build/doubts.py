"""Counts images whose values are not plausible: over a shard, a build, or the records that `inspect` reads."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery.plausibility import RULES, judge
from dual_encoder.imagery.sensors import SensorSpec

_SHARE = 0.2  # of the images that a rule can judge; more stop a build
_EARLY, _EARLY_SHARE = 200, 0.5  # of one shard, so that a build of days stops on its first day


class Doubts:
    """For each image and rule: how many images were judged, how many break the rule, and the first one that does."""

    def __init__(self) -> None:
        self._judged: dict[tuple[str, str], int] = {}
        self._broken: dict[tuple[str, str], int] = {}
        self._first: dict[tuple[str, str], tuple[str, str]] = {}

    def add(self, name: str, images: Mapping[str, np.ndarray], sensors: Mapping[str, SensorSpec], removed: int) -> None:
        """Judges the images of a record.

        Args:
          name: id of the record.
          images: feature -> [height, width, bands], stored integers.
          sensors: feature -> spec.
          removed: the DN offset that was subtracted from its S2 values.
        """
        for feature, spec in sensors.items():
            for finding in judge(images[feature], spec, removed if spec.modality == "optical" else 0):
                key = feature, finding.rule
                self._judged[key] = self._judged.get(key, 0) + 1
                if finding.seen:
                    self._broken[key] = self._broken.get(key, 0) + 1
                    self._first.setdefault(key, (name, finding.seen))

    def merge(self, other: "Doubts") -> None:
        """Adds the counts of other records, which come after these."""
        for mine, theirs in ((self._judged, other._judged), (self._broken, other._broken)):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count
        self._first = other._first | self._first

    def lines(self) -> Iterator[str]:
        """Yields a line for each rule that is broken: the share, the first example, and what to do."""
        for key, broken in sorted(self._broken.items(), key=lambda item: -item[1] / self._judged[item[0]]):
            feature, rule = key
            name, seen = self._first[key]
            yield (f"{feature} {rule}: {broken} of {self._judged[key]} images, first '{name}': {seen}; "
                   f"{RULES[rule].advice}")

    def text(self) -> str:
        """Returns the counts on one line, for the manifest."""
        broken = (f"{' '.join(key)} {count} of {self._judged[key]} (first '{self._first[key][0]}')"
                  for key, count in sorted(self._broken.items()))
        return "; ".join(broken) or "no image breaks a rule"

    def too_many(self, accepted: Collection[str]) -> list[str]:
        """Returns the rules, not accepted ones, that more than a fifth of the images break."""
        return self._above(accepted, 1, _SHARE)

    def stop_early(self, accepted: Collection[str]) -> None:
        """Raises UserError if a rule is broken by most of the many images of one shard."""
        if rules := self._above(accepted, _EARLY, _EARLY_SHARE):
            raise UserError(self.refusal(rules))

    def refusal(self, rules: Collection[str]) -> str:
        """Returns the message that names rules that are broken too often."""
        broken = [line for line in self.lines() if line.split(" ")[1].rstrip(":") in rules]
        return (f"the values of many images are not what was stated: {' | '.join(broken)}; then run the same command "
                f"again, or accept the values with --accept={','.join(rules)}")

    def _above(self, accepted: Collection[str], least: int, share: float) -> list[str]:
        return sorted({rule for (feature, rule), broken in self._broken.items()
                       if RULES[rule].stops and rule not in accepted and self._judged[feature, rule] >= least
                       and broken > share * self._judged[feature, rule]})

    def to_json(self) -> list[list[Any]]:
        """Returns JSON values."""
        return [[*key, judged, self._broken.get(key, 0), *self._first.get(key, ("", ""))]
                for key, judged in self._judged.items()]

    @classmethod
    def from_json(cls, rows: list[list[Any]]) -> "Doubts":
        """Reads what `to_json` returned."""
        doubts = cls()
        for feature, rule, judged, broken, name, seen in rows:
            doubts._judged[feature, rule] = judged
            if broken:
                doubts._broken[feature, rule] = broken
                doubts._first[feature, rule] = name, seen
        return doubts
