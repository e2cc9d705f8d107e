"""Standardises stored integers to float images."""

import jax
import jax.numpy as jnp

from dual_encoder.imagery.sensors import SensorSpec


def normalise(image: jax.Array, spec: SensorSpec) -> jax.Array:
    """Standardises a stored image; no-data pixels become 0, the mean.

    Args:
      image: [batch, height, width, bands] stored integers of `spec`.

    Returns:
      float32 of the same shape, (x - mean) / std per band, cut to the limits of the sensor if it has some.
    """
    return standardise(image.astype(jnp.float32), spec.holds_data(image)[..., None], spec)


def standardise(values: jax.Array, valid: jax.Array, spec: SensorSpec) -> jax.Array:
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, -1) for v in (spec.mean, spec.std))
    values = (values - mean) / std
    return jnp.where(valid, jnp.clip(values, *spec.limits) if spec.limits else values, 0.0)
