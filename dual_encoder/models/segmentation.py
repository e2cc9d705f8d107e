"""U-Net-style decoder on the features of encoders (Ronneberger et al. 2015)."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.models.pyramid import Pyramid

Change = Literal["none", "difference", "concatenation"]


class _Block(nn.Module):
    """3x3 convolution - BatchNorm - ReLU, twice."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for number in (1, 2):
            x = nn.Conv(self.width, (3, 3), padding=((1, 1), (1, 1)), use_bias=False, dtype=self.dtype,
                        name=f"conv{number}")(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=jnp.float32,
                             name=f"bn{number}")(x.astype(jnp.float32))
            x = nn.relu(x).astype(self.dtype)
        return x


class SegmentationModel(nn.Module):
    """Encoders `<sensor>_encoder`, their features concatenated per level, and one decoder.

    The maps of a transformer all have one stride. A `<sensor>_pyramid`, which is a part of the decoder, then makes maps
    of several strides.

    Attributes:
      sensors: names of the images used, e.g. ('s1',) or ('s1', 's2').
      encoder: of each sensor.
      decoder_width: channels at full resolution; twice as many per level below.
      classes: number of classes.
      frozen: run the encoders with their running statistics, without gradient.
      change: 'none', or how the maps of two dates become one: 'difference', after - before (FC-Siam-diff, Daudt et al.
        2018, with the sign); 'concatenation', after, before and after - before.
    """

    sensors: tuple[str, ...]
    encoder: AnyEncoder
    decoder_width: int
    classes: int
    frozen: bool
    change: Change = "none"

    @nn.compact
    def __call__(self, images: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """Returns logits [batch, height, width, classes] float32.

        Args:
          images: sensor -> [batch, height, width, bands] float32, normalised; with a change [batch, 2, height, width,
            bands], the image before it first.
          train: use and update batch statistics.
        """
        dtype = jnp.dtype(self.encoder.dtype)
        levels = []
        for name in self.sensors:
            pixels = images[name]
            pixels = pixels.reshape(-1, *pixels.shape[-3:])  # both dates of a row side by side, on the row's device
            maps = self.encoder.make(f"{name}_encoder")(pixels, train and not self.frozen).maps
            if self.frozen:
                maps = jax.lax.stop_gradient(maps)
            if self.change != "none":
                maps = tuple(_combine(both, self.change) for both in maps)
            if len(set(self.encoder.strides)) == 1:
                maps = Pyramid(self.encoder.strides[0], self.decoder_width, dtype, name=f"{name}_pyramid")(maps)
            levels.append(maps)
        skips = [jnp.concatenate(maps, axis=-1) for maps in zip(*levels, strict=True)]
        x = skips.pop()
        for number, skip in reversed(list(enumerate(skips, start=1))):
            x = jnp.concatenate([_upsample_to(x, (skip.shape[1], skip.shape[2])), skip], axis=-1)
            x = _Block(self.decoder_width * 2**number, dtype, name=f"decoder{number}")(x, train)
        height, width = next(iter(images.values())).shape[-3:-1]
        x = _Block(self.decoder_width, dtype, name="decoder0")(_upsample_to(x, (height, width)), train)
        return nn.Conv(self.classes, (1, 1), name="classifier")(x.astype(jnp.float32))


def _combine(both: jax.Array, change: Change) -> jax.Array:
    """Returns the map of a change, [batch, h, w, c or 3 c], of the maps before and after it, [2 * batch, h, w, c]."""
    before, after = jnp.moveaxis(both.reshape(-1, 2, *both.shape[1:]), 1, 0)
    difference = after - before
    return difference if change == "difference" else jnp.concatenate([after, before, difference], axis=-1)


def _upsample_to(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Doubles [batch, h, w, c] and cuts it to `size`: strided maps of odd sizes are rounded up."""
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return x[:, :size[0], :size[1]]
