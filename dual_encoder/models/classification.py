"""A linear layer on the vectors of encoders: one output per class of an image."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.models.fusion import Fusion, encoder_images


class ClassificationModel(nn.Module):
    """Encoders `<name>_encoder`, their vectors concatenated, and a linear `classifier`.

    The names are those of `encoder_names`.

    Attributes:
      sensors: names of the images used, e.g. ('s1',) or ('s1', 's2').
      encoder: of each name.
      classes: number of outputs.
      frozen: run the encoders with their running statistics, without gradient.
      fusion: 'late', an encoder per sensor; 'early', one encoder of the stacked bands of all sensors.
      fixed: so many first stages of each encoder do not learn, and use their running statistics.
    """

    sensors: tuple[str, ...]
    encoder: AnyEncoder
    classes: int
    frozen: bool
    fusion: Fusion = "late"
    fixed: int = 0

    @nn.compact
    def __call__(self, images: Mapping[str, jax.Array], train: bool, available: jax.Array | None = None) -> jax.Array:
        """Returns logits [batch, classes] float32.

        Args:
          images: sensor -> [batch, height, width, bands] float32, normalised.
          train: use and update batch statistics.
          available: [batch, encoders] bool, which encoders a row has; the vectors of others become 0. None: all.
        """
        vectors = [self.encoder.make(f"{name}_encoder", self.fixed)(image, train and not self.frozen).pooled
                   for name, image in encoder_images(images, self.sensors, self.fusion).items()]
        if available is not None:
            vectors = [jnp.where(available[:, number, None], x, jnp.zeros_like(x)) for number, x in enumerate(vectors)]
        vector = jnp.concatenate(vectors, axis=-1)
        return nn.Dense(self.classes, name="classifier")(jax.lax.stop_gradient(vector) if self.frozen else vector)
