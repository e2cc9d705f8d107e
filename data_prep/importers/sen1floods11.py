"""Sen1Floods11 v1.1, the 446 hand-labelled chips (github.com/cloudtostreet/Sen1Floods11).

<raw>/data/flood_events/HandLabeled/S1Hand/<EVENT>_<CHIP>_S1Hand.tif        VV VH, float dB, NaN = no data
                                   /S2Hand/<EVENT>_<CHIP>_S2Hand.tif        13 bands L1C, reflectance x 10000; optional
                                   /LabelHand/<EVENT>_<CHIP>_LabelHand.tif  1 water, 0 land, -1 no data
<raw>/splits/flood_handlabeled/flood_{train,valid,test,bolivia}_data.csv    optional

All of it may lie in <raw>/v1.1, or HandLabeled or its layers in <raw> itself.

Chips without one of the layers or with radar that is all NaN become rejects. Bolivia is a region of its own and becomes
the split 'bolivia' in addition to train, validation and test, as in the paper.
"""

import calendar
import csv
import io
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_prep.importers import Entry, Layout, Reject
from data_prep.importers._unmatched import UnmatchedFiles, in_folder
from data_prep.record import UNKNOWN_TIME, Pair, Tile
from data_prep.text_files import read_text
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.radiometry import db_to_int16, remove_s2_offset
from dual_encoder.imagery.sensors import IGNORED, SENSORS

_LAYERS = {"s1": "S1Hand", "s2": "S2Hand"}
_SPLITS = {"train": "train", "valid": "validation", "test": "test", "bolivia": "bolivia"}
# Days of the S1 and the S2 image of each event (Sen1Floods11_Metadata.geojson). Chips called Mekong are Cambodia there.
_EVENT_DAYS = {
    "Bolivia": ("2018-02-15", "2018-02-15"), "Ghana": ("2018-09-18", "2018-09-19"),
    "India": ("2016-08-12", "2016-08-12"), "Mekong": ("2018-08-05", "2018-08-04"),
    "Nigeria": ("2018-09-21", "2018-09-20"), "Pakistan": ("2017-06-28", "2017-06-28"),
    "Paraguay": ("2018-10-31", "2018-10-31"), "Somalia": ("2018-05-07", "2018-05-05"),
    "Spain": ("2019-09-17", "2019-09-18"), "Sri-Lanka": ("2017-05-30", "2017-05-28"),
    "USA": ("2019-05-22", "2019-05-22"), "Colombia": ("2018-08-22", "2018-08-23"),
}


