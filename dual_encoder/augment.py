"""Stored integers -> normalised, augmented images, on the device inside the step.

Random numbers depend on the key of the record alone: devices, hosts and micro-batches change nothing. The geometry is
drawn once per record and applied to all its images and labels, so co-registered pixels stay co-registered, unless
`shared_crop` is off.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp

from dual_encoder.config import AtLeast, AtMost, Before
from dual_encoder.imagery.normalise import standardise
from dual_encoder.imagery.sensors import SensorSpec


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Geometry and photometric options. An option that is 0 or False is off.

    Attributes:
      crop: side of the random crop in pixels; 0 keeps the size of the image.
      min_area: the crop is a window of random size, resampled to `crop`. Its share of the image's area is uniform in
        [min_area, 1], its aspect ratio log-uniform in [3/4, 4/3] (Szegedy et al. 2015). 0: windows of `crop` pixels.
      shared_crop: one window, flip and turn for all images of a record. False: each image has its own.
      flips: random horizontal and vertical flips.
      turns: random turns by 90 degrees.
      sar_gain_db: standard deviation of a gain per image in dB, for radar in dB.
      sar_band_gain_db: the same per band.
      sar_looks: speckle of a multi-look image with this number of looks, multiplied in; for radar in dB.
      optical_brightness: the image is multiplied by 1 + u, u uniform in +-this. For optical images, and for radar
        stored as grey levels.
      optical_band_gain: the same per band.
      optical_contrast: the same about the image's mean per band.
      blur: probability of a Gaussian blur, its sigma uniform in 0.1 to 2 pixels (Chen et al. 2020, appendix A).
      to_grey: probability that every band is replaced by the mean of the normalised bands.
      drop_band: probability that one band is replaced by its mean over the data set; for two bands or more.
    """

    crop: Annotated[int, AtLeast(0)]
    min_area: Annotated[float, AtLeast(0), AtMost(1), Before(0.0)]
    shared_crop: Annotated[bool, Before(True)]
    flips: bool
    turns: bool
    sar_gain_db: Annotated[float, AtLeast(0)]
    sar_band_gain_db: Annotated[float, AtLeast(0), Before(0.0)]
    sar_looks: Annotated[int, AtLeast(0)]
    optical_brightness: Annotated[float, AtLeast(0), AtMost(1)]  # a reflectance is multiplied by 1 - this at least
    optical_band_gain: Annotated[float, AtLeast(0), AtMost(1), Before(0.0)]
    optical_contrast: Annotated[float, AtLeast(0), AtMost(1)]
    blur: Annotated[float, AtLeast(0), AtMost(1), Before(0.0)]
    to_grey: Annotated[float, AtLeast(0), AtMost(1), Before(0.0)]
    drop_band: Annotated[float, AtLeast(0), AtMost(1), Before(0.0)]


