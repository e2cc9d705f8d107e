"""A toy layout with a height model next to radar and optical image: one .npz file per place.

<raw>/<split>_<place>.npz   s1 int16 [size, size, 2], hundredths of dB; s2 uint16 [size, size, 12], reflectance x 10000;
                            s3 int16 [size, size, 1], metres
"""

import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from data_prep.importers import Entry, Layout, Reject
from data_prep.record import Pair, Tile


class Importer:
    """Reads the toy layout. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        return Layout(sensors={"s1": ("s1_grd",), "s2": ("s2_l2a",), "s3": ("toy_height",)},
                      default=("s1", "s2", "s3"), size=16, label=None,
                      source={"licence": "none", "attribution": "made by a test", "notes": ""})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw, self._sensors = raw, sensors

    def entries(self) -> Iterator[Entry | Reject]:
        for path in sorted(self._raw.glob("*.npz")):
            yield Entry(path.stem, path.stem, path.stem.split("_")[0], {"file": path.name})

    def read(self, entry: Entry) -> Pair | Tile:
        with np.load(self._raw / entry.where["file"]) as file:
            return Pair.of(entry, images={feature: file[feature] for feature in self._sensors}, source="toy")
