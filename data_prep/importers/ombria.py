"""OMBRIA: flood sites of the Copernicus Emergency Management Service (github.com/geodrak/OMBRIA).

<raw>/OmbriaS1/{train,test}/{BEFORE,AFTER,MASK}/S1_{before,after,mask}_0001.png   grey, stretched per image
<raw>/OmbriaS2/{train,test}/{BEFORE,AFTER}/S2_{before,after}_0001.png            B11, B08, B03 as red, green, blue

Pairs: before and after are two pairs of one location. Tiles: the AFTER images with the flood mask; permanent rivers
are 0 in it. --sensors=s1,s2,s1_before,s2_before adds the BEFORE images to the tiles. Dates and places are not
published.
"""

import pathlib
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import PIL
from PIL import Image

from data_prep.importers import Entry, Layout, Reject
from data_prep.importers._unmatched import UnmatchedFiles, in_folder
from data_prep.record import Pair, Tile
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery import file_kinds
from dual_encoder.imagery.sensors import before

_SIZE = 256  # pixels
_LARGEST = 1 << 24  # bytes of a file


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
        images = {feature: (_png(self._raw / entry.where[feature], "L")[..., None] if name == "ombria_s1" else
                            _png(self._raw / entry.where[feature], "RGB")) for feature, name in self._sensors.items()}
        if self._kind == "pairs":
            return Pair.of(entry, images=images, source="OMBRIA")
        mask = _png(self._raw / entry.where["mask"], "L")
        return Tile.of(entry, images=images, label=(mask > 127).astype(np.uint8), source="OMBRIA")


def _png(path: pathlib.Path, mode: str) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST)
        kind = file_kinds.kind_of(data[:file_kinds.HEAD])
        if kind != file_kinds.PNG:
            raise UserError(f"'{path}' is {kind or 'no picture'}, expected a PNG; fetch it again")
        _check_chunks(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below
            opened = Image.open(path)
        with opened as image:
            if image.size != (_SIZE, _SIZE):  # before its pixels take memory
                raise UserError(f"'{path}' is {image.height}x{image.width} pixels, expected {_SIZE}x{_SIZE}; is it an "
                                "OMBRIA file?")
            if image.mode != mode:
                raise UserError(f"'{path}' has mode {image.mode}, expected {mode}; is it an OMBRIA file?")
            return np.asarray(image)
    except UserError:
        raise
    except (PIL.UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, OverflowError, struct.error,
            zlib.error, Image.DecompressionBombError) as error:
        raise UserError(f"'{path}' cannot be read as PNG ({error}); fetch it again") from error


def _check_chunks(data: bytes) -> None:
    """Raises ValueError unless the chunks of a PNG have their checksums, to the last one: Pillow passes over some."""
    at, name = 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        content = data[at + 4:at + 8 + length]
        if length > len(data) or zlib.crc32(content) != struct.unpack_from(">I", data, at + 8 + length)[0]:
            raise ValueError(f"the checksum of a chunk at byte {at} is wrong")
        at += 12 + length
