"""How long a run took, from the rows of its metrics."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class RunTime(NamedTuple):
    """The time of a run in seconds; None: the rows do not say.

    Attributes:
      training: of all steps and the waits for data, without compilation of later programs, evaluation and saving.
      steps_per_second: of the row in the middle of all rows, which compilation does not slow down.
      total: of all processes of the run, from the first step's compilation to the last evaluation. The time of a
        process that was killed is not known.
    """

    training: float | None
    steps_per_second: float | None
    total: float | None


def run_time(rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> RunTime:
    """Returns the time of a run.

    Args:
      rows: of metrics.jsonl.
      config: of the run; its batch size makes steps of records.
    """
    batch = config.get("batch_size")
    rates, seconds, before = [], 0.0, 0
    for row in rows:
        rate = row.get("pairs_per_second")
        if row["kind"] == "train" and isinstance(rate, int | float) and rate > 0 and isinstance(batch, int):
            rates.append(rate / batch)
            seconds += (row["step"] - before) * batch / rate
        if row["kind"] == "train" or row.get("event") == "resumed":
            before = row["step"]
    ends = [row["seconds"] for row in rows if row["kind"] == "event" and isinstance(row.get("seconds"), int | float)]
    return RunTime(seconds if rates else None, sorted(rates)[len(rates) // 2] if rates else None,
                   sum(ends) if ends else None)
