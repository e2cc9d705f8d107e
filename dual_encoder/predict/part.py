"""The finished strips of a map that is being made: a folder beside the map, '<map>.part'.

    plan.json         what the strips are of: model, inputs, windows, layers, area
    strip_00012.npy   uint8 [layers, rows, columns] of the row of blocks 12, written whole or not at all
    faults.json       the parts of the scenes that could not be read so far
    lock              held by the process that makes the map

A map that was killed goes on with the first strip that is missing, if the plan is still the same.
"""

import contextlib
import io
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dual_encoder.console import say
from dual_encoder.errors import UserError
from dual_encoder.storage import atomic, lock

_PLAN, _FAULTS = "plan.json", "faults.json"
_COPIES = 2  # a map needs the space of its strips, and at most as much again while the final file is written


class Part:
    """The strips of one map.

    Args:
      out: the map.
      plan: JSON values; strips of another plan are deleted, with a line that says so.
      needed: bytes of all strips.

    Raises:
      UserError: another process makes this map, the folder cannot be written, or the disk is too small.
    """

    def __init__(self, out: pathlib.Path, plan: Mapping[str, Any], needed: int):
        self.folder = out.with_name(f"{out.name}.part")
        with atomic.explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "a")
        if not lock.take(self._lock):
            self._lock.close()
            raise UserError(f"another process makes '{out}'; wait for it, or give another --out")
        text = json.dumps(plan, indent=1, sort_keys=True).encode()
        path = self.folder / _PLAN
        if path.exists() and path.read_bytes() != text:
            say(f"'{self.folder}' holds strips of another model, scene or setting; they are made again")
            for old in (*self.folder.glob("strip_*.npy"), *self.folder.glob(_FAULTS)):
                old.unlink()
        atomic.write(path, text)
        here = sum(strip.stat().st_size for strip in self.folder.glob("strip_*.npy"))
        free, wanted = shutil.disk_usage(self.folder).free, _COPIES * needed - here
        if free < wanted:
            self.close()
            raise UserError(f"the disk of '{out}' has {free / 1e6:.0f} MB free, the map may need {wanted / 1e6:.0f} "
                            "MB; make room, or limit the map with --aoi, and run the same command again")

    def done(self, row: int) -> bool:
        """Returns True if the strip of a row of blocks is there."""
        return self._path(row).exists()

    def faults(self) -> dict[str, Any]:
        """Returns the faults that were saved with the last strip; {} if there are none."""
        path = self.folder / _FAULTS
        return json.loads(path.read_bytes()) if path.exists() else {}

    def save(self, row: int, strip: np.ndarray, faults: Mapping[str, Any]) -> None:
        """Writes a strip.

        Args:
          row: of blocks.
          strip: uint8 [layers, rows, columns].
          faults: JSON values, the faults of all strips so far.
        """
        atomic.write(self.folder / _FAULTS, json.dumps(faults).encode())
        data = io.BytesIO()
        np.save(data, strip)
        atomic.write(self._path(row), data.getvalue())

    def strips(self, rows: range) -> Iterator[np.ndarray]:
        """Yields the strips in order."""
        for row in rows:
            yield np.load(self._path(row))

    def close(self) -> None:
        """Releases the folder; the strips stay."""
        with contextlib.suppress(OSError):
            self._lock.close()

    def remove(self) -> None:
        """Deletes the folder, when the map is there."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, row: int) -> pathlib.Path:
        return pathlib.Path(os.fspath(self.folder)) / f"strip_{row:05d}.npy"
