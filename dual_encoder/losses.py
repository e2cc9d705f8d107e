"""Contrastive losses: pure functions of the embeddings of the global batch."""

import jax
import jax.numpy as jnp

MAX_SCALE = 100.0  # clamp of 1 / temperature (Radford et al. 2021, CLIP, section 2.5)


def info_nce(z1: jax.Array, z2: jax.Array, scale: jax.Array, location: jax.Array | None = None
             ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Symmetric cross-modal InfoNCE (van den Oord et al. 2018, eq. 4; both directions as in CLIP, fig. 3).

        L = 1/2 [ mean_i -log softmax_j(s z1_i.z2_j)[i] + mean_i -log softmax_j(s z2_i.z1_j)[i] ]

    Args:
      z1, z2: [batch, dim] float32, unit vectors; row i of both is one pair.
      scale: [] float32, s = 1 / temperature.
      location: [batch] int32; where given, pairs of one location are no negatives of each other.

    Returns:
      The loss, [] float32, and metrics: accuracy per direction (share of pairs whose partner is nearest, in [0, 1])
      and `masked`, the share of negatives left out.
    """
    batch = z1.shape[0]
    diagonal = jnp.arange(batch)
    same = jnp.eye(batch, dtype=bool)
    excluded = jnp.zeros((batch, batch), bool) if location is None else (location[:, None] == location[None]) & ~same

    def direction(queries, keys):
        # One product per direction: each device then holds only its own rows. Full precision: TPUs round to bf16.
        similarity = jnp.matmul(queries, keys.T, precision=jax.lax.Precision.HIGHEST)
        logits = jnp.where(excluded, -jnp.inf, similarity * scale)
        positive = jnp.where(same, logits, jnp.zeros_like(logits)).sum(axis=1)
        loss = (jax.nn.logsumexp(logits, axis=1) - positive).mean()
        return loss, (jnp.argmax(logits, axis=1) == diagonal).mean(dtype=jnp.float32)

    loss_12, accuracy_12 = direction(z1, z2)
    loss_21, accuracy_21 = direction(z2, z1)
    metrics = {"accuracy_s1_to_s2": accuracy_12, "accuracy_s2_to_s1": accuracy_21,
               "masked": excluded.mean(dtype=jnp.float32)}
    return 0.5 * (loss_12 + loss_21), metrics


def cross_entropy(logits: jax.Array, label: jax.Array, class_weights: jax.Array, ignore: int) -> jax.Array:
    """Weighted softmax cross-entropy over labelled pixels.

    Args:
      logits: [batch, height, width, classes] float32.
      label: [batch, height, width] uint8, class index or `ignore`.
      class_weights: [classes] float32; the mean is taken with the weight of each pixel's class.
      ignore: label value of pixels that do not count.

    Returns:
      [] float32; 0 when no pixel is labelled.
    """
    counted = label != ignore
    index = jnp.where(counted, label, 0).astype(jnp.int32)
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    nll = -jnp.take_along_axis(log_probability, index[..., None], axis=-1)[..., 0]
    weight = jnp.where(counted, class_weights[index], 0.0)
    return (nll * weight).sum() / jnp.maximum(weight.sum(), jnp.finfo(jnp.float32).tiny)
