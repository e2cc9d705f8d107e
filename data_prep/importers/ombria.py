"""OMBRIA: flood sites of the Copernicus Emergency Management Service (github.com/geodrak/OMBRIA).

<raw>/OmbriaS1/{train,test}/{BEFORE,AFTER,MASK}/S1_{before,after,mask}_0001.png   grey, stretched per image
<raw>/OmbriaS2/{train,test}/{BEFORE,AFTER}/S2_{before,after}_0001.png            B11, B08, B03 as red, green, blue

Pairs: before and after are two pairs of one location. Tiles: the AFTER images with the flood mask; permanent rivers
are 0 in it. --sensors=s1,s2,s1_before,s2_before adds the BEFORE images to the tiles. Dates and places are not
published.
"""

import pathlib
import re
from collections.abc import Iterator, Mapping

import numpy as np

from data_prep.importers import Entry, Layout, Reject, _pictures
from data_prep.importers._unmatched import UnmatchedFiles, in_folder
from data_prep.record import Pair, Tile
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery import file_kinds
from dual_encoder.imagery.sensors import before

_SIZE = 256  # pixels


class Importer:
    """Reads OMBRIA. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        sensors = {"s1": ("ombria_s1",), "s2": ("ombria_s2",)}
        if kind == "tiles":
            sensors |= {before(feature): names for feature, names in sensors.items()}
        return Layout(
            sensors=sensors, default=("s1", "s2"), size=_SIZE,
            label=LabelSpec("pixel_classes", ("no flood", "flood")) if kind == "tiles" else None,
            source={"licence": "none stated by the authors; do not redistribute",
                    "attribution": "Drakonakis et al. 2022, OmbriaNet, IEEE JSTARS; contains modified "
                                   "Copernicus Sentinel data; masks by Copernicus EMS",
                    "notes": "S1 is VV only, stretched per image to 8 bit: dB cannot be recovered; S2 wraps in bright "
                             "cloud; permanent rivers are 'no flood'"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._raw, self._kind, self._sensors = raw, kind, sensors

    def entries(self) -> Iterator[Entry | Reject]:
        beside = UnmatchedFiles("a name like S1_before_0001.png, by its folder")
        layers = (*self._sensors, *(["mask"] if self._kind == "tiles" else []))
        for split in ("train", "test"):
            for when in ("after",) if self._kind == "tiles" else ("before", "after"):
                starts = {"s1": f"OmbriaS1/{split}/{when.upper()}/S1_{when}_",
                          "s2": f"OmbriaS2/{split}/{when.upper()}/S2_{when}_",
                          before("s1"): f"OmbriaS1/{split}/BEFORE/S1_before_",
                          before("s2"): f"OmbriaS2/{split}/BEFORE/S2_before_",
                          "mask": f"OmbriaS1/{split}/MASK/S1_mask_"}
                numbers = {layer: self._numbers(starts[layer], beside) for layer in layers}
                for number in sorted(set().union(*numbers.values())):
                    name, where = f"ombria_{number}_{when}", {layer: f"{starts[layer]}{number}.png" for layer in layers}
                    gone = [layer for layer in layers if number not in numbers[layer]]
                    here = [layer for layer in layers if layer not in gone]
                    yield (Reject(name, f"'{where[here[0]]}' has no partner '{where[gone[0]]}'") if gone
                           else Entry(name, f"ombria_{number}", split, where))
        yield from beside.result()

    def _numbers(self, start: str, beside: UnmatchedFiles) -> set[str]:
        folder, prefix = start.rsplit("/", 1)
        if not (self._raw / folder).is_dir():
            raise UserError(f"'{self._raw / folder}' is missing; --raw must name the folder that holds OmbriaS1 and "
                            "OmbriaS2")
        name = re.compile(rf"{prefix}(\d+)\.png")
        return {found.removeprefix(prefix).removesuffix(".png") for found in in_folder(
            self._raw, folder, lambda found: name.fullmatch(found) is not None, beside)}

    def read(self, entry: Entry) -> Pair | Tile:
        images = {feature: self._png(entry, feature, "L" if name == "ombria_s1" else "RGB")
                  for feature, name in self._sensors.items()}
        if self._kind == "pairs":
            return Pair.of(entry, images=images, source="OMBRIA")
        mask = self._png(entry, "mask", "L")[..., 0]
        return Tile.of(entry, images=images, label=(mask > 127).astype(np.uint8), source="OMBRIA")

    def _png(self, entry: Entry, layer: str, mode: str) -> np.ndarray:
        return _pictures.read(self._raw / entry.where[layer], (mode,), _SIZE, (file_kinds.PNG,))
