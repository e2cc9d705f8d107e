"""Stored integers -> normalised, augmented images, on the device inside the step.

Random numbers depend on the key of the record alone: devices, hosts and micro-batches change nothing. The geometry is
drawn once per record and applied to all its images and labels, so co-registered pixels stay co-registered.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import jax
import jax.numpy as jnp

from dual_encoder.config import AtLeast, AtMost
from dual_encoder.imagery.normalise import standardise
from dual_encoder.imagery.sensors import SensorSpec


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Paired geometry (equal for all images of a record) and photometric options.

    Attributes:
      crop: side of the random crop in pixels; 0 keeps the whole image.
      flips: random horizontal and vertical flips.
      turns: random turns by 90 degrees.
      sar_gain_db: standard deviation of a gain per image, in dB; 0 is off.
      sar_looks: speckle of a multi-look image with this number of looks, multiplied in; 0 is off.
      optical_brightness: reflectance is multiplied by 1 + u, u uniform in +-this, per image; 0 is off.
      optical_contrast: the same about the image's mean per band; 0 is off.
    """

    crop: Annotated[int, AtLeast(0)]
    flips: bool
    turns: bool
    sar_gain_db: Annotated[float, AtLeast(0)]
    sar_looks: Annotated[int, AtLeast(0)]
    optical_brightness: Annotated[float, AtLeast(0), AtMost(1)]  # a reflectance is multiplied by 1 - this at least
    optical_contrast: Annotated[float, AtLeast(0), AtMost(1)]


def record_keys(key: jax.Array, batch: int) -> jax.Array:
    """Returns a key for each row of a batch, [batch]."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch))


def augment(images: Mapping[str, jax.Array], sensors: Mapping[str, SensorSpec], config: AugmentConfig,
            keys: jax.Array) -> dict[str, jax.Array]:
    """Crops, flips and turns all images of a record alike, normalises sensor images and applies photometric options.

    Args:
      images: name -> [batch, height, width, bands] stored integers, or labels [batch, height, width] uint8.
      sensors: spec of each sensor image; other names are labels, which only move.
      config: the options.
      keys: one per record, [batch], as of `record_keys`.

    Returns:
      name -> float32 [batch, crop, crop, bands]; labels uint8 [batch, crop, crop].
    """
    moved = jax.vmap(lambda one, k: _move(one, config, k))(dict(images), keys)
    out = {}
    for number, (name, image) in enumerate(sorted(moved.items())):
        if name not in sensors:
            out[name] = image
            continue
        spec = sensors[name]
        valid = spec.holds_data(image)[..., None]
        image_keys = jax.vmap(lambda k, n=number: jax.random.fold_in(k, 1 + n))(keys)
        out[name] = standardise(_photometric(image.astype(jnp.float32), valid, spec, config, image_keys), valid, spec)
    return out


def _move(images: dict[str, jax.Array], config: AugmentConfig, key: jax.Array) -> dict[str, jax.Array]:
    """One record: images [height, width, ...] -> [crop, crop, ...] by one draw of window, flips and turn."""
    height, width = next(iter(images.values())).shape[:2]
    rows, columns = (config.crop, config.crop) if config.crop else (height, width)
    top_key, left_key, turn_key, flip_key = jax.random.split(jax.random.fold_in(key, 0), 4)
    top = jax.random.randint(top_key, (), 0, height - rows + 1)
    left = jax.random.randint(left_key, (), 0, width - columns + 1)
    quarter_turns = jax.random.randint(turn_key, (), 0, 4) if config.turns else jnp.int32(0)
    reverse = jax.random.bernoulli(flip_key, 0.5, (2,)) if config.flips else jnp.zeros(2, bool)
    reverse ^= quarter_turns >= 2  # half a turn reverses rows and columns

    def move(image):
        zeros = (jnp.zeros_like(top),) * (image.ndim - 2)
        image = jax.lax.dynamic_slice(image, (top, left, *zeros), (rows, columns, *image.shape[2:]))
        if config.turns:
            image = jnp.where(quarter_turns % 2 == 1, jnp.rot90(image), image)
        if config.turns or config.flips:
            image = jnp.where(reverse[0], image[::-1], image)
            image = jnp.where(reverse[1], image[:, ::-1], image)
        return image

    return {name: move(image) for name, image in images.items()}


def _photometric(values: jax.Array, valid: jax.Array, spec: SensorSpec, config: AugmentConfig, keys: jax.Array
                 ) -> jax.Array:
    """Photometric options on stored values, float32 [batch, height, width, bands]; keys: one per record."""
    first, second = (jax.vmap(lambda k, n=n: jax.random.fold_in(k, n))(keys) for n in (0, 1))

    def per_image(draw, keys):
        return jax.vmap(draw)(keys)[:, None, None, None]

    def uniform(key):
        return jax.random.uniform(key, (), minval=-1.0, maxval=1.0)

    if spec.modality == "sar" and spec.unit.startswith("dB"):
        if config.sar_gain_db:
            values += config.sar_gain_db / spec.scale * per_image(lambda k: jax.random.normal(k, ()), first)
        if config.sar_looks:
            # L-look speckle is gamma distributed with mean 1 and shape L (Oliver and Quegan 2004, section 4.3).
            looks = float(config.sar_looks)
            speckle = jax.vmap(lambda k: jax.random.gamma(k, looks, values.shape[1:]))(second) / looks
            values += 10.0 / spec.scale * jnp.log10(jnp.maximum(speckle, 1e-6))
    if spec.modality == "optical":
        if config.optical_brightness:
            values *= 1.0 + config.optical_brightness * per_image(uniform, first)
        if config.optical_contrast:
            mean = values.mean(axis=(1, 2), keepdims=True, where=valid)
            values = mean + (values - mean) * (1.0 + config.optical_contrast * per_image(uniform, second))
    return values


