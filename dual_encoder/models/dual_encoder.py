"""One encoder and projection head per sensor."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dual_encoder.models.resnet import ResNet, pool


class ProjectionHead(nn.Module):
    """Linear - ReLU - Linear in float32 (Chen et al. 2020, section 2.1), to unit vectors."""

    hidden: int
    dim: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, width] float32 -> [batch, dim] float32 of norm 1."""
        x = nn.relu(nn.Dense(self.hidden, name="hidden")(x))
        x = nn.Dense(self.dim, name="out")(x)
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


class DualEncoder(nn.Module):
    """Encoders `<sensor>_encoder` with heads `<sensor>_head`, and the log of the similarity scale.

    Attributes:
      sensors: names of the images, e.g. ('s1', 's2').
      depth, width: of the ResNets.
      hidden, dim: of the projection heads.
      scale: initial similarity scale, 1 / temperature.
      dtype: compute dtype of the encoders.
    """

    sensors: tuple[str, ...]
    depth: int
    width: int
    hidden: int
    dim: int
    scale: float
    dtype: jnp.dtype

    def setup(self):
        for name in self.sensors:
            setattr(self, f"{name}_encoder", ResNet(self.depth, self.width, self.dtype))
            setattr(self, f"{name}_head", ProjectionHead(self.hidden, self.dim))
        self.log_scale = self.param("log_scale", lambda _: jnp.log(jnp.float32(self.scale)))

    def __call__(self, images: Mapping[str, jax.Array], train: bool) -> tuple[dict[str, jax.Array], jax.Array]:
        """Embeds the images of one batch.

        Args:
          images: sensor -> [batch, height, width, bands] float32, normalised.
          train: use and update batch statistics.

        Returns:
          sensor -> [batch, dim] float32 unit vectors, and log_scale, [] float32.
        """
        embeddings = {}
        for name in self.sensors:
            features = getattr(self, f"{name}_encoder")(images[name], train)
            embeddings[name] = getattr(self, f"{name}_head")(pool(features))
        return embeddings, self.log_scale
