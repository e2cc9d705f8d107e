"""The one schema: every importer yields Pairs or Tiles, every builder takes them.

Names of the stored features: id, s1, s2, s1_time, s2_time, location_id, lat, lon, cloud, source, s2_offset_removed;
tiles add label.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import IGNORED, SensorSpec

UNKNOWN_TIME = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Record:
    """What pairs and tiles have in common.

    Attributes:
      id: unique in its data set and stable.
      s1_time, s2_time: acquisition, Unix seconds UTC; -1 unknown.
      location_id: the place; equal for all dates of a place.
      lat, lon: centre in degrees (WGS 84); NaN unknown.
      source: where the record comes from.
      s2_offset_removed: the DN that was subtracted from the product's S2 values.
      split: the split that the data set's authors put it in; '' when they gave none.
      cloud: percent of cloud in the S2 image or its scene, as the data set states it; NaN unknown.
    """

    id: str
    s1_time: int
    s2_time: int
    location_id: str
    lat: float
    lon: float
    source: str
    s2_offset_removed: int
    split: str
    cloud: float = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair(_Record):
    """A Sentinel-1 and a Sentinel-2 image of one place at nearby times, on one pixel grid.

    Attributes:
      s1, s2: [height, width, bands], stored integers of their sensors.
    """

    s1: np.ndarray
    s2: np.ndarray

    @property
    def images(self) -> Mapping[str, np.ndarray]:
        """Feature name -> image."""
        return {"s1": self.s1, "s2": self.s2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile(_Record):
    """One or two images on one pixel grid with a class for each pixel.

    Attributes:
      images: 's1' and/or 's2' -> [height, width, bands], stored integers of their sensors.
      label: uint8 [height, width], class indices; 255 = ignored.
    """

    images: Mapping[str, np.ndarray]
    label: np.ndarray


def check(record: Pair | Tile, sensors: Mapping[str, SensorSpec], size: int, classes: int = 0) -> None:
    """Checks a record against what its data set says it stores.

    Args:
      record: the record.
      sensors: feature name -> spec, for exactly the images that the data set stores.
      size: height and width in pixels.
      classes: number of classes of a Tile.

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
    grids = {feature: image.shape[:2] for feature, image in images.items()}
    if len(set(grids.values())) > 1:
        raise wrong("size of s2", list(grids["s2"]), f"that of s1, {list(grids['s1'])}")
    for feature, image in images.items():
        spec = sensors[feature]
        if image.dtype != spec.dtype:
            raise wrong(f"dtype of {feature}", image.dtype, f"{spec.dtype} ({spec.unit})")
        if image.shape != (size, size, len(spec.bands)):
            raise wrong(f"shape of {feature}", list(image.shape), f"{[size, size, len(spec.bands)]} for bands "
                        f"{' '.join(spec.bands)}")
        if spec.no_data is not None and bool((image == spec.no_data).all()):
            raise wrong(feature, "without data in every pixel (all NaN or no-data)", "an image")
    for name in ("lat", "lon"):
        if not (math.isnan(getattr(record, name)) or abs(getattr(record, name)) <= (90 if name == "lat" else 180)):
            raise wrong(name, getattr(record, name), "degrees or NaN")
    if isinstance(record, Tile):
        if record.label.dtype != np.uint8 or record.label.shape != (size, size):
            raise wrong("label", f"{record.label.dtype}{list(record.label.shape)}", f"uint8{[size, size]}")
        seen = set(np.unique(record.label).tolist()) - {IGNORED}
        if seen and max(seen) >= classes:
            raise wrong("label value", max(seen), f"0..{classes - 1} or {IGNORED} (ignored)")


def cut(record: Pair | Tile, size: int) -> list[Pair | Tile]:
    """Cuts a record into the whole patches of `size` pixels that fit, row by row from the upper left.

    A patch is a place of its own: '_r<row>_c<column>' is added to id and location_id. Latitude and longitude stay those
    of the whole image's centre. An image of that size is returned as it is.
    """
    height, width = next(iter(record.images.values())).shape[:2]
    if (height, width) == (size, size):
        return [record]
    patches = []
    for row in range(height // size):
        for column in range(width // size):
            window = slice(row * size, (row + 1) * size), slice(column * size, (column + 1) * size)
            images = {name: np.ascontiguousarray(image[window]) for name, image in record.images.items()}
            place = {"id": f"{record.id}_r{row}_c{column}", "location_id": f"{record.location_id}_r{row}_c{column}"}
            if isinstance(record, Pair):
                patches.append(dataclasses.replace(record, **place, **images))
            else:
                patches.append(dataclasses.replace(record, **place, images=images, label=record.label[window].copy()))
    return patches
