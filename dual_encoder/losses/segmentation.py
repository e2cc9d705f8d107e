"""The loss for segmentation."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, label: jax.Array, class_weights: jax.Array, ignore: int) -> jax.Array:
    """Returns the weighted softmax cross-entropy over labelled pixels.

    Args:
      logits: [batch, height, width, classes] float32.
      label: [batch, height, width] uint8, class index or `ignore`.
      class_weights: [classes] float32; the result is a mean with the weight of each pixel's class.
      ignore: the label of pixels that do not count.

    Returns:
      [] float32; 0 if no pixel is labelled.

    >>> label = jnp.array([[[0, 255]]], jnp.uint8)
    >>> loss = cross_entropy(jnp.zeros((1, 1, 2, 2)), label, class_weights=jnp.ones(2), ignore=255)
    >>> round(float(loss), 4)  # log 2: one labelled pixel, two equally likely classes
    0.6931
    """
    counted = label != ignore
    index = jnp.where(counted, label, 0).astype(jnp.int32)
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    nll = -jnp.take_along_axis(log_probability, index[..., None], axis=-1)[..., 0]
    weight = jnp.where(counted, class_weights[index], 0.0)
    return (nll * weight).sum() / jnp.maximum(weight.sum(), jnp.finfo(jnp.float32).tiny)
