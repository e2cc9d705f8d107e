"""Metrics of a run: rows in metrics.jsonl and, where the main process writes, TensorBoard events."""

import json
import os
from collections.abc import Mapping
from typing import Any

import tensorboardX
from etils import epath

from dual_encoder import atomic


class MetricWriter:
    """Appends to WORKDIR/metrics.jsonl and WORKDIR/tensorboard.

    Args:
      workdir: of the run.
      resume_step: step that the run continues from; later rows (of work that was lost) are removed.
    """

    def __init__(self, workdir: epath.PathLike, resume_step: int):
        self._path = os.path.join(os.fspath(workdir), "metrics.jsonl")
        if os.path.exists(self._path):
            kept = [json.dumps(row) + "\n" for row in read(workdir) if row["step"] <= resume_step]
            atomic.write(self._path, "".join(kept).encode())
        self._file = open(self._path, "a")
        self._board = tensorboardX.SummaryWriter(os.path.join(os.fspath(workdir), "tensorboard"),
                                                 purge_step=resume_step + 1 if resume_step else None)

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Adds one row: 'train' and 'eval' rows hold numbers, 'event' rows text."""
        self._file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._file.flush()
        if kind != "event":
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Makes all rows safe on the disk."""
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Syncs and closes."""
        self.sync()
        self._file.close()
        self._board.close()


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl; a last line that was cut off by a crash is left out."""
    rows = []
    with open(os.path.join(os.fspath(workdir), "metrics.jsonl")) as file:
        for line in file:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def flatten(scores: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Returns 'a/b' -> number of the numbers in nested dictionaries."""
    flat = {}
    for name, value in scores.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)):
            flat[f"{prefix}{name}"] = float(value)
    return flat
