"""So2Sat LCZ42 (mediaTUM 1483140): local climate zones of 400,673 patches of 320 m, in one HDF5 file per split.

<raw>/training.h5      352,366 patches of 42 cities
     /validation.h5     24,119 patches of the western half of 10 other cities
     /testing.h5        24,188 patches of their eastern half; any of the three may be missing

Arrays of each file:
  sen1    [patches, 32, 32, 8] float: real and imaginary part of VH, then of VV, not filtered; intensity of VH, then of
          VV, by the refined Lee filter; real and imaginary part of their covariance
  sen2    [patches, 32, 32, 10] float: reflectance in B02 B03 B04 B05 B06 B07 B08 B8A B11 B12, all at 10 m
  label   [patches, 17] float, 1 for the class and 0 for the others

The radar image is the filtered intensity, in dB. Pairs and tiles; the label is the class of the patch.

Traps: VH stands before VV, and intensity is linear. The files name neither places nor times: each patch counts as a
place of its own, and only the official splits keep cities apart (so do not use --split-by=area). Sentinel-2 has ten
bands, so it is a sensor of its own, and encoders of 12 or 13 bands do not fit. We take intensity for sigma0 and
reflectance for that of L1C, as the values look; the files do not say.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from data_prep.importers import Entry, Layout, Reject
from data_prep.importers import _hdf5 as hdf5
from data_prep.importers._unmatched import UnmatchedFiles
from data_prep.record import Pair, Tile
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery.radiometry import db_to_int16, linear_to_db, remove_s2_offset

CLASSES = (
    "compact high-rise", "compact mid-rise", "compact low-rise", "open high-rise", "open mid-rise", "open low-rise",
    "lightweight low-rise", "large low-rise", "sparsely built", "heavy industry", "dense trees", "scattered trees",
    "bush or scrub", "low plants", "bare rock or paved", "bare soil or sand", "water")
_SIZE = 32  # pixels
_FILES = {"train": "training.h5", "validation": "validation.h5", "test": "testing.h5"}
_SHAPES = {"sen1": (_SIZE, _SIZE, 8), "sen2": (_SIZE, _SIZE, 10), "label": (len(CLASSES),)}  # of one patch
_INTENSITY = [5, 4]  # VV, VH


class Importer:
    """Reads So2Sat LCZ42. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        return Layout(
            sensors={"s1": ("s1_grd",), "s2": ("so2sat_s2",)}, default=("s1", "s2"), size=_SIZE,
            label=LabelSpec("image_class", CLASSES) if kind == "tiles" else None,
            source={"licence": "CC-BY-4.0",
                    "attribution": "Zhu et al. 2020, So2Sat LCZ42, IEEE GRSM 8(3), arXiv 1912.12171; contains modified "
                                   "Copernicus Sentinel data 2017",
                    "notes": "S1 intensity of SLC products by the refined Lee filter, taken for sigma0 and stored in "
                             "dB; S2 of ten bands, taken for L1C; no places, no times; only the official splits keep "
                             "cities apart"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw, self._kind, self._sensors = raw, kind, sensors
        self._arrays = [{"s1": "sen1", "s2": "sen2"}[feature] for feature in sensors] + ["label"] * (kind == "tiles")
        self._open: dict[str, Any] = {}  # file name -> h5py file, of the process that reads

    def entries(self) -> Iterator[Entry | Reject]:
        beside = UnmatchedFiles(f"a file named {', '.join(_FILES.values())}")
        for item in self._raw.iterdir():
            if item.name not in _FILES.values():
                beside.add_data("", item.name, item.is_dir)
        files = {split: name for split, name in _FILES.items() if (self._raw / name).is_file()}
        if not files:
            raise UserError(f"'{self._raw / 'training.h5'}' is missing, and validation.h5 and testing.h5 with it; "
                            "--raw must name the folder of So2Sat LCZ42")
        for split, name in files.items():
            for row in range(len(self._file(name)[self._arrays[0]])):
                place = f"{split}_{row:06d}"
                yield Entry(place, place, split, {"file": name, "row": row})
        yield from beside.result()

    def read(self, entry: Entry) -> Pair | Tile:
        path, row = self._raw / entry.where["file"], entry.where["row"]
        found = {name: hdf5.read(self._file(path.name), path, name, row) for name in self._arrays}
        images = {feature: _radar(found["sen1"]) if feature == "s1" else _optical(found["sen2"])
                  for feature in self._sensors}
        if self._kind == "pairs":
            return Pair.of(entry, images=images, source="So2Sat LCZ42")
        label = found["label"]
        if sorted(label.tolist()) != [0] * (len(CLASSES) - 1) + [1]:
            raise UserError(f"'{path}': label of row {row} is {label.tolist()}, expected one 1 among 0; fetch it again")
        return Tile.of(entry, images=images, label=np.array(label.argmax(), np.int32), source="So2Sat LCZ42")

    def _file(self, name: str) -> Any:
        if name not in self._open:
            path = self._raw / name
            self._open[name], seen = hdf5.opened(path, self._arrays)
            patches = seen[self._arrays[0]].shape[:1]
            for array, form in seen.items():
                expected = *patches, *_SHAPES[array]
                if form.shape != expected or form.kind not in "iuf" or form.chunk > hdf5.LARGEST_CHUNK:
                    raise UserError(f"'{path}': array '{array}' is {form}, expected shape {expected} of So2Sat LCZ42 "
                                    "(see data_prep/importers/so2sat.py); fetch it again")
        return self._open[name]


def _radar(sen1: np.ndarray) -> np.ndarray:
    """Returns the stored image [32, 32, VV VH] of the eight channels."""
    return db_to_int16(linear_to_db(sen1[..., _INTENSITY]))


def _optical(sen2: np.ndarray) -> np.ndarray:
    """Returns the stored image [32, 32, 10]; a pixel that is not finite in one band has no data."""
    valid = np.isfinite(sen2).all(axis=-1, keepdims=True)
    return remove_s2_offset(np.rint(np.where(valid, sen2, 0) * 1e4).clip(0, 65535).astype(np.uint16), 0)