class Importer:
    """Reads Sen1Floods11. See `importers.Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None = None) -> Layout:
        return Layout(
            sensors={"s1": ("s1_grd",), "s2": ("s2_l1c",)},
            default=("s1",) if kind == "tiles" else ("s1", "s2"), size=512,
            label=LabelSpec("pixel_classes", ("land", "water")) if kind == "tiles" else None,
            source={"licence": "CC-BY-4.0",
                    "attribution": "Bonafilia et al. 2020, Sen1Floods11, CVPR Workshops; contains modified Copernicus "
                                   "Sentinel data",
                    "notes": "pixels are square in degrees, not in metres; times are the event's days at 00:00 UTC"})

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        self._kind, self._sensors = kind, sensors
        self._layers = [_LAYERS[feature] for feature in sensors] + (["LabelHand"] if kind == "tiles" else [])
        places = [raw / "data/flood_events/HandLabeled", raw / "v1.1/data/flood_events/HandLabeled",
                  raw / "HandLabeled", raw]
        hand = next((place for place in places if any((place / layer).is_dir() for layer in self._layers)), None)
        if hand is None:
            raise UserError(f"'{places[0] / self._layers[0]}' is missing; --raw must name the folder of Sen1Floods11 "
                            "v1.1 that holds data/flood_events/HandLabeled")
        self._hand = hand
        for layer in self._layers:
            if not (self._hand / layer).is_dir():
                raise UserError(f"'{self._hand / layer}' is missing; fetch that layer of Sen1Floods11"
                                + (" or leave s2 out of --sensors" if layer == "S2Hand" and kind == "tiles" else ""))
        self._splits = _read_splits([raw, raw / "v1.1", self._hand.parent.parent.parent])

    def entries(self) -> Iterator[Entry | Reject]:
        beside = UnmatchedFiles("a name like Ghana_103272_S1Hand.tif, by its folder")
        chips = {layer: {name.removesuffix(f"_{layer}.tif") for name in in_folder(
            self._hand, layer, lambda name, end=f"_{layer}.tif": name.endswith(end), beside)}  # type: ignore[misc]
            for layer in self._layers}
        for chip in sorted(set().union(*chips.values())):
            if gone := [layer for layer in self._layers if chip not in chips[layer]]:
                yield Reject(chip, f"no {gone[0]} image")
                continue
            days = dict(zip(_LAYERS, _EVENT_DAYS.get(chip.rsplit("_", 1)[0], ("", "")), strict=True))
            times = {feature: _midnight(days[feature]) for feature in self._sensors}
            lat, lon = raster.listed_centre(self._file(chip, self._layers[0]))
            yield Entry(chip, chip, self._splits.get(chip, ""), {}, lat=lat, lon=lon, times=times)
        yield from beside.result()

    def _file(self, chip: str, layer: str) -> pathlib.Path:
        return self._hand / layer / f"{chip}_{layer}.tif"

    def read(self, entry: Entry) -> Pair | Tile:
        images = {}
        if "s1" in self._sensors:
            images["s1"] = db_to_int16(np.moveaxis(raster.read(self._file(entry.id, "S1Hand"), 2, np.nan), 0, -1))
        if "s2" in self._sensors:
            # All events are older than processing baseline 04.00: there is no offset to remove.
            dn = raster.read(self._file(entry.id, "S2Hand"), 13, missing=0)
            images["s2"] = remove_s2_offset(np.moveaxis(dn, 0, -1), 0)
        source = "Sen1Floods11 v1.1 hand-labelled"
        if self._kind == "pairs":
            return Pair.of(entry, images=images, source=source)
        label = self._file(entry.id, "LabelHand")
        raw_label = raster.read(label, 1, missing=-1)[0]
        if not np.isin(raw_label, (-1, 0, 1)).all():
            raise UserError(f"'{label}' holds values {np.unique(raw_label)[:6].tolist()}, expected -1, "
                            "0 and 1; is it a LabelHand file of v1.1?")
        ignored = raw_label == -1
        for feature, image in images.items():
            if raw_label.shape != image.shape[:2]:
                raise UserError(f"'{label}' has {raw_label.shape[0]}x{raw_label.shape[1]} pixels, its {feature} "
                                f"{image.shape[0]}x{image.shape[1]}; fetch both again")
            ignored |= ~SENSORS[self._sensors[feature]].holds_data(image)
        classes = np.where(ignored, IGNORED, raw_label).astype(np.uint8)
        return Tile.of(entry, images=images, label=classes, source=source)


def _read_splits(roots: Sequence[pathlib.Path]) -> dict[str, str]:
    """Returns chip -> split, of the first of `roots` that has the tables."""
    folders = [root / "splits" / "flood_handlabeled" for root in roots]
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    chips: dict[str, str] = {}
    for name, split in _SPLITS.items():
        table = folder / f"flood_{name}_data.csv"
        if table.is_file():
            rows = csv.reader(io.StringIO(read_text(table, "the list of a split"), newline=""))
            chips |= {row[0].removesuffix(".tif").removesuffix("_S1Hand"): split for row in rows if row}
    return chips


def _midnight(day: str) -> int:
    return calendar.timegm((*map(int, day.split("-")), 0, 0, 0)) if day else UNKNOWN_TIME
