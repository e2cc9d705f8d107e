"""Counts the outcomes of an attack by format, as a table for people and for docs/reliability.md."""

import collections
import dataclasses
from collections.abc import Iterable

from tests.fuzz.raw_attack import FAULTS

_COLUMNS = ("one line", "quarantined", "same", "changed", *FAULTS)
_FOUND = {"found": "one line"}


@dataclasses.dataclass
class Counts:
    """The outcomes of all trials so far.

    Attributes:
      rows: format -> outcome -> number of trials.
      memory: format -> largest peak of a trial in bytes.
      faults: a line for each trial that must not end so.
    """

    rows: dict[str, collections.Counter] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter))
    memory: dict[str, int] = dataclasses.field(default_factory=lambda: collections.defaultdict(int))
    faults: list[str] = dataclasses.field(default_factory=list)

    def add(self, trials: Iterable) -> "Counts":
        """Adds trials as `RawAttack.run` and `own_attack.run` yield them: (trial, outcome, bytes). Returns itself."""
        for trial, outcome, memory in trials:
            kind = _FOUND.get(outcome) or next((column for column in _COLUMNS if outcome.startswith(column)), outcome)
            self.rows[trial.name][kind] += 1
            self.memory[trial.name] = max(self.memory[trial.name], memory)
            if kind in FAULTS or kind not in _COLUMNS:
                self.faults.append(f"{trial.name} {trial.number}: {trial.file}, {trial.mutation}: {outcome}")
        return self

    def merge(self, other: "Counts") -> None:
        """Adds the counts of another attack."""
        for name, counts in other.rows.items():
            self.rows[name] += counts
            self.memory[name] = max(self.memory[name], other.memory[name])
        self.faults += other.faults

    def table(self) -> list[str]:
        """Returns the lines of a Markdown table. Columns in which nothing was counted are left out."""
        total = sum(self.rows.values(), collections.Counter())
        columns = [column for column in _COLUMNS if total[column] or column in ("silent", "traceback", "killed")]
        lines = [f"| format | trials | {' | '.join(columns)} | peak memory |", "|---|" + "---:|" * (len(columns) + 2)]
        rows = [*self.rows.items(), ("all", total)]
        for name, counts in rows:
            peak = self.memory[name] if name != "all" else max(self.memory.values(), default=0)
            cells = [str(counts[column]) for column in columns]
            lines.append(f"| {name} | {sum(counts.values())} | {' | '.join(cells)} | {peak / 1e9:.2f} GB |")
        return lines
