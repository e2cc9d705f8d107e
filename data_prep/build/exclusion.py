"""Leaves out records that overlap another data set: its footprints, its images, neighbours in its scenes.

The other data set is looked at once, before the first shard, and kept as <plan>/exclude-<number>.npz for the workers.
"""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_prep.look import footprints, matching, sides, spots, views
from data_prep.look.views import Images, Looks
from data_prep.record import Pair, Tile
from dual_encoder.data.manifest import load_info
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.storage import atomic

_ARRAYS = ("split", "number", "points", "codes", "motions")


def facts(folders: Sequence[str]) -> str:
    """Returns names and fingerprints of the data sets, for the manifest and for the options that decide the bytes."""
    infos = [load_info(folder) for folder in folders]
    return "; ".join(f"{info.name}/{info.config}/{info.version} {info.fingerprint[:16]}" for info in infos)


def prepare(plan: pathlib.Path, folders: Sequence[str], specs: Mapping[str, SensorSpec], workers: int) -> None:
    """Looks at each data set and keeps what is compared in the folder of the plan; files that are there are kept.

    Raises:
      UserError: no such data set, or one that has no band in common with the records.
    """
    for number, folder in enumerate(folders):
        path = plan / f"exclude-{number}.npz"
        if path.exists():
            continue
        print(f"looking at '{folder}', whose records are left out", flush=True)
        looks = views.look(folder, views.shared(specs, load_info(folder).sensors), True, workers)
        file = io.BytesIO()
        arrays: dict[str, Any] = {name: getattr(looks, name) for name in _ARRAYS}
        arrays |= {f"edges{at}": edges for at, edges in enumerate(looks.edges)}
        np.savez(file, ids=np.array(looks.ids), **arrays)
        atomic.write(path, file.getvalue())


class Exclusion:
    """The records of a data set, to find new ones that overlap them.

    Args:
      plan: the folder of the plan.
      number: of the data set among those to exclude.
      folder: of the data set.
      specs: feature name -> sensor of the new records.
      metres: side of the footprint of a new record.
      entries: number of new records, more or less.
    """

    def __init__(self, plan: pathlib.Path, number: int, folder: str, specs: Mapping[str, SensorSpec], metres: float,
                 entries: int):
        info = load_info(folder)
        self._specs, self._views = specs, views.shared(specs, info.sensors)
        with np.load(plan / f"exclude-{number}.npz", allow_pickle=False) as file:
            self._looks = Looks(
                folder=epath.Path(folder), info=info, splits=tuple(info.shards), ids=file["ids"].tolist(),
                edges=tuple(file[f"edges{at}"] for at in range(len(self._views))),
                **{name: file[name] for name in _ARRAYS})
        self._ground = footprints.Index(self._looks.points, self._looks.metres, metres, matching.TOUCH)
        self._spots = spots.Index(self._looks.codes, self._looks.motions, self._looks.size)
        self._sides = [sides.Index(edges) for edges in self._looks.edges]
        self._images = Images(self._looks)
        self._compared = entries * len(self._looks)

    def reason(self, record: Pair | Tile) -> str:
        """Returns why a record is left out, with the id of the other one; '' if it overlaps none."""
        point = np.array([[record.lat, record.lon]], np.float32).astype(np.float64)  # as it is stored
        for part in self._ground.pairs(point):
            return self._because(int(part[0, 0]), "shares ground with")
        pixels = [(view.of(record.images[view.feature], self._specs[view.feature]),
                   self._specs[view.feature].holds_data(record.images[view.feature])) for view in self._views]
        if (row := self._duplicate(pixels[0][0][..., :spots.BANDS])) is not None:
            return self._because(row, "shows the same as")
        placed = self._looks.placed & (not np.isnan(point).any())
        for number, (image, there) in enumerate(pixels):
            if (row := self._neighbour(number, image, there, placed)) is not None:
                return self._because(row, "is a neighbour of")
        return ""

    def _duplicate(self, image: np.ndarray) -> int | None:
        codes, motions = spots.describe(image)
        for _, row, *motion in self._spots.candidates(codes[None], motions[None], len(image)).tolist():
            theirs = self._images.bands(row, self._views[0])[0][..., :spots.BANDS]
            if spots.similarity(theirs, image, *motion) >= spots.SAME:
                return row
        return None

    def _neighbour(self, number: int, image: np.ndarray, there: np.ndarray, placed: np.ndarray) -> int | None:
        if len(image) != self._looks.size:
            return None
        for part in self._sides[number].candidates(sides.segments(image, there)[None]):
            for row, _, partners in part.tolist():
                side, partner = sides.PARTNERS[partners]
                theirs = sides.profiles(*self._images.bands(row, self._views[number]))[side]
                if not placed[row] and sides.continues(theirs, sides.profiles(image, there)[partner], self._compared):
                    return row
        return None

    def _because(self, row: int, verb: str) -> str:
        looks = self._looks
        return f"{verb} '{looks.ids[row]}' of {looks.name}, split {looks.splits[looks.split[row]]} (--exclude)"


def check(folders: Sequence[str]) -> None:
    """Raises UserError unless each is a data set on a disk, named once."""
    for folder in folders:
        if "://" in folder:
            raise UserError(f"--exclude={folder} is a bucket; copy the data set to a folder")
        load_info(folder)
    if len(set(folders)) < len(folders):
        raise UserError(f"--exclude names '{max(folders, key=list(folders).count)}' twice; name each data set once")
