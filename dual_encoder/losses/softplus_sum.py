"""Sum of softplus over all pairs of two sets of embeddings, for the sigmoid loss."""

import functools

import jax
import jax.numpy as jnp

from dual_encoder.losses.tiles import EXCLUDED, PairSums, Side, Tiles, fold_tiles, product, tile

Sums = PairSums[None, jax.Array]


def softplus_sum(a: jax.Array, b: jax.Array, bias: jax.Array, group: jax.Array, tiles: Tiles | None, positives: bool
                 ) -> Sums:
    """Sums log(1 + exp(x_ij)) with x_ij = a_i.b_j + bias_i over pairs of different groups, per row i.

    Args:
      a, b: [n, dim] float32.
      bias: [n] float32.
      group: [n] int32, the group of row i and also of column i.
      tiles: how to visit the pairs; None computes the whole matrix and keeps it for the backward pass.
      positives: also sum log(1 + exp(-x_ij)) over pairs of one group.

    Returns:
      The sums of the rows. There are no sums of columns.
    """
    if tiles is not None:
        return _tiled(a, b, bias, group, tiles, positives)
    logits, same = product(a, b) + bias[:, None], group[:, None] == group[None]
    signed = jnp.where(same, -logits if positives else EXCLUDED, logits)
    negatives = jax.lax.stop_gradient(jnp.where(same, EXCLUDED, logits))
    return PairSums(jax.nn.softplus(signed).sum(axis=1), None, negatives.max(axis=1), negatives.max(axis=0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _tiled(a: jax.Array, b: jax.Array, bias: jax.Array, group: jax.Array, tiles: Tiles, positives: bool) -> Sums:
    return _forward(a, b, bias, group, tiles, positives)[0]


def _forward(a, b, bias, group, tiles, positives):
    def fold(rows, row_state, columns, column_top):
        signed, negatives = _logits(rows, columns, positives)
        sums, row_top = row_state
        return ((sums + jax.nn.softplus(signed).sum(axis=1), jnp.maximum(row_top, negatives.max(axis=1))),
                jnp.maximum(column_top, negatives.max(axis=0)))

    def local(rows, columns, axis):
        n, m = len(rows[0].z), len(columns.z)
        row, column_top = fold_tiles(fold, rows, (jnp.zeros(n), jnp.full(n, EXCLUDED)), columns,
                                     jnp.full(m, EXCLUDED), tiles.side)
        return row, jax.lax.pmax(column_top, axis)

    rows, columns = (Side.of(a, group), bias), Side.of(tiles.gather(b), tiles.gather(group))
    (sums, row_top), column_top = tiles.forward(local, rows, columns)
    return PairSums(sums, None, row_top, column_top), (rows, columns)


def _backward(tiles, positives, saved, gradient):
    def slope(rows, columns):
        *rows, row_gradient = rows
        signed, negatives = _logits(rows, columns[0], positives)
        sign = jnp.where(negatives == EXCLUDED, -1.0, 1.0)
        return sign * row_gradient[:, None] * jax.nn.sigmoid(signed)

    rows, columns = saved
    da, db, dbias = tiles.backward(slope, (*rows, gradient.rows), (columns,))
    return da, db, dbias, None


_tiled.defvjp(_forward, _backward)


def _logits(rows: tuple[Side, jax.Array], columns: Side, positives: bool) -> tuple[jax.Array, jax.Array]:
    """Returns, for one tile, the logits with the sign in which the loss makes them small, and those of negatives."""
    side, bias = rows
    products, same, exists = tile(side, columns)
    logits = products + bias[:, None]
    signed = jnp.where(same, -logits if positives else EXCLUDED, logits)
    return jnp.where(exists, signed, EXCLUDED), jnp.where(same | ~exists, EXCLUDED, logits)
