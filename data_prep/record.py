"""The one schema: every importer yields Pairs or Tiles, every builder takes them.

Stored features: id, location_id, source, lat, lon, cloud, s2_offset_removed; the images under the names of their
features (s1, s2, ...); s1_time, s2_time and `<feature>_time` of each further image; label in tiles.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, TypedDict, Unpack

import numpy as np

from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec

UNKNOWN_TIME = -1
PAIR = ("s1", "s2")  # the images of a pair; their times are stored with every record, known or not


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A record that can be read, as an importer lists it: `id`, `location_id` and `split` as in `Pair`.

    Attributes:
      where: all that reading needs, as JSON values; paths as text relative to the raw folder.
      block: a larger area that must not be divided among splits if lat and lon are unknown; '' = the location.
      lat, lon, cloud: as in `Pair` if listing finds them out cheaply; NaN otherwise. Filters then work before the
        pixels are read, and splits by area use the coordinates.
      times: as in `Pair`; features without a time are left out.
    """

    id: str
    location_id: str
    split: str
    where: Mapping[str, Any]
    block: str = ""
    lat: float = math.nan
    lon: float = math.nan
    cloud: float = math.nan
    times: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "lon", fold_longitude(self.lon))  # one place is in one area


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Record:
    """The fields that pairs and tiles share.

    Attributes:
      id: unique in its data set and stable.
      images: feature name ('s1', 's2', ...) -> [height, width, bands], stored integers of its sensor; one pixel grid.
      times: feature name -> acquisition, Unix seconds UTC; a feature that is absent or -1 has no known time.
      location_id: the place; equal for all dates of a place.
      lat, lon: centre in degrees (WGS 84); NaN unknown.
      source: origin of the record, for people.
      s2_offset_removed: the DN that was subtracted from the product's S2 values.
      split: the split of the data set's authors; '' if they gave none.
      cloud: percent of cloud in the S2 image or its scene, as the data set states it; NaN unknown.
      remarks: how a fact was known, such as 's1: order of the bands taken from geotiff.json'; few different ones, they
        are counted over a build and not stored with each record.
    """

    id: str
    images: Mapping[str, np.ndarray]
    times: Mapping[str, int]
    location_id: str
    lat: float
    lon: float
    source: str
    s2_offset_removed: int
    split: str
    cloud: float = math.nan
    remarks: tuple[str, ...] = ()


class _Known(TypedDict, total=False):
    """Facts of a record that are known only when it is read, or better then; as in `_Record`."""

    times: Mapping[str, int]
    lat: float
    lon: float
    cloud: float
    s2_offset_removed: int
    remarks: tuple[str, ...]


class _Facts(TypedDict):
    """The facts of a record apart from images, label and source; as in `_Record`."""

    id: str
    location_id: str
    split: str
    times: Mapping[str, int]
    lat: float
    lon: float
    cloud: float
    s2_offset_removed: int
    remarks: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair(_Record):
    """A Sentinel-1 and a Sentinel-2 image of one place at nearby times, perhaps with images of further sensors."""

    @classmethod
    def of(cls, entry: Entry, *, images: Mapping[str, np.ndarray], source: str, **known: Unpack[_Known]) -> "Pair":
        """Makes a Pair of an entry and its images; the facts `known` replace those of the entry."""
        return cls(images=images, source=source, **_facts(entry, known))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile(_Record):
    """One or more images with a label.

    Attributes:
      label: of the dtype and shape of the data set's `LabelSpec`: uint8 [height, width] for classes of pixels.
    """

    label: np.ndarray

    @classmethod
    def of(cls, entry: Entry, *, images: Mapping[str, np.ndarray], label: np.ndarray, source: str,
           **known: Unpack[_Known]) -> "Tile":
        """Makes a Tile of an entry, its images and its label; the facts `known` replace those of the entry."""
        return cls(images=images, label=label, source=source, **_facts(entry, known))


def fold_longitude(degrees: float) -> float:
    """Returns a longitude of -360..360 degrees as the same one of -180..180; any other value as it is."""
    return (degrees + 180) % 360 - 180 if 180 <= abs(degrees) <= 360 else degrees


def _facts(entry: Entry, known: _Known) -> _Facts:
    return {"id": entry.id, "location_id": entry.location_id, "split": entry.split,
            "times": known.get("times", entry.times), "lat": known.get("lat", entry.lat),
            "lon": fold_longitude(known.get("lon", entry.lon)), "cloud": known.get("cloud", entry.cloud),
            "s2_offset_removed": known.get("s2_offset_removed", 0), "remarks": known.get("remarks", ())}


def time_of(times: Mapping[str, int], feature: str) -> int:
    """Returns the acquisition time of an image, Unix seconds UTC; -1 if it is unknown."""
    return times.get(feature, UNKNOWN_TIME)


