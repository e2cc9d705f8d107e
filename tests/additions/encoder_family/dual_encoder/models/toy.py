"""A toy encoder: one convolution, and the mean of its pixels."""

import flax.linen as nn
import jax

from dual_encoder.models.features import Features


class Toy(nn.Module):
    """One convolution without overlap, and the mean of its pixels.

    Attributes:
      width: number of channels.
      patch: side of the kernel in pixels, and its stride.
    """

    width: int
    patch: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Features:
        """Returns vectors [batch, width] and one map, float32; `x`: [batch, height, width, bands] float, normalised."""
        x = nn.Conv(self.width, (self.patch, self.patch), self.patch, name="patch")(x)
        return Features(x.mean(axis=(1, 2)), (x,))
