"""One encoder and projection head per sensor."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import flax.linen as nn
import jax

from dual_encoder.config import AtLeast
from dual_encoder.models.encoder import AnyEncoder


@dataclasses.dataclass(frozen=True)
class ProjectionConfig:
    """The projection heads.

    Attributes:
      hidden: width of the hidden layer.
      dim: width of the embeddings that the loss compares.
    """

    hidden: Annotated[int, AtLeast(1)]
    dim: Annotated[int, AtLeast(1)]


class ProjectionHead(nn.Module):
    """Linear - ReLU - Linear in float32 (Chen et al. 2020, section 2.1)."""

    hidden: int
    dim: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, width] float32 -> [batch, dim] float32."""
        x = nn.relu(nn.Dense(self.hidden, name="hidden")(x))
        return nn.Dense(self.dim, name="out")(x)


class DualEncoder(nn.Module):
    """Encoders `<sensor>_encoder` with heads `<sensor>_head`.

    Attributes:
      sensors: names of the images, e.g. ('s1', 's2').
      encoder: of each sensor; the number of bands is that of its images.
      hidden, dim: of the projection heads.
    """

    sensors: tuple[str, ...]
    encoder: AnyEncoder
    hidden: int
    dim: int

    def setup(self):
        for name in self.sensors:
            setattr(self, f"{name}_encoder", self.encoder.make())
            setattr(self, f"{name}_head", ProjectionHead(self.hidden, self.dim))

    def __call__(self, images: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """Embeds the images of one batch.

        Args:
          images: sensor -> [batch, height, width, bands] float32, normalised.
          train: use and update batch statistics.

        Returns:
          sensor -> [batch, dim] float32, of any length.
        """
        embeddings = {}
        for name in self.sensors:
            features = getattr(self, f"{name}_encoder")(images[name], train)
            embeddings[name] = getattr(self, f"{name}_head")(features.pooled)
        return embeddings
