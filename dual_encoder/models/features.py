"""The output of an encoder."""

from typing import NamedTuple

import jax


class Features(NamedTuple):
    """The vector and the feature maps of each image of a batch.

    Attributes:
      pooled: one vector per image, [batch, channels] float32.
      maps: feature maps [batch, rows, columns, channels] in the encoder's compute dtype, from shallow to deep.
    """

    pooled: jax.Array
    maps: tuple[jax.Array, ...]
