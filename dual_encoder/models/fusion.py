"""Which images an encoder takes: of one sensor (late fusion) or stacked of all (early fusion), at one date or two."""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from dual_encoder.errors import UserError

Fusion = Literal["late", "early"]
Change = Literal["none", "difference", "concatenation"]


def encoder_names(sensors: Sequence[str], fusion: Fusion) -> tuple[str, ...]:
    """Returns the names of the encoders, without '_encoder': ('s1', 's2') for 'late', ('s1_s2',) for 'early'."""
    return ("_".join(sensors),) if fusion == "early" else tuple(sensors)


def encoder_images(images: Mapping[str, jax.Array], sensors: Sequence[str], fusion: Fusion) -> dict[str, jax.Array]:
    """Returns the images of each encoder.

    Args:
      images: sensor -> [batch, height, width, bands], normalised.
      sensors: the images to take, in the order of the bands of a stack.
      fusion: 'early' stacks the bands of all sensors.

    Returns:
      name of the encoder, as of `encoder_names` -> [batch, height, width, bands].

    Raises:
      UserError: images of different sizes, which cannot be stacked.
    """
    if fusion == "late":
        return {name: images[name] for name in sensors}
    sizes = {name: " x ".join(map(str, images[name].shape[1:3])) for name in sensors}
    if len(set(sizes.values())) > 1:
        seen = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UserError(f"the images of the sensors have different sizes ({seen} pixels); expected one size to stack "
                        "their bands: set --config.fusion=late")
    name, = encoder_names(sensors, fusion)
    return {name: jnp.concatenate([images[sensor] for sensor in sensors], axis=-1)}


def combine(after: jax.Array, before: jax.Array, change: Change) -> jax.Array:
    """Returns what an encoder gives for two dates as one array.

    Args:
      after, before: [..., channels].
      change: 'difference', after - before (FC-Siam-diff, Daudt et al. 2018, with the sign), [..., channels];
        'concatenation', after, before and after - before, [..., 3 channels].
    """
    difference = after - before
    return difference if change == "difference" else jnp.concatenate([after, before, difference], axis=-1)