def record_keys(key: jax.Array, batch: int) -> jax.Array:
    """Returns a key for each row of a batch, [batch]."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch))


def augment(images: Mapping[str, jax.Array], sensors: Mapping[str, SensorSpec], config: AugmentConfig,
            keys: jax.Array) -> dict[str, jax.Array]:
    """Moves all images of a record, normalises sensor images and applies photometric options.

    Args:
      images: name -> [batch, height, width, bands] stored integers, or labels [batch, height, width] uint8.
      sensors: spec of each sensor image; other names are labels, which only move.
      config: the options.
      keys: one per record, [batch], as of `record_keys`.

    Returns:
      name -> float32 [batch, crop, crop, bands]; labels uint8 [batch, crop, crop].
    """
    out = {}
    for number, name in enumerate(sorted(images)):
        geometry_keys = _fold(keys, 0) if config.shared_crop else _fold(_fold(keys, 0), 1 + number)
        if name not in sensors:
            out[name] = jax.vmap(lambda one, k: _move(one, config, k, _nearest))(images[name], geometry_keys)
            continue
        spec = sensors[name]
        values, valid = jax.vmap(lambda one, k, s=spec: _moved_image(one, s, config, k))(images[name], geometry_keys)
        image_keys = _fold(keys, 1 + number)
        values = standardise(_photometric(values, valid, spec, config, image_keys), valid, spec)
        out[name] = _simplify(values, valid, config, image_keys)
    return out


def _moved_image(image: jax.Array, spec: SensorSpec, config: AugmentConfig, key: jax.Array
                 ) -> tuple[jax.Array, jax.Array]:
    """Moves one stored image. Returns float32 [crop, crop, bands] stored values, and bool [crop, crop, 1], data."""
    if not config.min_area:
        image = _move(image, config, key, _nearest)
        return image.astype(jnp.float32), spec.holds_data(image)[..., None]
    valid = spec.holds_data(image)[..., None].astype(jnp.float32)
    values = image.astype(jnp.float32)
    in_db = spec.unit.startswith("dB")
    if in_db:  # the mean of decibels is not the mean
        values = 10.0 ** (values * (spec.scale / 10.0))
    # Pixels without data have no weight, so nothing of them enters their neighbours.
    values = _move(jnp.where(valid > 0, values, 0.0), config, key, _antialiased)
    weight = _move(valid, config, key, _antialiased)
    values = values / jnp.maximum(weight, 1e-6)
    if in_db:
        values = 10.0 / spec.scale * jnp.log10(jnp.maximum(values, 1e-10))
    return values, weight >= 0.5


def _move(image: jax.Array, config: AugmentConfig, key: jax.Array, resample: Callable[..., jax.Array]) -> jax.Array:
    """Crops, flips and turns an image [height, width, ...] -> [crop, crop, ...]; equal keys give equal geometry."""
    height, width = image.shape[:2]
    rows, columns = (config.crop, config.crop) if config.crop else (height, width)
    top_key, left_key, turn_key, flip_key = jax.random.split(key, 4)
    quarter_turns = jax.random.randint(turn_key, (), 0, 4) if config.turns else jnp.int32(0)
    reverse = jax.random.bernoulli(flip_key, 0.5, (2,)) if config.flips else jnp.zeros(2, bool)
    reverse ^= quarter_turns >= 2  # half a turn reverses rows and columns
    if config.min_area:
        image = resample(image, *_window(height, width, config.min_area, key), (rows, columns))
    else:
        top = jax.random.randint(top_key, (), 0, height - rows + 1)
        left = jax.random.randint(left_key, (), 0, width - columns + 1)
        zeros = (jnp.zeros_like(top),) * (image.ndim - 2)
        image = jax.lax.dynamic_slice(image, (top, left, *zeros), (rows, columns, *image.shape[2:]))
    if config.turns:
        image = jnp.where(quarter_turns % 2 == 1, jnp.rot90(image), image)
    if config.turns or config.flips:
        image = jnp.where(reverse[0], image[::-1], image)
        image = jnp.where(reverse[1], image[:, ::-1], image)
    return image


def _window(height: int, width: int, min_area: float, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws a window: its upper left corner and its size in pixels, (rows, columns), float32 [2] each."""
    area_key, ratio_key, corner_key = jax.random.split(jax.random.fold_in(key, 1), 3)
    area = jax.random.uniform(area_key, (), minval=min_area, maxval=1.0)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (), minval=-1.0, maxval=1.0) * jnp.log(4.0 / 3.0))
    image = jnp.array([height, width], jnp.float32)
    # A window that would leave the image on one side is cut there; torchvision draws again instead.
    size = jnp.minimum(image * jnp.sqrt(area * jnp.stack([ratio, 1.0 / ratio])), image)
    return jax.random.uniform(corner_key, (2,)) * (image - size), size


