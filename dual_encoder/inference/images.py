"""Images as users have them, arrays or files in one of two units, as the stored integers that a model has learnt."""

import os
import pathlib
from typing import Literal

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.plausibility import RULES, judge, sample
from dual_encoder.imagery.sensors import SensorSpec

Units = Literal["physical", "stored"]
Images = np.ndarray | str | os.PathLike


def stored_images(images: Images, spec: SensorSpec, units: Units, name: str = "image") -> np.ndarray:
    """Returns images as stored integers of a sensor, [n, height, width, bands] of `spec.dtype`.

    Args:
      images: [height, width, bands] or [n, height, width, bands], or the path of a raster (GeoTIFF, JPEG 2000, PNG)
        whose bands are those of the sensor: by their descriptions in any order, without these in the sensor's order.
      spec: the sensor.
      units: 'physical', floats in `spec.unit`, not finite = no data; 'stored', integers that are `spec.scale` units
        each, `spec.no_data` in all bands = no data.
      name: of the images, for errors.

    Raises:
      UserError: another shape, number of bands or kind of numbers; values that the unit cannot have; a file that
        cannot be read.
    """
    if units not in ("physical", "stored"):
        raise UserError(f"units is {units!r}; expected 'physical' ({spec.unit}) or 'stored' ({spec.dtype}, "
                        f"{spec.scale:g} {spec.unit} each)")
    if from_file := not isinstance(images, np.ndarray):
        if not isinstance(images, str | os.PathLike):
            raise UserError(f"{name} is a {type(images).__name__}; expected a NumPy array or the path of a raster")
        name = os.fspath(images)
        images = _read(pathlib.Path(images), spec, units)
    if images.ndim not in (3, 4) or 0 in images.shape or images.shape[-1] != len(spec.bands):
        raise UserError(f"'{name}' has shape {list(images.shape)}; expected [height, width, {len(spec.bands)}] or "
                        f"[n, height, width, {len(spec.bands)}] for bands {' '.join(spec.bands)}")
    images = images.reshape(-1, *images.shape[-3:])
    integers = _from_physical(images, spec, name) if units == "physical" else _checked(images, spec, name)
    if from_file or units == "physical":
        _check_values(integers, spec, name)
    return integers


def _read(path: pathlib.Path, spec: SensorSpec, units: Units) -> np.ndarray:
    """Returns the raster [height, width, bands] in the sensor's order, no data as `units` writes it."""
    image = raster.load(path, bands=len(spec.bands))
    names = [text.upper() for text in image.names]
    order = ([names.index(band.upper()) for band in spec.bands] if set(map(str.upper, spec.bands)) <= set(names)
             else range(len(names)))
    of_bands = image.holds_data()
    shown: np.ndarray = np.all(of_bands, axis=0) if units == "physical" else np.any(of_bands, axis=0)
    values = np.stack([image.values[number] for number in order], axis=-1)
    if units == "physical":
        return np.where(shown[..., None], values, np.nan) if values.dtype.kind == "f" else values
    if spec.no_data is not None and not shown.all():
        values = np.where(shown[..., None], values, np.asarray(spec.no_data, spec.dtype))
    return values


def _from_physical(images: np.ndarray, spec: SensorSpec, name: str) -> np.ndarray:
    """Returns floats in `spec.unit` as rounded integers; a pixel with a value that is not finite has no data."""
    if images.dtype.kind != "f":
        raise UserError(f"'{name}' is {images.dtype}; expected floats in {spec.unit} with units='physical': convert "
                        "them, or say units='stored'")
    valid = np.isfinite(images).all(axis=-1, keepdims=True)
    if spec.no_data is None and not valid.all():
        raise UserError(f"'{name}' has {int((~valid).sum())} pixels that are not finite, and {spec.name} has no value "
                        "for pixels without data; fill them in first")
    limits = np.iinfo(spec.dtype)
    scaled = np.clip(np.rint(np.where(valid, images, 0).astype(np.float64) / spec.scale), limits.min, limits.max)
    integers = scaled.astype(spec.dtype)
    if spec.no_data is None:
        return integers
    # A valid pixel must not look like one without data; importers write the next value, too.
    integers[valid[..., 0] & ~spec.holds_data(integers)] = spec.no_data + 1
    return np.where(valid, integers, np.asarray(spec.no_data, spec.dtype))


def _checked(images: np.ndarray, spec: SensorSpec, name: str) -> np.ndarray:
    """Returns integers in the stored dtype; UserError for floats, or for values outside it."""
    if images.dtype.kind not in "iu":
        raise UserError(f"'{name}' is {images.dtype}; expected integers ({spec.dtype}, {spec.scale:g} {spec.unit} "
                        "each) with units='stored': say units='physical' for values in that unit")
    limits = np.iinfo(spec.dtype)
    if images.dtype != spec.dtype and (images.min() < limits.min or images.max() > limits.max):
        raise UserError(f"'{name}' holds {images.min()} to {images.max()}; expected {spec.dtype}, {limits.min} to "
                        f"{limits.max}, {spec.scale:g} {spec.unit} each")
    return images.astype(spec.dtype, copy=False)


def _check_values(images: np.ndarray, spec: SensorSpec, name: str) -> None:
    """Raises UserError for an image without data, or with values that would stop a build, as in a wrong unit."""
    for number, image in enumerate(images):
        which = f", image {number}," if len(images) > 1 else ""
        if not spec.holds_data(image).any():
            raise UserError(f"'{name}'{which} has no pixel with data; leave it out")
        for outcome in judge(sample(image)[None], spec, np.zeros(1, int)):
            rule = RULES[outcome.rule]
            if rule.stops and outcome.rule != "one_value" and outcome.broken[0]:
                raise UserError(f"'{name}'{which} is not in the unit of {spec.name}, {spec.unit}: {outcome.seen(0)}; "
                                f"{rule.advice}")
