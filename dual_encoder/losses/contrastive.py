"""Objectives that compare each pair with all other pairs of the global batch.

Each objective takes embeddings, [batch, dim] float32. Row i of each array comes from one place and time. The vectors
may have any length: the objectives compare the unit vectors u (of z1) and v (of z2). s is `scale` = 1 / temperature,
[] float32. All objectives take these further arguments:

  location: [batch] int32, the place of each row. If it is given, rows of one place are not negatives of each other.
  positives: rows of one place are additional positives of each other. This needs `location`.
  tiles: compute the matrix of all pairs tile by tile, to save memory. The loss is the same.

Each objective returns the loss, [] float32, and metrics: `accuracy_1_to_2` and `accuracy_2_to_1`, the share of rows
whose partner is nearer than every other candidate that counts, and `same_place`, the share of other rows of the same
place. It raises ValueError if `positives` is set without `location`.
"""

import jax
import jax.numpy as jnp

from dual_encoder.losses.log_sum_exp import log_sum_exp
from dual_encoder.losses.softplus_sum import softplus_sum
from dual_encoder.losses.tiles import Tiles

MAX_SCALE = 100.0  # clamp of 1 / temperature (Radford et al. 2021, CLIP, section 2.5)

Result = tuple[jax.Array, dict[str, jax.Array]]


def info_nce(z1: jax.Array, z2: jax.Array, scale: jax.Array, location: jax.Array | None = None,
             positives: bool = False, tiles: Tiles | None = None) -> Result:
    """Symmetric InfoNCE with negatives from the other sensor.

    The formula is that of van den Oord et al. 2018, eq. 4, in two directions (CLIP, Radford et al. 2021, fig. 3).

        L = 1/2 [ mean_i -log softmax_j(s u_i.v_j)[i] + mean_i -log softmax_j(s v_i.u_j)[i] ]

    Additional positives P(i), which include the partner, count as in SupCon (Khosla et al. 2020, eq. 2, 'out'):
    -log softmax_j(.)[i] becomes its mean over the p in P(i).

    >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> loss, metrics = info_nce(z, z, scale=jnp.float32(1.0))
    >>> round(float(loss), 4)  # log(1 + exp(-1))
    0.3133
    >>> float(metrics["accuracy_1_to_2"])
    1.0
    """
    p, q = _scaled(z1, scale), _scaled(z2, scale)
    partner = (p * q).sum(axis=1)
    others = log_sum_exp(p, q, _negative_groups(location, positives, len(p)), tiles)
    positive_1 = positive_2 = partner
    if positives:
        count, (places_p, places_q) = _sums_of_places(location, p, q)
        positive_1, positive_2 = ((x * y).sum(axis=1) / count for x, y in ((p, places_q), (q, places_p)))
    loss = 0.5 * (_nll(partner, others.rows, positive_1) + _nll(partner, others.columns, positive_2))
    return loss, _metrics(partner, others.row_top, others.column_top, location)


def nt_xent(z1: jax.Array, z2: jax.Array, scale: jax.Array, location: jax.Array | None = None,
            positives: bool = False, tiles: Tiles | None = None) -> Result:
    """NT-Xent: compares each of the 2 x batch embeddings with the other 2 x batch - 1.

    The formula is that of SimCLR (Chen et al. 2020, eq. 1).

        L = mean over all embeddings e of -log( exp(s e.partner) / sum_{f != e} exp(s e.f) )

    Additional positives count as in `info_nce`; here they include those of the same sensor.

    >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> loss, _ = nt_xent(z, z, scale=jnp.float32(1.0))
    >>> round(float(loss), 4)  # log(1 + 2 exp(-1))
    0.5514
    """
    p, q = _scaled(z1, scale), _scaled(z2, scale)
    group = _negative_groups(location, positives, len(p))
    partner = (p * q).sum(axis=1)
    across = log_sum_exp(p, q, group, tiles)
    within_1, within_2 = (log_sum_exp(x, None, group, tiles) for x in (p, q))
    positive_1 = positive_2 = partner
    if positives:
        count, (places_p, places_q) = _sums_of_places(location, p, q)
        positive_1, positive_2 = ((x * (places_p + places_q - x)).sum(axis=1) / (2.0 * count - 1.0) for x in (p, q))
    loss = 0.5 * (_nll(partner, jnp.logaddexp(across.rows, within_1.rows), positive_1)
                  + _nll(partner, jnp.logaddexp(across.columns, within_2.rows), positive_2))
    return loss, _metrics(partner, jnp.maximum(across.row_top, within_1.row_top),
                          jnp.maximum(across.column_top, within_2.row_top), location)


