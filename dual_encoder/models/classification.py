"""A linear layer on the vectors of encoders: one output per class of an image."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dual_encoder.models.encoder import AnyEncoder


class ClassificationModel(nn.Module):
    """Encoders `<sensor>_encoder`, their vectors concatenated, and a linear `classifier`.

    Attributes:
      sensors: names of the images used, e.g. ('s1',) or ('s1', 's2').
      encoder: of each sensor.
      classes: number of outputs.
      frozen: run the encoders with their running statistics, without gradient.
    """

    sensors: tuple[str, ...]
    encoder: AnyEncoder
    classes: int
    frozen: bool

    @nn.compact
    def __call__(self, images: Mapping[str, jax.Array], train: bool) -> jax.Array:
        """Returns logits [batch, classes] float32.

        Args:
          images: sensor -> [batch, height, width, bands] float32, normalised.
          train: use and update batch statistics.
        """
        vectors = [self.encoder.make(f"{name}_encoder")(images[name], train and not self.frozen).pooled
                   for name in self.sensors]
        vector = jnp.concatenate(vectors, axis=-1)
        return nn.Dense(self.classes, name="classifier")(jax.lax.stop_gradient(vector) if self.frozen else vector)
