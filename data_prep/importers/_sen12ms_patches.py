"""The common form of SEN12MS, SEN12MS-CR and DFC2020: names of patches, folders and pixels.

Nested:  <raw>/ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p30.tif    season, layer, scene, number of the patch;
                                                                    the top folder may end in the layer too (.._s1)
Flat:    <raw>/s1/ROIs1158_spring_1_p30.tif                         with or without the layer in the name

The GeoTIFFs have no band names: s1 is VV VH (float dB), s2 is B01 ... B08 B8A B09 B10 B11 B12 (L1C, reflectance
x 10000), in this order as published. S1 without data is NaN, or exactly 0 in both bands. A 0 in VV alone is data: the
published values stop at 0 dB, and in the real patches the pixels around such zeros climb to -0.01 dB (bright roofs).
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np

from data_prep.importers import Entry, Reject
from data_prep.importers._unmatched import UnmatchedFiles, in_folder
from data_prep.record import Pair, Tile
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.radiometry import db_to_int16, remove_s2_offset, without_zeros
from dual_encoder.imagery.sensors import IGNORED, SENSORS

SIZE = 256
SENSORS_OF = {"s1": ("s1_grd",), "s2": ("s2_l1c",)}  # feature -> sensors that the family has
_NAME = re.compile(r"(ROIs\d+_[A-Za-z]+)(?:_(s1|s2|lc|dfc))?_([A-Za-z0-9]+)_p(\d+)\.tif")
_LAYERS = "s1|s2|s2_cloudy|lc|dfc"  # all that are published
_TOP, _SCENE = re.compile(rf"ROIs\d+_[A-Za-z]+(?:_(?:{_LAYERS}))?|splits"), re.compile(rf"(?:{_LAYERS})_[A-Za-z0-9]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Patch:
    """One patch and its files.

    Attributes:
      season: 'ROIs1158_spring'.
      scene: '1'; the numbers of different seasons are different places.
      number: of the patch in its scene.
      files: layer -> path relative to the raw folder.
    """

    season: str
    scene: str
    number: int
    files: Mapping[str, str]

    @property
    def id(self) -> str:
        """'ROIs1158_spring_1_p30', the same for all layers."""
        return f"{self.season}_{self.scene}_p{self.number}"

    @property
    def block(self) -> str:
        """'ROIs1158_spring_1', the scene: its patches overlap each other by half."""
        return f"{self.season}_{self.scene}"


@dataclasses.dataclass(frozen=True)
class Classes:
    """A layer of labels: the first of `bands` bands of `layer`; values in `index` have a class, others in `ignored`."""

    layer: str
    bands: int
    index: Mapping[int, int]
    ignored: Collection[int]


def patch_id(name: str) -> str:
    """Returns the `Patch.id` of a file name as in the lists of splits, of any layer; '' for other names."""
    match = _NAME.fullmatch(pathlib.PurePosixPath(name.strip()).name)
    return Patch(match[1], match[3], int(match[4]), {}).id if match else ""


def nested(raw: pathlib.Path, layers: Iterable[str]) -> Iterator[Patch | Reject]:
    """Lists the patches of the nested form, scene by scene, with the files of `layers` that there are.

    Raises:
      UserError: no folder of a layer.
    """
    folders: dict[tuple[str, str], dict[str, str]] = {}
    beside = UnmatchedFiles("a folder such as ROIs1158_spring/s1_1")
    tops = [top for top in in_folder(raw, "", _is(_TOP), beside) if (raw / top).is_dir()]
    scenes = [(top, scene) for top in tops if top != "splits" for scene in in_folder(raw, top, _is(_SCENE), beside)]
    for layer in layers:
        found = [(name[1], number[1], f"{top}/{scene}") for top, scene in scenes
                 if (name := re.fullmatch(rf"(ROIs\d+_[A-Za-z]+?)(?:_{layer})?", top))
                 and (number := re.fullmatch(rf"{layer}_([A-Za-z0-9]+)", scene)) and (raw / top / scene).is_dir()]
        if not found:
            raise UserError(f"'{raw}' holds no folder such as ROIs1158_spring/{layer}_1; --raw must name the folder of "
                            f"the ROIs... folders, with the layer '{layer}' unpacked")
        for season, scene, folder in found:
            folders.setdefault((season, scene), {})[layer] = folder
    names = _names_beside()
    for season, scene in sorted(folders, key=lambda key: (key[0], key[1].zfill(9))):
        yield from _together(raw, folders[season, scene], names)
    yield from beside.result()
    yield from names.result()


def flat(raw: pathlib.Path, folders: Mapping[str, str]) -> Iterator[Patch | Reject]:
    """Lists the patches of the flat form with the files that there are; `folders`: layer -> folder.

    Raises:
      UserError: a folder is missing.
    """
    for folder in folders.values():
        if not (raw / folder).is_dir():
            raise UserError(f"'{raw / folder}' is missing; --raw must name the folder that holds "
                            f"{', '.join(folders.values())}")
    beside = _names_beside()
    yield from _together(raw, folders, beside)
    yield from beside.result()


def _is(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda name: pattern.fullmatch(name) is not None


def _names_beside() -> UnmatchedFiles:
    return UnmatchedFiles("a name like ROIs1158_spring_s1_1_p30.tif in a folder of its layer, each patch once")


def _together(raw: pathlib.Path, folders: Mapping[str, str], beside: UnmatchedFiles) -> Iterator[Patch]:
    """Joins the files of some folders by season, scene and number, never by their order; `beside` counts others."""
    files: dict[tuple[str, str, int], dict[str, str]] = {}
    for layer, folder in folders.items():
        def fits(name: str, layer: str = layer) -> bool:
            match = _NAME.fullmatch(name)
            return match is not None and match[2] in (layer, None)

        for name in sorted(in_folder(raw, folder, fits, beside), key=lambda name: (f"_{layer}_" not in name, name)):
            match = _NAME.fullmatch(name)
            assert match is not None
            patch = files.setdefault((match[1], match[3], int(match[4])), {})
            if layer in patch:  # the name of the layer is optional
                beside.add(f"{folder}/{name}")
            else:
                patch[layer] = f"{folder}/{name}"
    for season, scene, number in sorted(files, key=lambda key: (key[0], key[1].zfill(9), key[2])):
        yield Patch(season, scene, number, files[season, scene, number])


def entry(patch: Patch | Reject, layers: Collection[str], *, split: str = "", scene_is_area: bool = True
          ) -> Entry | Reject:
    """Returns the entry of a patch that has all `layers`, else why it has none.

    `scene_is_area`: the scene is an area that must not be divided among splits.
    """
    if isinstance(patch, Reject):
        return patch
    if missing := [layer for layer in layers if layer not in patch.files]:
        return Reject(patch.id, f"'{next(iter(patch.files.values()))}' has no partner of layer '{missing[0]}'")
    return Entry(patch.id, patch.id, split, dict(patch.files), block=patch.block if scene_is_area else "")


def read(raw: pathlib.Path, item: Entry, features: Iterable[str], source: str, *, classes: Classes | None = None,
         georeferenced: bool = True) -> Pair | Tile:
    """Reads an entry made by `entry`: a Pair, or with `classes` a Tile; pixels without data are ignored in its label.

    Args:
      raw: the raw folder.
      item: the entry.
      features: the images wanted, out of 's1', 's2'.
      source: as in `Pair`.
      classes: the layer of labels.
      georeferenced: True if the files have a georeference.

    Raises:
      UserError: damaged file, wrong number of bands, a label value that is no class.
    """
    images = {feature: {"s1": _s1, "s2": _s2}[feature](raw / item.where[feature]) for feature in features}
    lat, lon = raster.centre(raw / item.where[next(iter(images))]) if georeferenced else (item.lat, item.lon)
    if classes is None:
        return Pair.of(item, images=images, source=source, lat=lat, lon=lon)
    label = _label(raw / item.where[classes.layer], classes)
    for feature, image in images.items():
        if label.shape != image.shape[:2]:
            raise UserError(f"'{item.where[classes.layer]}' has {label.shape[0]}x{label.shape[1]} pixels, its "
                            f"{feature} {image.shape[0]}x{image.shape[1]}; fetch both again")
        label[~SENSORS[SENSORS_OF[feature][0]].holds_data(image)] = IGNORED
    return Tile.of(item, images=images, label=label, source=source, lat=lat, lon=lon)


def _s1(path: pathlib.Path) -> np.ndarray:
    db = np.moveaxis(raster.read(path, len(SENSORS["s1_grd"].bands), missing=np.nan), 0, -1)
    return db_to_int16(without_zeros(db))


def _s2(path: pathlib.Path) -> np.ndarray:
    # All images are older than processing baseline 04.00: there is no offset to remove.
    return remove_s2_offset(np.moveaxis(raster.read(path, len(SENSORS["s2_l1c"].bands), missing=0), 0, -1), 0)


def _label(path: pathlib.Path, classes: Classes) -> np.ndarray:
    values = raster.read(path, classes.bands, missing=next(iter(classes.ignored)))[0]
    label = np.full(values.shape, IGNORED, np.uint8)
    for value, index in classes.index.items():
        label[values == value] = index
    known = [*classes.index, *classes.ignored]
    if not np.isin(values, known).all():
        raise UserError(f"'{path}' holds values {np.setdiff1d(values, known)[:6].tolist()} that are no class; is it a "
                        f"file of layer '{classes.layer}'?")
    return label