def iai_simclr(z1: jax.Array, z2: jax.Array, z1_again: jax.Array, z2_again: jax.Array, scale: jax.Array,
               location: jax.Array | None = None, positives: bool = False, tiles: Tiles | None = None) -> Result:
    """IaI-SimCLR: NT-Xent between the sensors and within each of them.

    The method is that of Prexl and Schmitt 2023, with the weights of their code.

        L = NT-Xent(z1, z2) + NT-Xent(z1, z1_again) + NT-Xent(z2, z2_again)

    z1_again and z2_again come from a second augmentation of the images. The authors use a separate projection head and
    a separate augmentation for each term. Here all three terms share one head per sensor and two augmentations.

    >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> loss, metrics = iai_simclr(z, z, z, z, scale=jnp.float32(1.0))
    >>> round(float(loss), 3), round(float(metrics["loss_inter"]), 4)  # three times the same term
    (1.654, 0.5514)
    """
    terms = {name: nt_xent(a, b, scale, location, positives, tiles)
             for name, a, b in (("inter", z1, z2), ("intra_1", z1, z1_again), ("intra_2", z2, z2_again))}
    return (sum((loss for loss, _ in terms.values()), start=jnp.float32(0)),
            terms["inter"][1] | {f"loss_{name}": loss for name, (loss, _) in terms.items()})


def sigmoid(z1: jax.Array, z2: jax.Array, scale: jax.Array, bias: jax.Array, location: jax.Array | None = None,
            positives: bool = False, tiles: Tiles | None = None) -> Result:
    """Pairwise sigmoid loss: classifies each pair as positive or negative (SigLIP, Zhai et al. 2023, section 3.2).

        L = -1/batch sum_ij log sigmoid( y_ij (s u_i.v_j + bias) ),  y_ij = 1 for positives, -1 for negatives

    bias: [] float32.

    >>> z = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> loss, _ = sigmoid(z, z, scale=jnp.float32(1.0), bias=jnp.float32(0.0))
    >>> round(float(loss), 4)  # log(1 + exp(-1)) + log 2
    1.0064
    """
    p, q = _scaled(z1, scale), _scaled(z2, scale)
    partner = (p * q).sum(axis=1) + bias
    group = _negative_groups(location, False, len(p))
    sums = softplus_sum(p, q, jnp.full(len(p), bias), group, tiles, positives)
    loss = sums.rows.mean() if positives else (sums.rows + jax.nn.softplus(-partner)).mean()
    return loss, _metrics(partner, sums.row_top, sums.column_top, location)


@jax.checkpoint
def _scaled(z: jax.Array, scale: jax.Array) -> jax.Array:
    """Scales each row of `z`, [batch, dim] float32, to length sqrt(scale), so that products of rows are logits.

    Rows shorter than 1e-12 become zeros without a gradient: they have no direction, and its gradient would be infinite.
    """
    square = jnp.square(z).sum(axis=1, keepdims=True)
    return z * jnp.where(square > 1e-24, jnp.sqrt(scale) * jax.lax.rsqrt(jnp.maximum(square, 1e-24)), 0.0)


def _nll(partner: jax.Array, others: jax.Array, positive: jax.Array) -> jax.Array:
    """Returns the mean of log(exp(partner) + exp(others)) - positive, [batch] each; exact even if it is nearly 0."""
    return (jax.nn.softplus(others - partner) + (partner - positive)).mean()


def _negative_groups(location: jax.Array | None, positives: bool, batch: int) -> jax.Array:
    """Returns the group of each row, [batch] int32. Rows of one group, also i and its partner, are not negatives."""
    return jnp.arange(batch, dtype=jnp.int32) if location is None or positives else location


def _first_and_count(location: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns, for each row, the first row of the same place, int32, and the number of rows of that place, float32."""
    order = jnp.argsort(location)  # stable; several devices need to exchange only the places, not the embeddings
    in_order = jnp.take(location, order)
    first, after = (jnp.searchsorted(in_order, location, side=side) for side in ("left", "right"))
    return order[first], (after - first).astype(jnp.float32)


def _sums_of_places(location: jax.Array | None, *embeddings: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
    """Returns the number of rows of each row's place, [batch], and the sums of their embeddings, [batch, dim] each."""
    if location is None:
        raise ValueError("positives=True needs location, the place of each row, [batch] int32; pass it, or leave "
                         "positives at False")
    first, count = _first_and_count(location)
    return count, [jnp.zeros_like(x).at[first].add(x)[first] for x in embeddings]


def _metrics(partner: jax.Array, row_top: jax.Array, column_top: jax.Array, location: jax.Array | None
             ) -> dict[str, jax.Array]:
    same = jnp.float32(0) if location is None else (_first_and_count(location)[1] - 1.0).mean() / len(partner)
    return {"accuracy_1_to_2": (partner > row_top).mean(dtype=jnp.float32),
            "accuracy_2_to_1": (partner > column_top).mean(dtype=jnp.float32), "same_place": same}
