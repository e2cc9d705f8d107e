"""The loss terms of segmentation: cross-entropy with a focus on hard pixels, and soft Dice."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, label: jax.Array, class_weights: jax.Array, ignore: int, focal_gamma: float = 0.0
                  ) -> jax.Array:
    """Returns the weighted softmax cross-entropy over labelled pixels; with `focal_gamma` the focal loss.

    The focal loss multiplies the cross-entropy of a pixel by (1 - p)^gamma, where p is the probability of its class
    (Lin et al. 2017, eq. 5; the class weights are their alpha).

    Args:
      logits: [batch, height, width, classes] float32.
      label: [batch, height, width] uint8, class index or `ignore`.
      class_weights: [classes] float32; the result is a mean with the weight of each pixel's class.
      ignore: the label of pixels that do not count.
      focal_gamma: 0 or more; 0 is the cross-entropy.

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
    total = jnp.maximum(weight.sum(), jnp.finfo(jnp.float32).tiny)
    if focal_gamma:
        # log(1 - p) as a sum over the other classes: 1 - p itself is rounded to 0, where a power has no gradient.
        of_others = jnp.where(jax.nn.one_hot(index, logits.shape[-1], dtype=bool), jnp.finfo(jnp.float32).min,
                              log_probability)
        weight = weight * jnp.exp(focal_gamma * jax.nn.logsumexp(of_others, axis=-1))
    return (nll * weight).sum() / total


def soft_dice(logits: jax.Array, label: jax.Array, ignore: int) -> jax.Array:
    """Returns 1 - the soft Dice coefficient, averaged over the classes that occur in the labels.

    The coefficient of a class is 2 sum(p g) / (sum(p^2) + sum(g^2)) over all labelled pixels of the batch, where p is
    its probability and g is 1 in its pixels, else 0 (Milletari et al. 2016, section 3).

    Args:
      logits, label, ignore: as of `cross_entropy`.

    Returns:
      [] float32 in [0, 1]; 0 if no pixel is labelled.

    >>> label = jnp.array([[[0, 255]]], jnp.uint8)
    >>> round(float(soft_dice(jnp.zeros((1, 1, 2, 2)), label, ignore=255)), 4)  # 1 - 2 * 0.5 / (0.25 + 1)
    0.2
    """
    counted = (label != ignore)[..., None]
    probability = jnp.where(counted, jax.nn.softmax(logits, axis=-1), 0.0)
    truth = jnp.where(counted, jax.nn.one_hot(label, logits.shape[-1]), 0.0)
    common, squares, pixels = (values.sum(axis=(0, 1, 2)) for values in (
        probability * truth, probability**2 + truth, truth))
    occurs = (pixels > 0).astype(jnp.float32)
    lost = occurs * (1.0 - 2.0 * common / jnp.maximum(squares, 1.0))
    return lost.sum() / jnp.maximum(occurs.sum(), 1.0)
