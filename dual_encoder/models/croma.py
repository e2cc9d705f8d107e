"""The encoder of one sensor of CROMA: a vision transformer that knows where a patch is from distances alone.

Fuller et al. 2023 (arXiv 2311.00566), section 2: patches of 8 px, pre-norm blocks without biases of q, k and v, and an
attention bias that falls with the distance of two patches. The radar encoder of CROMA-B has depth 6, the optical one
12, both width 768; those of CROMA-L have 12, 24 and 1024.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dual_encoder.errors import UserError
from dual_encoder.models.features import Features
from dual_encoder.models.vit import Block, PatchEmbed, layer_norm

PATCH = 8  # side of a patch in pixels
HEADS = 16  # attention heads, in networks of any width
_EPSILON = 1e-5  # of the norms


class Croma(nn.Module):
    """An encoder without classifier.

    Parameters are float32 and named as in `ViT`; `gap_norm`, `gap_fc1` and `gap_fc2` are the MLP of the vector. Images
    may have any number of bands and any size, because the bias is computed for their grid. If a side is not a multiple
    of 8, the image is padded with zeros, the mean, at the bottom and at the right.

    Attributes:
      depth: number of blocks.
      width: channels of a token, a multiple of 16.
      remat: recompute the activations inside each block in the backward pass, to save memory.
      dtype: of the products and of the tokens; norms and softmax compute in float32.
      fixed: so many first stages (the patches, then the blocks) get no gradient.
    """

    depth: int
    width: int
    remat: bool = False
    dtype: jax.typing.DTypeLike = jnp.float32
    fixed: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Features:
        """Returns the image vectors, and the tokens after each block as `depth` maps.

        A vector is an MLP of the mean of the tokens after the last norm.

        Args:
          x: [batch, height, width, bands] float, normalised.
          train: has no effect, because there are neither batch statistics nor dropout.

        Returns:
          vectors [batch, width] float32; maps [batch, ceil(height / 8), ceil(width / 8), width] `dtype`, before the
          last norm.

        Raises:
          UserError: `width` is not a multiple of 16.
        """
        if self.width % HEADS:
            raise UserError(f"a CROMA of width {self.width}: expected a multiple of {HEADS}, the number of heads")
        x = PatchEmbed(self.width, PATCH, self.dtype, name="patch_embed")(x)
        shape = batch, rows, columns, _ = x.shape
        bias = distance_bias(rows, columns)
        block = nn.remat(Block, static_argnums=2) if self.remat else Block
        x = jax.lax.stop_gradient(x) if self.fixed else x
        maps = []
        x = x.reshape(-1, self.width)
        for number in range(self.depth):
            x = block(self.dtype, HEADS, False, _EPSILON, name=f"blocks_{number}")(x, batch, bias)
            x = jax.lax.stop_gradient(x) if number + 1 < self.fixed else x
            maps.append(x.reshape(shape))
        x = layer_norm("norm", _EPSILON)(x.reshape(shape).astype(jnp.float32)).mean(axis=(1, 2))
        x = layer_norm("gap_norm", _EPSILON)(x).astype(self.dtype)
        x = nn.gelu(nn.Dense(4 * self.width, dtype=self.dtype, name="gap_fc1")(x), approximate=False)
        return Features(nn.Dense(self.width, dtype=self.dtype, name="gap_fc2")(x).astype(jnp.float32), tuple(maps))


def distance_bias(rows: int, columns: int) -> jax.Array:
    """Returns what CROMA adds to the logits of the attention, [1, 16, rows * columns, rows * columns] float32.

    For two patches at a distance d, counted in patches, and head h = 1 .. 16 it is -d 2^(-h / 2): ALiBi (Press et al.
    2022, arXiv 2108.12409, section 3) in two dimensions.
    """
    grid = jnp.meshgrid(*(jnp.arange(side, dtype=jnp.float32) for side in (rows, columns)), indexing="ij")
    squares = [jnp.square(axis.reshape(-1, 1) - axis.reshape(1, -1)) for axis in grid]
    slopes = 2.0 ** (-8 / HEADS * jnp.arange(1, HEADS + 1, dtype=jnp.float32))
    return -slopes[None, :, None, None] * jnp.sqrt(squares[0] + squares[1])[None, None]
