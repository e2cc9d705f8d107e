"""SEN12MS: 180,662 patches of 256x256 in 252 scenes of four seasons (mediatum.ub.tum.de/1474000).

<raw>/ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p30.tif    2 bands VV VH, float dB; NaN = no data
                     /s2_1/ROIs1158_spring_s2_1_p30.tif    13 bands L1C, reflectance x 10000
                     /lc_1/ROIs1158_spring_lc_1_p30.tif    4 bands; the first one is IGBP 1..17; needed for tiles only
     ROIs1868_summer, ROIs1970_fall, ROIs2017_winter       likewise
<raw>/{train,test}_list.txt (or in <raw>/splits)           optional: names of patches, with the layer s1 or s2

Traps: the values of S1 have decimals, whole dB lose most of the contrast; scene numbers start anew in each season and
mean other places; one S1 patch is known to be damaged; there are no acquisition times, the images are mosaics of a
season. Patches of a scene are cut with a stride of half a patch: splits by area keep the scenes whole, so that no pixel
can be in two of them.
"""

import pathlib
from collections.abc import Iterator, Mapping

from data_prep.importers import Entry, Layout, Reject
from data_prep.importers import _sen12ms_patches as patches
from data_prep.record import Pair, Tile
from data_prep.text_files import read_text
from dual_encoder.data.labels import LabelSpec

IGBP = ("evergreen needleleaf forest", "evergreen broadleaf forest", "deciduous needleleaf forest",
        "deciduous broadleaf forest", "mixed forest", "closed shrubland", "open shrubland", "woody savanna", "savanna",
        "grassland", "permanent wetland", "cropland", "urban and built-up", "cropland and natural vegetation mosaic",
        "permanent snow and ice", "barren", "water")
_LAND_COVER = patches.Classes("lc", 4, {value: value - 1 for value in range(1, 18)}, (0, 255))
_DAMAGED_S1 = ("ROIs1868_summer_146_p202",)  # named by the authors next to their lists


class Importer:
    """Reads SEN12MS. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        return Layout(
            sensors=patches.SENSORS_OF, default=("s1", "s2"), size=patches.SIZE,
            label=LabelSpec("pixel_classes", IGBP) if kind == "tiles" else None,
            source={"licence": "CC-BY-4.0",
                    "attribution": "Schmitt et al. 2019, SEN12MS, ISPRS Annals IV-2/W7; contains modified Copernicus "
                                   "Sentinel data 2016-2017; land cover from MODIS MCD12Q1 (IGBP)",
                    "notes": "S1 GRD sigma0 in dB; S2 L1C; cloud-free mosaics of a season, acquisition times are not "
                             "known; neighbouring patches overlap by half; IGBP labels come "
                             "from 500 m pixels"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw, self._features = raw, tuple(sensors)
        self._classes = _LAND_COVER if kind == "tiles" else None

    def entries(self) -> Iterator[Entry | Reject]:
        layers = self._features + (("lc",) if self._classes else ())
        splits = _splits(self._raw)
        for patch in patches.nested(self._raw, layers):
            if patch.id in _DAMAGED_S1 and "s1" in layers:
                yield Reject(patch.id, "the S1 patch is damaged as published")
            else:
                yield patches.entry(patch, layers, split=splits.get(patch.id, ""))

    def read(self, entry: Entry) -> Pair | Tile:
        return patches.read(self._raw, entry, self._features, "SEN12MS", classes=self._classes)


def _splits(raw: pathlib.Path) -> dict[str, str]:
    """Reads patch id -> split; empty without lists."""
    ids: dict[str, str] = {}
    for folder in (raw, raw / "splits"):
        for split in ("train", "test"):
            if (path := folder / f"{split}_list.txt").is_file():
                ids |= {patches.patch_id(line): split for line in read_text(path, "the list of a split").splitlines()}
    return ids
