"""Metrics of a run: rows in metrics.jsonl, TensorBoard events, a sink. Only the main process writes them."""

import contextlib
import json
import os
import re
import time
import zlib
from collections.abc import Mapping
from typing import Any

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from dual_encoder.config import flatten
from dual_encoder.console import say
from dual_encoder.storage import atomic
from dual_encoder.workdir.sinks import Sink

_CRC = "crc32"  # key of the checksum, the last of a row
_SUMMED = re.compile(r'(\{.*), "crc32": "([0-9a-f]{8})"\}.?')  # one character more: a damaged end of the line


class MetricWriter:
    """Appends to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.

    `write` writes TensorBoard's events at once: a writer with its own thread never returns if the disk is full.

    Args:
      workdir: of the run.
      resume_step: step that the run continues from. Later rows belong to lost work and are removed.
      sink: gets the numbers, too.
    """

    def __init__(self, workdir: epath.PathLike, resume_step: int, sink: Sink | None = None):
        self._sink = sink
        path = os.path.join(os.fspath(workdir), "metrics.jsonl")
        rows, damaged = rows_and_damage(path) if os.path.exists(path) else ([], [])
        if damaged:
            say(f"'{path}': {len(damaged)} damaged lines are left out (first: line {damaged[0]})")
        kept = [row for row in rows if row["step"] <= resume_step]
        self._kept = {(row["step"], row["kind"]) for row in kept}
        atomic.write(path, "".join(map(_line, kept)).encode())
        self._folder = os.path.join(os.fspath(workdir), "tensorboard")
        with atomic.explained(path):
            self._file = open(path, "a")
        with atomic.explained(self._folder):
            os.makedirs(self._folder, exist_ok=True)
            self._board = EventsWriter(os.path.join(self._folder, "events"))
            if resume_step:  # makes TensorBoard drop the events of an earlier process from that step on
                start = SessionLog(status=SessionLog.START)
                self._board.write_event(Event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def holds(self, step: int, kind: str) -> bool:
        """Returns True if an earlier process wrote a row of this step and kind."""
        return (step, kind) in self._kept

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Adds one row. Rows of kind 'event' hold text, and 'seconds' at the end of a process; all others hold numbers.

        Raises:
          UserError: the disk is full or not writable.
        """
        with atomic.explained(self._file.name):
            self._file.write(_line({"step": step, "kind": kind, **values}))
            self._file.flush()
        if kind != "event":
            points = [Summary.Value(tag=f"{kind}/{name}", simple_value=value) for name, value in values.items()]
            with atomic.explained(self._folder):
                self._board.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))
            if self._sink:
                self._sink.write(step, {f"{kind}/{name}": value for name, value in values.items()})

    def sync(self) -> None:
        """Returns when all rows are on the disk; UserError if it is full."""
        with atomic.explained(self._file.name):
            self._file.flush()
            os.fsync(self._file.fileno())
        with atomic.explained(self._folder):
            self._board.flush()

    def close(self) -> None:
        """Syncs and closes."""
        try:
            self.sync()
        finally:
            for file in (self._file, self._board):
                with contextlib.suppress(OSError):  # `sync` has said it
                    file.close()
            if self._sink:
                self._sink.close()


def _line(row: Mapping[str, Any]) -> str:
    """Returns a row as a line, which ends with the crc32 of the text of the row."""
    text = json.dumps({name: value for name, value in row.items() if name != _CRC})
    return f'{text[:-1]}, "{_CRC}": "{zlib.crc32(text.encode()):08x}"}}\n'


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl without damaged lines: a crash may cut off the last line."""
    return rows_and_damage(os.path.join(os.fspath(workdir), "metrics.jsonl"))[0]


def rows_and_damage(path: epath.PathLike) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the rows of a metrics.jsonl without their checksums, and the numbers of its damaged lines.

    A last line without an end is not counted: a crash cut it off. Lines of earlier versions have no checksum.
    """
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        lines = file.read().split("\n")
    is_cut_off = bool(lines[-1])
    lines = lines if is_cut_off else lines[:-1]
    summed = [_SUMMED.fullmatch(line) for line in lines]
    rows, damaged = [], []
    for number, (line, match) in enumerate(zip(lines, summed, strict=True), start=1):
        if match:
            line = f"{match[1]}}}"
        is_sound = zlib.crc32(line.encode(errors="replace")) == int(match[2], 16) if match else not any(summed)
        row = _row(line) if is_sound else None
        if row is None:
            damaged.append(number)
        else:
            rows.append(row)
    return rows, [] if is_cut_off and damaged == [len(lines)] else damaged


def _row(line: str) -> dict[str, Any] | None:
    """Returns the row of a line; None if it has not the form of a row."""
    try:
        row = json.loads(line)
        if (type(row["step"]) is not int or not 0 <= row["step"] < 1 << 62 or not isinstance(row["kind"], str)):
            return None
        for value in row.values():
            if isinstance(value, int):
                float(value)  # an integer can be too large for every figure
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return row


def numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """Returns 'a/b' -> number of the numbers in nested dictionaries; other leaves are left out."""
    return {name: float(value) for name, value in flatten(scores, "/").items() if isinstance(value, int | float)}
