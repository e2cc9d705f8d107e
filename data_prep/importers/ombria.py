"""OMBRIA: flood sites of the Copernicus Emergency Management Service (github.com/geodrak/OMBRIA).

<raw>/OmbriaS1/{train,test}/{BEFORE,AFTER,MASK}/S1_{before,after,mask}_0001.png   grey, stretched per image
<raw>/OmbriaS2/{train,test}/{BEFORE,AFTER}/S2_{before,after}_0001.png            B11, B08, B03 as red, green, blue

Pairs: before and after are two pairs of one location. Tiles: the AFTER images with the flood mask; permanent rivers
are 0 in it. Dates and places are not published.
"""

import math
import pathlib

import numpy as np
import PIL
from PIL import Image

from data_prep.importers import Entry, Layout
from data_prep.record import UNKNOWN_TIME, Pair, Tile
from dual_encoder.errors import UserError


class Importer:
    """Reads OMBRIA. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        return Layout(
            sensors={"s1": "ombria_s1", "s2": "ombria_s2"}, default=("s1", "s2"), size=256,
            classes=("no flood", "flood") if kind == "tiles" else (),
            source={"licence": "none stated by the authors; do not redistribute",
                    "attribution": "Drakonakis et al. 2022, OmbriaNet, IEEE JSTARS; contains modified "
                                   "Copernicus Sentinel data; masks by Copernicus EMS",
                    "notes": "S1 is VV only, stretched per image to 8 bit: dB cannot be recovered; S2 wraps in bright "
                             "cloud; permanent rivers are 'no flood'"})

    def __init__(self, raw: pathlib.Path, kind: str, features: tuple[str, ...]):
        self._raw, self._kind, self._features = raw, kind, features

    def entries(self) -> list[Entry]:
        entries = []
        whens = ("after",) if self._kind == "tiles" else ("before", "after")
        for split in ("train", "test"):
            for when in whens:
                folder = self._raw / "OmbriaS1" / split / when.upper()
                if not folder.is_dir():
                    raise UserError(f"'{folder}' is missing; --raw must name the folder that holds OmbriaS1 and "
                                    "OmbriaS2")
                for s1 in sorted(folder.glob(f"S1_{when}_*.png")):
                    number = s1.stem.rsplit("_", 1)[1]
                    s2 = self._raw / "OmbriaS2" / split / when.upper() / f"S2_{when}_{number}.png"
                    mask = self._raw / "OmbriaS1" / split / "MASK" / f"S1_mask_{number}.png"
                    needed = [s2] * ("s2" in self._features) + [mask] * (self._kind == "tiles")
                    for partner in needed:
                        if not partner.is_file():
                            raise UserError(f"'{s1}' has no partner '{partner}'; restore it or remove both")
                    entries.append(Entry(f"ombria_{number}_{when}", f"ombria_{number}", split,
                                         {"s1": s1, "s2": s2, "mask": mask}))
        return entries

    def read(self, entry: Entry) -> Pair | Tile:
        images = {}
        if "s1" in self._features:
            images["s1"] = _png(entry.where["s1"], "L")[..., None]
        if "s2" in self._features:
            images["s2"] = _png(entry.where["s2"], "RGB")
        common = dict(id=entry.id, s1_time=UNKNOWN_TIME, s2_time=UNKNOWN_TIME, location_id=entry.location_id,
                      lat=math.nan, lon=math.nan, source="OMBRIA", s2_offset_removed=0, split=entry.split)
        if self._kind == "pairs":
            return Pair(s1=images["s1"], s2=images["s2"], **common)
        return Tile(images=images, label=(_png(entry.where["mask"], "L") > 127).astype(np.uint8), **common)


def _png(path: pathlib.Path, mode: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode != mode:
                raise UserError(f"'{path}' has mode {image.mode}, expected {mode}; is it an OMBRIA file?")
            return np.asarray(image)
    except (PIL.UnidentifiedImageError, OSError) as error:
        raise UserError(f"'{path}' cannot be read as PNG ({error}); fetch it again") from error
