"""Encoders and projection heads: one of each per sensor, or one for the stacked bands of all sensors."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated

import flax.linen as nn
import jax

from dual_encoder.config import AtLeast
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.models.fusion import Fusion, encoder_images, encoder_names


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
    """Encoders `<name>_encoder` with heads `<name>_head`; the names are those of `encoder_names`.

    Attributes:
      sensors: names of the images, e.g. ('s1', 's2').
      encoder: of each name; the number of bands is that of its images.
      hidden, dim: of the projection heads.
      fusion: 'late', an encoder per sensor; 'early', one encoder of all sensors.
    """

    sensors: tuple[str, ...]
    encoder: AnyEncoder
    hidden: int
    dim: int
    fusion: Fusion = "late"

    def setup(self):
        for name in encoder_names(self.sensors, self.fusion):
            setattr(self, f"{name}_encoder", self.encoder.make())
            setattr(self, f"{name}_head", ProjectionHead(self.hidden, self.dim))

    def __call__(self, images: Mapping[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        """Embeds the images of one batch.

        Args:
          images: sensor -> [batch, height, width, bands] float32, normalised.
          train: use and update batch statistics.

        Returns:
          name of the encoder -> [batch, dim] float32, of any length.
        """
        embeddings = {}
        for name, image in encoder_images(images, self.sensors, self.fusion).items():
            features = getattr(self, f"{name}_encoder")(image, train)
            embeddings[name] = getattr(self, f"{name}_head")(features.pooled)
        return embeddings
