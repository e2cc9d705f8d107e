"""SEN12MS-CR: 122,218 patches of 256x256 for cloud removal (mediatum.ub.tum.de/1554803); S1 with the cloud-free S2.

As published:
<raw>/ROIs1158_spring_s1/s1_1/ROIs1158_spring_s1_1_p30.tif    2 bands VV VH, float dB
     ROIs1158_spring_s2/s2_1/ROIs1158_spring_s2_1_p30.tif     13 bands L1C, reflectance x 10000, cloud-free
     ROIs1158_spring_s2_cloudy/...                            not read
     ROIs1868_summer, ROIs1970_fall, ROIs2017_winter          likewise; all top folders also without _s1 or _s2

Flat copies:
<raw>/s1/ROIs1970_fall_139_p839.tif                           season, scene, patch
<raw>/s2_cloudfree/ROIs1970_fall_139_p839.tif

Places, times and values as in SEN12MS; no splits are published with the images.
"""

import pathlib
from collections.abc import Iterator, Mapping

from data_prep.importers import Entry, Layout, Reject, no_such_kind
from data_prep.importers import _sen12ms_patches as patches
from data_prep.record import Pair, Tile

_FLAT = {"s1": "s1", "s2": "s2_cloudfree"}


class Importer:
    """Reads SEN12MS-CR. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        if kind == "tiles":
            raise no_such_kind("sen12ms_cr", "tiles", "it has no labels; build pairs or give --labels=water_weak")
        return Layout(
            sensors=patches.SENSORS_OF, default=("s1", "s2"), size=patches.SIZE, label=None,
            source={"licence": "CC-BY-4.0",
                    "attribution": "Ebel et al. 2020, Multisensor Data Fusion for Cloud Removal, IEEE TGRS, doi "
                                   "10.1109/TGRS.2020.3024744; contains modified Copernicus Sentinel data 2018",
                    "notes": "S1 GRD sigma0 in dB, stops at 0 dB; S2 L1C, the cloud-free image; acquisition times are "
                             "not known; neighbouring patches overlap by half"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw, self._features = raw, tuple(sensors)

    def entries(self) -> Iterator[Entry | Reject]:
        if any((self._raw / folder).is_dir() for folder in _FLAT.values()):
            found = patches.flat(self._raw, {feature: _FLAT[feature] for feature in self._features})
        else:
            found = patches.nested(self._raw, self._features)
        for patch in found:
            yield patches.entry(patch, self._features)

    def read(self, entry: Entry) -> Pair | Tile:
        return patches.read(self._raw, entry, self._features, "SEN12MS-CR")
