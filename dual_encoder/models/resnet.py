"""ResNet-18/34/50/101 as in torchvision and timm, so that exported weights give the same features there.

He et al. 2016 (arXiv 1512.03385) with two later habits: the stride of a bottleneck block is on its 3x3 convolution
("v1.5"), and the last BatchNorm scale of every block starts at zero (Goyal et al. 2017, arXiv 1706.02677).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from dual_encoder.errors import UserError
from dual_encoder.models.convolution import convolution, max_pool
from dual_encoder.models.features import Features

# depth -> (bottleneck blocks?, blocks per layer)
_LAYOUTS = {18: (False, (2, 2, 2, 2)), 34: (False, (3, 4, 6, 3)), 50: (True, (3, 4, 6, 3)), 101: (True, (3, 4, 23, 3))}


def feature_widths(depth: int, width: int = 64) -> tuple[int, int, int, int, int]:
    """Returns the channels of the five feature maps of `ResNet(depth, width)`; UserError for an unknown depth."""
    bottleneck, _ = _layout(depth)
    expansion = 4 if bottleneck else 1
    return (width, *(width * 2**layer * expansion for layer in range(4)))


def groups(channels: int) -> int:
    """Returns the number of groups of a GroupNorm: 32; in narrow networks fewer, so that a group has two channels."""
    return max(1, math.gcd(64, channels) // 2)


class ResNet(nn.Module):
    """A ResNet without classifier.

    Parameters and BatchNorm statistics are float32 and named as in torchvision (`conv1`, `bn1`, `layer1_0/conv1`, ...,
    `layer2_0/downsample_conv`). BatchNorm takes its statistics over the whole batch array. So they are global if `jit`
    runs on a batch that is sharded over devices.

    Attributes:
      depth: 18, 34, 50 or 101.
      width: channels of the stem; 64 is the published network.
      norm: 'batch', or 'group': GroupNorm (Wu and He 2018, arXiv 1803.08494) keeps no statistics and normalises each
        image on its own; its names are the same.
      remat: recompute the activations inside each block in the backward pass, to save memory.
      dtype: of the convolutions and of the feature maps; norms compute in float32.
      zero_init_residual: the last norm scale of each block starts at 0, so that every block starts as the identity.
      fixed: so many first stages (the stem, then the layers) get no gradient and use their running statistics.
    """

    depth: int
    width: int = 64
    norm: str = "batch"
    remat: bool = False
    dtype: jax.typing.DTypeLike = jnp.float32
    zero_init_residual: bool = True
    fixed: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Features:
        """Returns feature maps at strides 2, 4, 8, 16 and 32, and the global average of the last one.

        Args:
          x: [batch, height, width, bands] float, normalised.
          train: use and update batch statistics (collection 'batch_stats', mutable); otherwise use the running ones.

        Returns:
          five maps [batch, ceil(height / stride), ceil(width / stride), channels] `dtype`, after their ReLU.
          `feature_widths` gives their channels.

        Raises:
          UserError: unknown depth.
        """
        bottleneck, blocks = _layout(self.depth)
        x = _conv(self.width, 7, 2, self.dtype, "conv1")(x.astype(self.dtype))
        x = self._cut(nn.relu(_norm(self.norm, x, train and not self.fixed, "bn1")), 0)
        maps = [x]
        x = max_pool(x)
        block = nn.remat(_Block, static_argnums=2) if self.remat else _Block
        for layer, count in enumerate(blocks):
            for number in range(count):
                stride = 2 if layer > 0 and number == 0 else 1
                x = block(self.width * 2**layer, bottleneck, stride, self.norm, self.dtype, self.zero_init_residual,
                          name=f"layer{layer + 1}_{number}")(x, train and layer + 1 >= self.fixed)
            x = self._cut(x, layer + 1)
            maps.append(x)
        return Features(jnp.mean(x, axis=(1, 2), dtype=jnp.float32), tuple(maps))

    def _cut(self, x: jax.Array, stage: int) -> jax.Array:
        """Returns the output of a stage, without gradient if the stage is fixed."""
        return jax.lax.stop_gradient(x) if stage < self.fixed else x


class _Block(nn.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1 with four times the channels."""

    width: int
    bottleneck: bool
    stride: int
    norm: str
    dtype: jax.typing.DTypeLike
    zero_init_residual: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.bottleneck:
            layers = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        else:
            layers = [(self.width, 3, self.stride), (self.width, 3, 1)]
        y = x
        for i, (width, kernel, stride) in enumerate(layers, start=1):
            y = _conv(width, kernel, stride, self.dtype, f"conv{i}")(y)
            last = i == len(layers)
            y = _norm(self.norm, y, train, f"bn{i}", zero_scale=last and self.zero_init_residual)
            if not last:
                y = nn.relu(y)
        if x.shape[-1] != y.shape[-1] or self.stride != 1:
            x = _conv(y.shape[-1], 1, self.stride, self.dtype, "downsample_conv")(x)
            x = _norm(self.norm, x, train, "downsample_bn")
        return nn.relu(x + y)


def _layout(depth: int) -> tuple[bool, tuple[int, ...]]:
    if depth not in _LAYOUTS:
        raise UserError(f"there is no ResNet of depth {depth!r}; set the model's depth to one of {sorted(_LAYOUTS)}")
    return _LAYOUTS[depth]


class _Conv(nn.Module):
    """A convolution without bias; its parameter is `kernel` [size, size, channels, features] float32."""

    features: int
    size: int
    stride: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
                            (self.size, self.size, x.shape[-1], self.features), jnp.float32)
        return convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


def _conv(features: int, kernel: int, stride: int, dtype: jax.typing.DTypeLike, name: str) -> _Conv:
    return _Conv(features, kernel, stride, dtype, name=name)


def _norm(kind: str, x: jax.Array, train: bool, name: str, zero_scale: bool = False) -> jax.Array:
    scale = nn.initializers.zeros if zero_scale else nn.initializers.ones
    norm: nn.Module
    if kind == "group":
        norm = nn.GroupNorm(groups(x.shape[-1]), use_fast_variance=False, epsilon=1e-5, dtype=jnp.float32, name=name,
                            scale_init=scale)
    else:
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, name=name,
                            scale_init=scale)
    return norm(x.astype(jnp.float32)).astype(x.dtype)