def unknown_times(times: Mapping[str, int]) -> list[str]:
    """Returns the features of a pair that have no known time."""
    return [feature for feature in PAIR if time_of(times, feature) == UNKNOWN_TIME]


def gap(times: Mapping[str, int]) -> int | None:
    """Returns the seconds between the first and the last image of a record; None if a time of its pair is unknown.

    A further image without a known time, such as a height model, does not count.
    """
    known = [time for time in times.values() if time != UNKNOWN_TIME]
    return None if unknown_times(times) else max(known) - min(known)


def timed(features: Collection[str]) -> list[str]:
    """Returns the features whose times a record stores: the two of a pair, then others of `features` in their order."""
    return list(dict.fromkeys((*PAIR, *features)))


def check(record: Pair | Tile, sensors: Mapping[str, SensorSpec], size: int, label: LabelSpec | None = None) -> None:
    """Checks a record against the description of its data set.

    Args:
      record: the record.
      sensors: feature name -> spec, for exactly the images that the data set stores.
      size: height and width in pixels; 0 = any, for records that are cut.
      label: spec of the label of a Tile.

    Raises:
      UserError: wrong dtype, shape, number of bands or label value; an image without a single pixel of data.
    """
    def wrong(what: str, seen: object, expected: object) -> UserError:
        return UserError(f"record '{record.id}': {what} is {seen}, expected {expected}; mend or remove it in the raw "
                         "data")

    if not record.id or not record.location_id:
        raise wrong("id or location_id", "empty", "a name")
    images = {feature: record.images[feature] for feature in sensors if feature in record.images}
    if set(images) != set(sensors):
        raise wrong("set of images", sorted(record.images), sorted(sensors))
    first, *others = sensors
    for other in others:
        if images[other].shape[:2] != images[first].shape[:2]:
            raise wrong(f"size of {other}", list(images[other].shape[:2]),
                        f"that of {first}, {list(images[first].shape[:2])}")
    shape = (size, size) if size else images[first].shape[:2]
    for feature, image in images.items():
        spec = sensors[feature]
        if image.dtype != spec.dtype:
            raise wrong(f"dtype of {feature}", image.dtype, f"{spec.dtype} ({spec.unit})")
        if image.shape != (*shape, len(spec.bands)):
            raise wrong(f"shape of {feature}", list(image.shape), f"{[*shape, len(spec.bands)]} for bands "
                        f"{' '.join(spec.bands)}")
        if spec.no_data is not None and bool((image == spec.no_data).all()):
            raise wrong(feature, "without data in every pixel (all NaN or no-data)", "an image")
    for name, degrees, limit in (("lat", record.lat, 90), ("lon", record.lon, 180)):
        if not (math.isnan(degrees) or abs(degrees) <= limit):
            raise wrong(name, degrees, "degrees or NaN")
    if isinstance(record, Tile):
        if label is None:
            raise wrong("label", "there", "none: the data set stores no label")
        if fault := label.fault(record.label, shape):
            raise wrong(*fault)


def patches(raw_size: int, size: int) -> int:
    """Returns how many patches of `size` pixels are cut from an image of `raw_size`; 0 = it has the size of one."""
    return max(1, raw_size // size) ** 2


def cut(record: Pair | Tile, size: int) -> list[Pair | Tile]:
    """Cuts a record into the whole patches of `size` pixels that fit, row by row from the upper left.

    A patch is a place of its own: '_r<row>_c<column>' is added to id and location_id. Latitude and longitude stay those
    of the whole image's centre. An image of that size is returned as it is.

    Raises:
      UserError: the label is that of the whole image; the image is smaller than a patch.
    """
    height, width = next(iter(record.images.values())).shape[:2]
    if (height, width) == (size, size):
        return [record]
    if min(height, width) < size:
        raise UserError(f"record '{record.id}' is {height}x{width} pixels, smaller than a patch of {size}; leave it "
                        "out or give a smaller --size")
    if isinstance(record, Tile) and record.label.shape != (height, width):
        raise UserError(f"record '{record.id}': its label is that of the whole image of {height}x{width} pixels, "
                        f"patches of {size} pixels have none; build without --size")
    patches: list[Pair | Tile] = []
    for row in range(height // size):
        for column in range(width // size):
            window = slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)
            patch = dataclasses.replace(
                record, id=f"{record.id}_r{row}_c{column}", location_id=f"{record.location_id}_r{row}_c{column}",
                images={name: np.ascontiguousarray(image[window]) for name, image in record.images.items()})
            if isinstance(patch, Tile):
                patch = dataclasses.replace(patch, label=patch.label[window].copy())
            patches.append(patch)
    return patches
