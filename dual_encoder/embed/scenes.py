"""Scenes of any size as a source of images: patches on a grid, read one by one."""

import calendar
import contextlib
import hashlib
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data_prep.importers import Reject
from data_prep.record import UNKNOWN_TIME
from dual_encoder.data.labels import LabelSpec
from dual_encoder.embed.places import footprint
from dual_encoder.embed.sources import Item
from dual_encoder.errors import UserError
from dual_encoder.imagery.grid import Grid
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.predict.description import open_scenes

_LEAST = 0.5  # share of the pixels of a patch that must hold data, for each sensor


class Scenes:
    """Patches of one scene, or of one of each sensor; the first one gives the grid. Patches at the edge are whole ones.

    Args:
      paths: sensor -> path of its scene, as of `predict.scene.Scene`.
      sensors: of the encoder, by the same names.
      size: side of a patch in pixels.
      stack: closes the files.
      description: the geotiff.json of the scenes; '' = the one in their folder or above.
      strict: damaged parts and impossible values are errors; otherwise such pixels have no data.

    Attributes:
      grid: of the patches: shape (rows, columns), one pixel per patch.

    Raises:
      UserError: a scene that does not fit its description or the encoder, or is smaller than a patch.
    """

    def __init__(self, paths: Mapping[str, str], sensors: Mapping[str, SensorSpec], size: int,
                 stack: contextlib.ExitStack, description: str = "", strict: bool = False):
        self._scenes = open_scenes(paths, sensors, stack, description, strict)
        self._size, self._pixels = size, next(iter(self._scenes.values())).grid
        height, width = self._pixels.shape
        rows, columns = height // size, width // size
        if not rows * columns:
            raise UserError(f"'{next(iter(paths.values()))}' is {height}x{width} pixels, smaller than a patch of "
                            f"--size={size}; give a smaller one")
        scale = type(self._pixels.transform).scale(size)
        self.grid = Grid(self._pixels.crs, self._pixels.transform @ scale, (rows, columns))
        self._name = pathlib.Path(next(iter(self._scenes.values())).scene.name).stem
        self.label: LabelSpec | None = None
        self.rejects: Sequence[Reject] = ()
        self.facts: Mapping[str, Any] = {
            "kind": "scene", "path": ", ".join(paths.values()), "size": size, "shape": [rows, columns],
            "sensors": {name: spec.name for name, spec in sensors.items()}, "fingerprint": self._fingerprint(),
            "source": {}}

    def __len__(self) -> int:
        return self.grid.shape[0] * self.grid.shape[1]

    def items(self, start: int, stop: int) -> Iterator[Item | Reject]:
        """Yields the patches, row by row, and one Reject that counts those with too little data."""
        empty: list[str] = []
        for number in range(start, stop):
            row, column = divmod(number, self.grid.shape[1])
            name, top, left = f"{self._name}_r{row}_c{column}", row * self._size, column * self._size
            images = {sensor: scene.read(top, left, self._size, self._size) for sensor, scene in self._scenes.items()}
            if any(scene.spec.holds_data(images[sensor]).mean() < _LEAST for sensor, scene in self._scenes.items()):
                empty.append(name)
                continue
            moved = self._pixels.transform @ type(self._pixels.transform).translation(left, top)
            place = footprint(Grid(self._pixels.crs, moved, (self._size, self._size)))
            times = {sensor: _seconds(scene.scene.time) for sensor, scene in self._scenes.items()}
            yield Item(number, name, name, "", number, images, times, place, None)
        if empty:
            yield Reject(empty[0], f"{len(empty)} patches from this one to {empty[-1]} have data in less than "
                                   f"{_LEAST:.0%} of their pixels")

    def faults(self) -> list[str]:
        """Returns lines about pixels that became no-data, although the files do not say so."""
        lines = []
        for scene in (one.scene for one in self._scenes.values()):
            lines += [f"no data: {where}: {why}" for where, why in scene.faults.lost.items()]
            if scene.faults.strange:
                lines.append(f"no data: {scene.faults.strange} pixels of '{scene.name}' with impossible values")
        return lines

    def _fingerprint(self) -> str:
        """Returns the sha256 of the contents of all files, and of what geotiff.json says of them."""
        digest = hashlib.sha256()
        for scene in (one.scene for one in self._scenes.values()):
            digest.update(str(scene.facts[-1]).encode())
            for path in scene.files:
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def _seconds(text: str) -> int:
    """Returns '2020-06-07T18:01:00Z' in Unix seconds; -1 for ''."""
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) if text else UNKNOWN_TIME