def _nearest(image: jax.Array, corner: jax.Array, size: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Resamples a window of an image to `shape` by the nearest pixel; any dtype."""
    for axis in (0, 1):
        centres = corner[axis] + (jnp.arange(shape[axis], dtype=jnp.float32) + 0.5) * (size[axis] / shape[axis])
        image = jnp.take(image, jnp.clip(centres.astype(jnp.int32), 0, image.shape[axis] - 1), axis=axis)
    return image


def _antialiased(image: jax.Array, corner: jax.Array, size: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Resamples a window of an image, float32 [height, width, bands], to `shape` by a triangle as wide as a pixel."""
    scale = jnp.array(shape, jnp.float32) / size
    return jax.image.scale_and_translate(image, (*shape, image.shape[2]), (0, 1), scale, -corner * scale, "linear")


def _photometric(values: jax.Array, valid: jax.Array, spec: SensorSpec, config: AugmentConfig, keys: jax.Array
                 ) -> jax.Array:
    """Photometric options on stored values, float32 [batch, height, width, bands]; keys: one per record."""
    first, second, third = (_fold(keys, number) for number in (0, 1, 2))
    bands = values.shape[-1]

    def per_image(draw, keys):
        return jax.vmap(draw)(keys)[:, None, None, None]

    def per_band(draw, keys):
        return jax.vmap(lambda k: draw(k, (bands,)))(keys)[:, None, None, :]

    def uniform(key, shape=()):
        return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

    if spec.unit.startswith("dB"):
        if config.sar_gain_db:
            values += config.sar_gain_db / spec.scale * per_image(lambda k: jax.random.normal(k, ()), first)
        if config.sar_band_gain_db:
            values += config.sar_band_gain_db / spec.scale * per_band(jax.random.normal, third)
        if config.sar_looks:
            # L-look speckle is gamma distributed with mean 1 and shape L (Oliver and Quegan 2004, section 4.3).
            looks = float(config.sar_looks)
            speckle = jax.vmap(lambda k: jax.random.gamma(k, looks, values.shape[1:]))(second) / looks
            values += 10.0 / spec.scale * jnp.log10(jnp.maximum(speckle, 1e-6))
        return values
    if config.optical_brightness:
        values *= 1.0 + config.optical_brightness * per_image(uniform, first)
    if config.optical_band_gain:
        values *= 1.0 + config.optical_band_gain * per_band(uniform, third)
    if config.optical_contrast:
        mean = values.mean(axis=(1, 2), keepdims=True, where=valid)
        values = mean + (values - mean) * (1.0 + config.optical_contrast * per_image(uniform, second))
    return values


def _simplify(values: jax.Array, valid: jax.Array, config: AugmentConfig, keys: jax.Array) -> jax.Array:
    """Blur, grey and dropped bands, on normalised values, float32 [batch, height, width, bands]."""
    blur_keys, grey_keys, drop_keys = (_fold(keys, number) for number in (3, 4, 5))

    def happens(keys, probability):
        return jax.vmap(lambda k: jax.random.bernoulli(k, probability))(keys)[:, None, None, None]

    if config.blur:
        weight = valid.astype(jnp.float32)
        sigma = jax.vmap(lambda k: jax.random.uniform(k, (), minval=0.1, maxval=2.0))(_fold(blur_keys, 0))
        blurred = jax.vmap(_gaussian)(values, sigma) / jnp.maximum(jax.vmap(_gaussian)(weight, sigma), 1e-6)
        values = jnp.where(happens(_fold(blur_keys, 1), config.blur) & valid, blurred, values)
    if config.to_grey:
        values = jnp.where(happens(grey_keys, config.to_grey), values.mean(axis=-1, keepdims=True), values)
    if config.drop_band and (bands := values.shape[-1]) > 1:
        band = jax.vmap(lambda k: jax.random.randint(k, (), 0, bands))(_fold(drop_keys, 0))[:, None, None, None]
        dropped = happens(_fold(drop_keys, 1), config.drop_band) & (jnp.arange(bands).reshape(1, 1, 1, -1) == band)
        values = jnp.where(dropped, 0.0, values)
    return values


def _gaussian(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Sums the neighbours of each pixel of [height, width, bands] with Gaussian weights, which are not normalised."""
    def weights(length):
        at = jnp.arange(length, dtype=jnp.float32)
        return jnp.exp(-0.5 * ((at[:, None] - at[None]) / sigma) ** 2)

    across = jnp.einsum("vw,hwb->hvb", weights(image.shape[1]), image, precision="highest")
    return jnp.einsum("gh,hvb->gvb", weights(image.shape[0]), across, precision="highest")


def _fold(keys: jax.Array, number: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
