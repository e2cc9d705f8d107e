"""Log-sum-exp over all pairs of two sets of embeddings, for losses of the softmax family."""

import functools
from typing import overload

import jax
import jax.numpy as jnp

from dual_encoder.losses.tiles import EXCLUDED, PairSums, Side, Tiles, fold_tiles, product, tile

BothSums = PairSums[jax.Array, jax.Array]
RowSums = PairSums[None, None]
State = tuple[jax.Array, jax.Array]


@overload
def log_sum_exp(a: jax.Array, b: jax.Array, group: jax.Array, tiles: Tiles | None) -> BothSums: ...
@overload
def log_sum_exp(a: jax.Array, b: None, group: jax.Array, tiles: Tiles | None) -> RowSums: ...
def log_sum_exp(a: jax.Array, b: jax.Array | None, group: jax.Array, tiles: Tiles | None) -> BothSums | RowSums:
    """Sums exp(a_i.b_j) over pairs of different groups, per row i and per column j, and takes the logarithm.

    Args:
      a: [n, dim] float32.
      b: the same, or None for pairs within `a`.
      group: [n] int32, the group of row i and also of column i.
      tiles: how to visit the pairs; None computes the whole matrix and keeps it for the backward pass.

    Returns:
      The logarithms. They are near EXCLUDED if no pair counts. Without `b` there are no sums of columns.
    """
    if tiles is not None:
        return _tiled(a, b, group, tiles)
    logits = jnp.where(group[:, None] == group[None], EXCLUDED, product(a, a if b is None else b))
    fixed = jax.lax.stop_gradient(logits)
    rows, row_top = jax.nn.logsumexp(logits, axis=1), fixed.max(axis=1)
    if b is None:
        return PairSums(rows, None, row_top, None)
    return PairSums(rows, jax.nn.logsumexp(logits, axis=0), row_top, fixed.max(axis=0))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _tiled(a: jax.Array, b: jax.Array | None, group: jax.Array, tiles: Tiles) -> BothSums | RowSums:
    return _forward(a, b, group, tiles)[0]


def _forward(a, b, group, tiles):
    both = b is not None

    def fold(rows, row_state, columns, column_state):
        logits = _logits(rows, columns)
        return _add(row_state, logits, 1), _add(column_state, logits, 0) if both else None

    def local(rows, columns, axis):
        row, column = fold_tiles(fold, rows, _empty(rows), columns, _empty(columns) if both else None, tiles.side)
        if both:  # these sums are over this device's rows only
            top = jax.lax.pmax(column[0], axis)
            column = top, jax.lax.psum(column[1] * jnp.exp(column[0] - top), axis)
        return _log(row), _log(column) if both else (None, None)

    rows, columns = Side.of(a, group), Side.of(tiles.gather(b if both else a), tiles.gather(group))
    (row_sums, row_top), (column_sums, column_top) = tiles.forward(local, rows, columns)
    return PairSums(row_sums, column_sums, row_top, column_top), (rows, columns, row_sums, column_sums)


def _backward(tiles, saved, gradient):
    def slope(rows, columns):
        (rows, row_sums, row_gradient), (columns, column_sums, column_gradient) = rows, columns
        logits = _logits(rows, columns)
        return (row_gradient[:, None] * jnp.exp(logits - row_sums[:, None])
                + column_gradient[None] * jnp.exp(logits - column_sums[None]))

    rows, columns, row_sums, column_sums = saved
    within = column_sums is None  # then each logit belongs to row i and, mirrored, to row j
    da, db, _ = tiles.backward(slope, (rows, row_sums, gradient.rows), (
        columns, row_sums if within else column_sums, gradient.rows if within else gradient.columns), not within)
    return da, db, None


_tiled.defvjp(_forward, _backward)


def _logits(rows: Side, columns: Side) -> jax.Array:
    """Returns the products of one tile, [rows, columns], with EXCLUDED for pairs that do not count."""
    logits, same, exists = tile(rows, columns)
    return jnp.where(same | ~exists, EXCLUDED, logits)


def _empty(side: Side) -> State:
    """Returns the state before the first tile: the largest logit so far, and the sum of exp(logit - largest).

    The largest logit is subtracted, so nothing overflows: the online form of Milakov and Gimelshein 2018 (arXiv
    1805.02867, algorithm 3).
    """
    return jnp.full(len(side.z), EXCLUDED), jnp.zeros(len(side.z))


def _add(state: State, logits: jax.Array, axis: int) -> State:
    """Returns the state after the logits of one tile."""
    top = jnp.maximum(state[0], logits.max(axis))
    return top, state[1] * jnp.exp(state[0] - top) + jnp.exp(logits - jnp.expand_dims(top, axis)).sum(axis)


def _log(state: State) -> tuple[jax.Array, jax.Array]:
    """Returns the logarithm of the sum, and the largest logit."""
    return state[0] + jnp.log(state[1]), state[0]
