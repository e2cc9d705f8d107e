"""Feature maps of many strides from a vision transformer, whose own maps all have the stride of its patch."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dual_encoder.models.vit import layer_norm


def spread(maps: tuple[jax.Array, ...], patch: int) -> tuple[jax.Array, ...]:
    """Returns the maps of evenly spaced blocks, the last one among them: as many as 2, 4, ..., `patch` has numbers."""
    levels = patch.bit_length() - 1
    return tuple(maps[-(-len(maps) * level // levels) - 1] for level in range(1, levels + 1))


class Pyramid(nn.Module):
    """Evenly spaced blocks, the shallow ones brought up by 2x2 deconvolutions (UNETR, arXiv 2103.10504, figure 2).

    Attributes:
      patch: of the transformer, a power of two; the maps have strides 2, 4, ..., patch.
      width: channels at stride 1; twice as many per level below. The deepest map keeps the channels of the tokens.
      dtype: of the products; norms compute in float32.
    """

    patch: int
    width: int
    dtype: jax.typing.DTypeLike

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """Returns maps [batch, rows * patch / stride, columns * patch / stride, channels] `dtype`, strides 2 to patch.

        Args:
          maps: of all blocks, [batch, rows, columns, channels].
        """
        pyramid, levels = [], self.patch.bit_length() - 1
        for level, x in enumerate(spread(maps, self.patch), start=1):
            x = layer_norm(f"norm{level}")(x.astype(jnp.float32)).astype(self.dtype)
            for target in range(levels - 1, level - 1, -1):
                x = nn.ConvTranspose(self.width * 2**target, (2, 2), (2, 2), "VALID", dtype=self.dtype,
                                     name=f"level{level}_deconv{target}")(x)
                x = layer_norm(f"level{level}_norm{target}")(x.astype(jnp.float32))
                x = nn.relu(x).astype(self.dtype)
            pyramid.append(x)
        return tuple(pyramid)
