"""A decoder on the feature maps of encoders: a class for each pixel."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dual_encoder.models.decoders import Decoder, decode
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.models.fusion import Change, Fusion, combine, encoder_images
from dual_encoder.models.pyramid import Pyramid, spread
from dual_encoder.models.vit import layer_norm


class SegmentationModel(nn.Module):
    """Encoders `<name>_encoder`, their features concatenated per level, and one decoder.

    The names are those of `encoder_names`. The maps of a transformer all have one stride. A `<name>_pyramid`, which is
    a part of the decoder, then makes maps of several strides. A linear decoder takes the maps of evenly spaced blocks
    as they are, behind a `<name>_norm`.

    Attributes:
      sensors: names of the images used, e.g. ('s1',) or ('s1', 's2').
      encoder: of each name.
      decoder: see `decoders`.
      decoder_width: of the decoder, as in `decode`.
      classes: number of classes.
      frozen: run the encoders with their running statistics, without gradient.
      change: 'none', or how the maps of two dates become one: 'difference', after - before (FC-Siam-diff, Daudt et al.
        2018, with the sign); 'concatenation', after, before and after - before.
      fusion: 'late', an encoder per sensor; 'early', one encoder of the stacked bands of all sensors.
      fixed: so many first stages of each encoder do not learn, and use their running statistics.
    """

    sensors: tuple[str, ...]
    encoder: AnyEncoder
    decoder: Decoder
    decoder_width: int
    classes: int
    frozen: bool
    change: Change = "none"
    fusion: Fusion = "late"
    fixed: int = 0

    @nn.compact
    def __call__(self, images: Mapping[str, jax.Array], train: bool, available: jax.Array | None = None) -> jax.Array:
        """Returns logits [batch, height, width, classes] float32.

        Args:
          images: sensor -> [batch, height, width, bands] float32, normalised; with a change [batch, 2, height, width,
            bands], the image before it first.
          train: use and update batch statistics.
          available: [batch, encoders] bool, which encoders a row has; the maps of others become 0. None: all.
        """
        stacks = encoder_images(images, self.sensors, self.fusion)
        levels = [self._maps(name, image, train) for name, image in stacks.items()]
        if available is not None:
            levels = [tuple(jnp.where(available[:, number, None, None, None], x, jnp.zeros_like(x)) for x in maps)
                      for number, maps in enumerate(levels)]
        maps = [jnp.concatenate(level, axis=-1) for level in zip(*levels, strict=True)]
        size = next(iter(images.values())).shape[-3:-1]
        return decode(self.decoder, maps, self._strides(), size, self.decoder_width, self.classes,
                      jnp.dtype(self.encoder.dtype), train)

    def _maps(self, name: str, image: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Returns the maps of an encoder as the decoder takes them."""
        image = image.reshape(-1, *image.shape[-3:])  # both dates of a row side by side, on the row's device
        maps = self.encoder.make(f"{name}_encoder", self.fixed)(image, train and not self.frozen).maps
        if self.frozen:
            maps = jax.lax.stop_gradient(maps)
        if self.change != "none":
            maps = tuple(_combined(both, self.change) for both in maps)
        patch = self._patch()
        if not patch:
            return maps
        if self.decoder == "linear":
            return tuple(layer_norm(f"{name}_norm{number}")(x.astype(jnp.float32))
                         for number, x in enumerate(spread(maps, patch), start=1))
        return Pyramid(patch, self.decoder_width, jnp.dtype(self.encoder.dtype), name=f"{name}_pyramid")(maps)

    def _patch(self) -> int:
        """Returns the stride that all maps of a transformer have; 0 for other encoders."""
        strides = self.encoder.strides
        return strides[0] if len(set(strides)) == 1 else 0

    def _strides(self) -> tuple[int, ...]:
        """Returns the strides of the maps that the decoder takes."""
        patch = self._patch()
        doubling = tuple(2**level for level in range(1, patch.bit_length()))
        return self.encoder.strides if not patch else (patch,) * len(doubling) if self.decoder == "linear" else doubling


def _combined(both: jax.Array, change: Change) -> jax.Array:
    """Returns the map of a change of the maps before and after it, [2 * batch, h, w, c], which stand side by side."""
    before, after = jnp.moveaxis(both.reshape(-1, 2, *both.shape[1:]), 1, 0)
    return combine(after, before, change)
