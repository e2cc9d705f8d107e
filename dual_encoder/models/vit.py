"""Vision transformer with timm's geometry, so that exported weights give the same features there.

Dosovitskiy et al. 2021 (arXiv 2010.11929), appendix D: pre-norm blocks, biases everywhere, heads of 64 channels, an MLP
of four times the width. ViT-Ti/S/B/L are depth 12/12/12/24 and width 192/384/768/1024.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dual_encoder.errors import UserError
from dual_encoder.models.attention import attention
from dual_encoder.models.features import Features

HEAD = 64  # channels of an attention head

# The version of jaxlib that the single axis of tokens in `Block` was measured with, on a GPU. With a newer one
# tests/test_workarounds.py fails until it is measured again.
_MEASURED_WITH = "0.10"


class ViT(nn.Module):
    """A vision transformer without classifier.

    Parameters are float32 and named as in timm (`patch_embed`, `pos_embed`, `blocks_0/attn_qkv`, ...). Images may have
    any number of bands and any size: positions are resampled (`resample`). If a side is not a multiple of the patch,
    the image is padded with zeros, the mean, at the bottom and at the right (timm's `dynamic_img_size` and
    `dynamic_img_pad`).

    Attributes:
      depth: number of blocks.
      width: channels of a token, a multiple of 64.
      patch: side of a patch in pixels.
      image_size: side in pixels of the images that `pos_embed` is stored for, a multiple of `patch`.
      pool: 'token' takes the class token as the image's vector; 'mean' has no class token and takes the mean of the
        tokens, each after the last norm (timm's global_pool='avg' with class_token=False, fc_norm=False); 'patches' has
        a class token, but takes the mean of the other tokens, and then the last norm, which is called `fc_norm`
        (timm's global_pool='avg' with fc_norm=True; fine-tuned masked autoencoders, He et al. 2022, and DOFA).
      positions: 'learned', or 'sincos', which are fixed, but also stored in `pos_embed`.
      shift: the first patch starts so many pixels above and to the left of the image, less than `patch`, where zeros
        are filled in; the last ones end as many pixels earlier (DOFA: 1; timm: 0).
      remat: recompute the activations inside each block in the backward pass, to save memory.
      dtype: of the products and of the tokens; norms and softmax compute in float32.
      fixed: so many first stages (patches with positions, then the blocks) get no gradient.
    """

    depth: int
    width: int
    patch: int = 16
    image_size: int = 224
    pool: str = "token"
    positions: str = "learned"
    shift: int = 0
    remat: bool = False
    dtype: jax.typing.DTypeLike = jnp.float32
    fixed: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> Features:
        """Returns the image vectors, after the last norm, and the tokens after each block as `depth` maps.

        Args:
          x: [batch, height, width, bands] float, normalised.
          train: has no effect, because there are neither batch statistics nor dropout.

        Returns:
          vectors [batch, width] float32; maps [batch, ceil(height / patch), ceil(width / patch), width] `dtype`, before
          the last norm and without the class token.

        Raises:
          UserError: `width` is not a multiple of 64, or `image_size` is not a multiple of `patch`.
        """
        if self.width % HEAD or self.image_size % self.patch:
            raise UserError(f"a ViT of width {self.width} and patch {self.patch} for images of {self.image_size} px: "
                            f"expected a width that is a multiple of {HEAD}, and images of whole patches")
        x = PatchEmbed(self.width, self.patch, self.dtype, self.shift, name="patch_embed")(x)
        batch, rows, columns, _ = x.shape
        x = x.reshape(batch, rows * columns, self.width)
        prefix = int(self.pool != "mean")
        if prefix:
            token = self.param("cls_token", nn.initializers.zeros, (1, 1, self.width), jnp.float32)
            x = jnp.concatenate([jnp.broadcast_to(token.astype(self.dtype), (batch, 1, self.width)), x], axis=1)
        x = x + self._positions(prefix, rows, columns).astype(self.dtype)
        block = nn.remat(Block, static_argnums=2) if self.remat else Block
        x = jax.lax.stop_gradient(x) if self.fixed else x
        maps, shape = [], x.shape
        x = x.reshape(-1, self.width)
        for number in range(self.depth):
            x = block(self.dtype, name=f"blocks_{number}")(x, batch)
            x = jax.lax.stop_gradient(x) if number + 1 < self.fixed else x
            maps.append(x.reshape(shape)[:, prefix:].reshape(batch, rows, columns, self.width))
        return Features(self._vector(x.reshape(shape)), tuple(maps))

    def _vector(self, x: jax.Array) -> jax.Array:
        """Returns the vectors [batch, width] float32 of the tokens [batch, tokens, width] after the last block."""
        if self.pool == "patches":
            return layer_norm("fc_norm")(x[:, 1:].astype(jnp.float32).mean(axis=1))
        x = layer_norm("norm")((x[:, 0] if self.pool == "token" else x).astype(jnp.float32))
        return x if self.pool == "token" else x.mean(axis=1)

    def _positions(self, prefix: int, rows: int, columns: int) -> jax.Array:
        """Returns [1, prefix + rows * columns, width] float32; the class token has a position too, as in timm."""
        side = self.image_size // self.patch
        shape = (1, prefix + side * side, self.width)
        if self.positions == "learned":
            stored = self.param("pos_embed", nn.initializers.normal(0.02), shape, jnp.float32)
        else:
            stored = jax.lax.stop_gradient(self.param("pos_embed", lambda _: jnp.pad(
                sincos(side, self.width)[None], ((0, 0), (prefix, 0), (0, 0)))))
        grid = resample(stored[0, prefix:].reshape(side, side, self.width), rows, columns)
        return jnp.concatenate([stored[:, :prefix], grid.reshape(1, rows * columns, self.width)], axis=1)


def sincos(side: int, width: int) -> jax.Array:
    """Returns fixed 2-D positions of a square grid, [side * side, width] float32.

    The formula of Vaswani et al. 2017, section 3.5, for rows and columns separately: sin(row w_k), sin(column w_k),
    cos(row w_k), cos(column w_k) with w_k = 10000^(-k / K), k = 0 .. K - 1, K = width / 4.
    """
    count = width // 4
    frequencies = 10000.0 ** (-jnp.arange(count, dtype=jnp.float32) / count)
    angles = jnp.arange(side, dtype=jnp.float32)[:, None] * frequencies[None, :]
    shape = (side, side, count)
    rows, columns = angles[:, None, :], angles[None, :, :]
    parts = [jnp.broadcast_to(wave(axis), shape) for wave in (jnp.sin, jnp.cos) for axis in (rows, columns)]
    return jnp.concatenate(parts, axis=-1).reshape(side * side, width)


def resample(grid: jax.Array, rows: int, columns: int) -> jax.Array:
    """Resamples [side, side, channels] to [rows, columns, channels] as timm does: bicubic, antialiased if it shrinks.

    The kernel is that of Keys 1981 with a = -0.5. Torch's bicubic interpolation uses the same one when it antialiases.
    """
    if grid.shape[:2] == (rows, columns):
        return grid
    return jax.image.resize(grid, (rows, columns, grid.shape[-1]), "cubic", antialias=True)


def layer_norm(name: str, epsilon: float = 1e-6) -> nn.LayerNorm:
    """Returns a LayerNorm over channels in float32."""
    return nn.LayerNorm(epsilon=epsilon, dtype=jnp.float32, use_fast_variance=False, name=name)


class PatchEmbed(nn.Module):
    """A linear layer on every patch, with the kernel [patch, patch, bands, width] of the equivalent convolution.

    Attributes:
      width: channels of a token.
      patch: side of a patch in pixels.
      dtype: of the product.
      shift: as of `ViT`.
    """

    width: int
    patch: int
    dtype: jax.typing.DTypeLike
    shift: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns tokens [batch, ceil(height / patch), ceil(width / patch), width] of images [batch, h, w, bands].

        If a side is not a multiple of the patch, the image is padded with zeros at the bottom and at the right.
        """
        p, shift = self.patch, self.shift
        batch, height, width, bands = x.shape
        rows, columns = -(-height // p), -(-width // p)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (p, p, bands, self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (shift, rows * p - height), (shift, columns * p - width), (0, 0)))
        x = x[:, :rows * p, :columns * p] if shift else x
        x = x.reshape(batch, rows, p, columns, p, bands).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, rows, columns, p * p * bands) @ kernel.astype(self.dtype).reshape(-1, self.width)
        return x + bias.astype(self.dtype).reshape(1, 1, 1, self.width)


class Block(nn.Module):
    """A transformer block: x + attention(norm(x)), then x + MLP(norm(x)), for x [batch * tokens, width].

    The tokens of all images are one axis. With two axes XLA's GPU compiler stores them transposed, and transposes them
    again for every product (a seventh of the bytes of a step).

    Attributes:
      dtype: of the products and of the tokens; norms and softmax compute in float32.
      heads: number of attention heads; 0 = one for each 64 channels.
      qkv_bias: the layer of q, k and v has a bias.
      epsilon: of the norms.
    """

    dtype: jax.typing.DTypeLike
    heads: int = 0
    qkv_bias: bool = True
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, batch: int, bias: jax.Array | None = None) -> jax.Array:
        """Returns the tokens after the block, of the shape and dtype of `x`.

        Args:
          x: tokens [batch * tokens, width].
          batch: number of images.
          bias: [1, heads, tokens, tokens] float32 to be added to the logits of the attention; None: nothing.
        """
        width = x.shape[-1]
        heads = self.heads or width // HEAD
        xavier = nn.initializers.xavier_uniform()
        each_xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")  # for q, k and v separately

        def dense(features, init, name, use_bias=True):
            return nn.Dense(features, use_bias, dtype=self.dtype, kernel_init=init, name=name)

        def norm(name):
            return layer_norm(name, self.epsilon)(x.astype(jnp.float32)).astype(self.dtype)

        qkv = dense(3 * width, each_xavier, "attn_qkv", self.qkv_bias)(norm("norm1"))
        q, k, v = jnp.moveaxis(qkv.reshape(batch, -1, 3, heads, width // heads), 2, 0)
        y = attention(q, k, v, bias).reshape(-1, width)
        x = x + dense(width, xavier, "attn_proj")(y)
        y = nn.gelu(dense(4 * width, xavier, "mlp_fc1")(norm("norm2")), approximate=False)
        return x + dense(width, xavier, "mlp_fc2")(y)
