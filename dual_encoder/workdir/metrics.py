"""Metrics of a run: rows in metrics.jsonl, and TensorBoard events. Only the main process writes them."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from dual_encoder.config import flatten
from dual_encoder.storage import atomic


class MetricWriter:
    """Appends to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.

    `write` writes TensorBoard's events at once: a writer with its own thread never returns if the disk is full.

    Args:
      workdir: of the run.
      resume_step: step that the run continues from. Later rows belong to lost work and are removed.
    """

    def __init__(self, workdir: epath.PathLike, resume_step: int):
        path = os.path.join(os.fspath(workdir), "metrics.jsonl")
        kept = [row for row in read(workdir) if row["step"] <= resume_step] if os.path.exists(path) else []
        self._kept = {(row["step"], row["kind"]) for row in kept}
        atomic.write(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = open(path, "a")
        folder = os.path.join(os.fspath(workdir), "tensorboard")
        os.makedirs(folder, exist_ok=True)
        self._board = EventsWriter(os.path.join(folder, "events"))
        if resume_step:  # makes TensorBoard drop the events of an earlier process from that step on
            start = SessionLog(status=SessionLog.START)
            self._board.write_event(Event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def holds(self, step: int, kind: str) -> bool:
        """Returns True if an earlier process wrote a row of this step and kind."""
        return (step, kind) in self._kept

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Adds one row. Rows of kind 'train' and 'eval' hold numbers, rows of kind 'event' hold text."""
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._file.flush()
        if kind != "event":
            points = [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in values.items()]
            self._board.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))

    def sync(self) -> None:
        """Returns when all rows are on the disk."""
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Syncs and closes."""
        self.sync()
        self._file.close()
        self._board.close()


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl without damaged lines: a crash may cut off the last line."""
    return rows_and_damage(os.path.join(os.fspath(workdir), "metrics.jsonl"))[0]


def rows_and_damage(path: epath.PathLike) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the rows of a metrics.jsonl, and the numbers of its damaged lines.

    A damaged last line alone is not counted: a crash cut it off.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    rows, damaged = [], []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows.append({"step": int(row["step"]), "kind": str(row["kind"])} | row)
        except (ValueError, KeyError, TypeError):
            damaged.append(number)
    return rows, [] if damaged == [len(lines)] else damaged


def numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """Returns 'a/b' -> number of the numbers in nested dictionaries; other leaves are left out."""
    return {name: float(value) for name, value in flatten(scores, "/").items() if isinstance(value, int | float)}
