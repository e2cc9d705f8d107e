"""Decoders: feature maps of several strides -> logits of the whole image.

A decoder is a function that a module calls inside its `__call__`; its layers become layers of that module.
"""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

Decoder = Literal["unet", "fpn", "linear"]

_FPN_WIDTH = 4  # channels of the feature pyramid network, in units of decoder_width


def decode(decoder: Decoder, maps: Sequence[jax.Array], strides: Sequence[int], size: Sequence[int], width: int,
           classes: int, dtype: jax.typing.DTypeLike, train: bool) -> jax.Array:
    """Returns logits [batch, height, width, classes] float32.

    Args:
      decoder: 'unet', 'fpn' or 'linear'; see `unet`, `fpn` and `linear`.
      maps: [batch, ceil(height / stride), ceil(width / stride), channels] each, from shallow to deep. 'unet' and 'fpn'
        need strides of 2, 4, 8, ...
      strides: of the maps, in pixels.
      size: height and width of the image.
      width: channels of the decoder's last level; 'linear' has none.
      classes: number of classes.
      dtype: of the products; norms and logits are computed in float32.
      train: use and update batch statistics.
    """
    if decoder == "linear":
        return linear(maps, strides, size, classes)
    if decoder == "fpn":
        return fpn(maps, size, width, classes, dtype, train)
    return unet(maps, size, width, classes, dtype, train)


def unet(maps: Sequence[jax.Array], size: Sequence[int], width: int, classes: int, dtype: jax.typing.DTypeLike,
         train: bool) -> jax.Array:
    """U-Net (Ronneberger et al. 2015): from the deepest map up, double, concatenate the next map, convolve twice.

    The last level has `width` channels at full resolution, each level below has twice as many. See `decode`.
    """
    *skips, x = maps
    for number, skip in reversed(list(enumerate(skips, start=1))):
        x = jnp.concatenate([_doubled(x, skip.shape[1:3], "nearest"), skip], axis=-1)
        x = _Block(width * 2**number, 2, dtype, name=f"decoder{number}")(x, train)
    x = _Block(width, 2, dtype, name="decoder0")(_doubled(x, size, "nearest"), train)
    return nn.Conv(classes, (1, 1), name="classifier")(x.astype(jnp.float32))


def fpn(maps: Sequence[jax.Array], size: Sequence[int], width: int, classes: int, dtype: jax.typing.DTypeLike,
        train: bool) -> jax.Array:
    """A feature pyramid network (Lin et al. 2017) with the segmentation branch of Kirillov et al. 2019, figure 3.

    Pyramid: a 1x1 convolution of each map, plus the doubled level below. Branch: each level is convolved and doubled
    until it has the size of the largest one; their sum is classified and doubled. Both have 4 * `width` channels.
    Unlike in the papers, levels start at stride 2, and norms are BatchNorm. See `decode`.
    """
    channels, total = _FPN_WIDTH * width, jnp.float32(0)
    sizes = [x.shape[1:3] for x in maps]
    x = None
    for level in reversed(range(len(maps))):
        lateral = nn.Conv(channels, (1, 1), dtype=dtype, name=f"lateral{level + 1}")(maps[level])
        x = lateral if x is None else lateral + _doubled(x, sizes[level], "nearest")
        scaled = _Block(channels, 1, dtype, name=f"level{level + 1}_{level + 1}")(x, train)
        for target in reversed(range(level)):
            scaled = _doubled(scaled, sizes[target], "linear")
            if target:
                scaled = _Block(channels, 1, dtype, name=f"level{level + 1}_{target + 1}")(scaled, train)
        total = total + scaled.astype(jnp.float32)
    return _doubled(nn.Conv(classes, (1, 1), name="classifier")(total), size, "linear")


def linear(maps: Sequence[jax.Array], strides: Sequence[int], size: Sequence[int], classes: int) -> jax.Array:
    """A linear probe of maps: a 1x1 convolution of each, made as large as the image (bilinear) and summed.

    See `decode`.
    """
    total = jnp.float32(0)
    for number, (x, stride) in enumerate(zip(maps, strides, strict=True), start=1):
        x = nn.Conv(classes, (1, 1), name=f"classifier{number}")(x.astype(jnp.float32))
        total = total + _enlarged(x, stride, size, "linear")
    return total


class _Block(nn.Module):
    """3x3 convolution - BatchNorm - ReLU, `count` times."""

    width: int
    count: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for number in range(1, self.count + 1):
            x = nn.Conv(self.width, (3, 3), padding=((1, 1), (1, 1)), use_bias=False, dtype=self.dtype,
                        name=f"conv{number}")(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=jnp.float32,
                             name=f"bn{number}")(x.astype(jnp.float32))
            x = nn.relu(x).astype(self.dtype)
        return x


def _doubled(x: jax.Array, size: Sequence[int], method: Literal["nearest", "linear"]) -> jax.Array:
    return _enlarged(x, 2, size, method)


def _enlarged(x: jax.Array, factor: int, size: Sequence[int], method: Literal["nearest", "linear"]) -> jax.Array:
    """Enlarges [batch, h, w, c] by `factor` and cuts it to `size`: strided maps of odd sizes are rounded up."""
    if method == "nearest":
        x = jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)
    else:
        batch, height, width, channels = x.shape
        x = jax.image.resize(x, (batch, factor * height, factor * width, channels), "linear")
    return x[:, :size[0], :size[1]]
