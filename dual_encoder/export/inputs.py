"""What an exported function takes: stored integers, physical units, or normalised images."""

from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from dual_encoder.imagery.normalise import normalise, standardise
from dual_encoder.imagery.sensors import SensorSpec

Input = Literal["stored", "physical", "normalised"]
INPUTS: tuple[Input, ...] = get_args(Input)


def prepare(image: jax.Array, spec: SensorSpec, kind: Input) -> jax.Array:
    """Returns the normalised image, float32 of the same shape; pixels without data are 0.

    Args:
      image: [batch, height, width, bands] of `spec`:
        'stored': integers of `spec.dtype`. A pixel holds no data if all bands are `spec.no_data`.
        'physical': float32 in `spec.unit`. A pixel holds no data if a band is not finite (NaN; dB of zero power), or
          if all bands are `spec.no_data` x `spec.scale`.
        'normalised': float32; returned as it is.
      spec: the sensor.
      kind: see `image`.
    """
    if kind == "normalised":
        return image
    if kind == "stored":
        return normalise(image.astype(jnp.float32), spec)
    values = image / jnp.float32(spec.scale)
    finite = jnp.isfinite(values)
    holds_data = finite.all(axis=-1) & spec.holds_data(jnp.round(values))
    return standardise(jnp.where(finite, values, jnp.zeros_like(values)), holds_data[..., None], spec)


def of_stored(images: Mapping[str, np.ndarray], specs: Mapping[str, SensorSpec], kind: Input) -> dict[str, np.ndarray]:
    """Returns stored images in the form that `prepare` takes.

    Args:
      images: name -> [batch, height, width, bands] integers.
      specs: name -> sensor.
      kind: the form.
    """
    if kind == "stored":
        return dict(images)
    if kind == "physical":
        return {name: (image * np.float64(specs[name].scale)).astype(np.float32) for name, image in images.items()}
    return {name: np.asarray(normalise(jnp.asarray(image), specs[name])) for name, image in images.items()}


def dtype(spec: SensorSpec, kind: Input) -> str:
    """Returns the NumPy name of the dtype that `prepare` takes."""
    return spec.dtype if kind == "stored" else "float32"
