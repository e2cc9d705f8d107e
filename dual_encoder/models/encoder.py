"""The encoder that a configuration describes."""

import jax.numpy as jnp

from dual_encoder.config import EncoderConfig
from dual_encoder.models.resnet import ResNet
from dual_encoder.models.vit import ViT


def make_encoder(config: EncoderConfig, name: str | None = None) -> ResNet | ViT:
    """Returns the module (images [batch, height, width, bands] float32, train) -> Features."""
    dtype = jnp.dtype(config.dtype)
    if config.family == "vit":
        return ViT(config.depth, config.width, config.patch, config.image_size, config.pool, config.positions,
                   config.remat, dtype, name=name)
    return ResNet(config.depth, config.width, config.norm, config.remat, dtype, name=name)
