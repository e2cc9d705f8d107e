"""DFC2020, the IEEE GRSS Data Fusion Contest 2020: land cover at 10 m on SEN12MS-like patches (ieee-dataport.org).

As published:
<raw>/ROIs0000_validation/{s1,s2,dfc}_validation/ROIs0000_validation_{s1,s2,dfc}_0_p0.tif      986 patches
     ROIs0000_test/{s1,s2,dfc}_0/ROIs0000_test_{s1,s2,dfc}_0_p0.tif                           5,128 patches
     ROIs0000_autumn/{s1,s2,dfc}_CapeTown/ROIs0000_autumn_{s1,s2,dfc}_CapeTown_p63.tif, ...   later release by place

Repackaged by Copernicus-Bench (the test patches alone, with splits of its own that are not the contest's):
<raw>/dfc2020_s1s2/{s1,s2,dfc}/ROIs0000_test_{s1,s2,dfc}_0_p609.tif
                  /dfc-{train,val,test}-new.csv                              names of label files, 3156 / 986 / 986

s1 is float dB, s2 13 bands L1C, dfc one band of classes 1..10. Eight of them are in use; 0 background, 3 savanna and
8 snow and ice are ignored. Traps: the georeference is void (a CRS in degrees on pixel numbers); the values of dfc are
not those of SEN12MS's lc in the same folders. Test and validation patches do not name their scene: there the area is
the patch.
"""

import pathlib
from collections.abc import Iterator, Mapping

from data_prep.importers import Entry, Layout, Reject
from data_prep.importers import _sen12ms_patches as patches
from data_prep.record import Pair, Tile
from data_prep.text_files import read_text
from dual_encoder.data.labels import LabelSpec

CLASSES = ("forest", "shrubland", "grassland", "wetland", "cropland", "urban", "barren", "water")
_LAND_COVER = patches.Classes("dfc", 1, {1: 0, 2: 1, 4: 2, 5: 3, 6: 4, 7: 5, 9: 6, 10: 7}, (0, 3, 8))
_OFFICIAL = {"ROIs0000_validation": "validation", "ROIs0000_test": "test"}  # season -> split
_LISTS = {"train": "train", "val": "validation", "test": "test"}


class Importer:
    """Reads DFC2020. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        return Layout(
            sensors=patches.SENSORS_OF, default=("s1", "s2"), size=patches.SIZE,
            label=LabelSpec("pixel_classes", CLASSES) if kind == "tiles" else None,
            source={"licence": "CC-BY-4.0 as Copernicus-Bench states; the contest's own files: terms of IEEE DataPort",
                    "attribution": "Yokoya et al. 2020, 2020 IEEE GRSS Data Fusion Contest, IEEE GRSM 8(1), doi "
                                   "10.1109/MGRS.2020.2970124; contains modified Copernicus Sentinel data; repackaged "
                                   "form: Wang et al. 2025, Copernicus-Bench, arXiv 2503.11849",
                    "notes": "S1 GRD sigma0 in dB; S2 L1C; no acquisition times, no coordinates; eight classes, "
                             "background, savanna and snow are ignored"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw, self._features = raw, tuple(sensors)
        self._classes = _LAND_COVER if kind == "tiles" else None

    def entries(self) -> Iterator[Entry | Reject]:
        layers = self._features + (("dfc",) if self._classes else ())
        bench = next((folder for folder in ("dfc2020_s1s2", ".") if (self._raw / folder / "s1").is_dir()
                      or (self._raw / folder / "s2").is_dir()), None)
        if bench is None:
            found, splits = patches.nested(self._raw, layers), None
        else:
            prefix = "" if bench == "." else f"{bench}/"
            found = patches.flat(self._raw, {layer: f"{prefix}{layer}" for layer in layers})
            splits = _splits(self._raw / bench)
        for patch in found:
            if isinstance(patch, Reject):
                yield patch
                continue
            split = _OFFICIAL.get(patch.season, "") if splits is None else splits.get(patch.id, "")
            yield patches.entry(patch, layers, split=split, scene_is_area=patch.season not in _OFFICIAL)

    def read(self, entry: Entry) -> Pair | Tile:
        return patches.read(self._raw, entry, self._features, "DFC2020", classes=self._classes, georeferenced=False)


def _splits(folder: pathlib.Path) -> dict[str, str]:
    """Reads patch id -> split from the lists of Copernicus-Bench."""
    ids: dict[str, str] = {}
    for name, split in _LISTS.items():
        path = folder / f"dfc-{name}-new.csv"
        lines = read_text(path, "a list of patches in the archive with the folders s1, s2 and dfc").splitlines()
        ids |= {patches.patch_id(line): split for line in lines}
    return ids
