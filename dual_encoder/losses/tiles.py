"""Computes the matrix of all pairs of two sets of embeddings tile by tile, so that it is never in memory as a whole.

One product per tile gives the sums of its rows and of its columns. The backward pass computes each tile again, as in
FlashAttention (Dao et al. 2022, arXiv 2205.14135, section 3.1). So the memory is that of a few tiles and a few copies
of the embeddings. With several devices each holds its own rows; the columns are gathered once, and their gradient is
scattered once. The gradient is written out for the whole mesh, with custom_vjp around shard_map. If it were derived
inside shard_map and then averaged over the devices, it would be too large by the number of devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

EXCLUDED = -1e30  # logit of a pair that does not count; finite, so that a row without pairs has gradient 0, not NaN

Columns = TypeVar("Columns", jax.Array, None)
ColumnTop = TypeVar("ColumnTop", jax.Array, None)


class PairSums(NamedTuple, Generic[Columns, ColumnTop]):
    """Sums over the matrix of pairs [n, n].

    Attributes:
      rows, columns: [n] float32, per row and per column; `columns` is None if only rows are summed.
      row_top, column_top: [n] float32, the largest logit of pairs of different groups, without a gradient; `column_top`
        may be None.
    """

    rows: jax.Array
    columns: Columns
    row_top: jax.Array
    column_top: ColumnTop


class Side(NamedTuple):
    """The rows, or the columns, of the matrix or of a tile of it.

    Attributes:
      z: [n, dim] float32, embeddings.
      group: [n] int32; a pair of one group does not count as negative.
      exists: [n] bool; False for the rows that fill up the last tile.
    """

    z: jax.Array
    group: jax.Array
    exists: jax.Array

    @classmethod
    def of(cls, z: jax.Array, group: jax.Array) -> "Side":
        """Returns a side whose rows all exist."""
        return cls(z, group, jnp.ones(len(z), bool))


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How to visit the pairs.

    Attributes:
      side: the largest number of rows and of columns of a tile.
      mesh: the mesh of one axis over which the rows are sharded.
    """

    side: int
    mesh: Mesh

    def gather(self, x: jax.Array) -> jax.Array:
        """Returns `x` with all its rows on every device."""
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec()))

    def forward(self, function: Callable, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Returns function(rows, columns, axis) for the whole mesh.

        Args:
          function: takes a device's own rows, all columns and the name of the mesh axis. It returns the results of the
            device's rows, and the results of all columns, which are the same on every device.
          rows, columns: trees of arrays.
        """
        own, every, axis = self._specs()
        # check_vma checks differentiation through shard_map, which is not used here.
        return jax.shard_map(lambda r, c: function(r, c, axis), mesh=self.mesh, in_specs=(own, every),
                             out_specs=(own, every), check_vma=False)(rows, columns)

    def backward(self, slope: Callable, rows: Any, columns: Any, of_columns: bool = True
                 ) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """Returns the gradient of the embeddings, computed from the gradient of their products.

        Args:
          slope: takes the rows and the columns of one tile; returns the gradient of the tile's products, 0 for pairs
            that do not exist.
          rows, columns: trees of arrays; the first item of each is a `Side`.
          of_columns: also return the gradient of the columns.

        Returns:
          The gradient of rows[0].z, that of columns[0].z or None, and the sums of the slopes per row.
        """
        def fold(rows, row_state, columns, db):
            slopes = slope(rows, columns)
            row_state = row_state[0] + product(slopes, columns[0].z.T), row_state[1] + slopes.sum(axis=1)
            return row_state, db + product(slopes.T, rows[0].z.T) if of_columns else None

        def local(rows, columns):
            a, b = rows[0].z, columns[0].z
            (da, sums), db = fold_tiles(fold, rows, (jnp.zeros_like(a), jnp.zeros(len(a))), columns,
                                        jnp.zeros_like(b) if of_columns else None, self.side)
            return da, jax.lax.psum_scatter(db, axis, tiled=True) if of_columns else None, sums

        own, every, axis = self._specs()
        return jax.shard_map(local, mesh=self.mesh, in_specs=(own, every), out_specs=own,
                             check_vma=False)(rows, columns)

    def _specs(self) -> tuple[PartitionSpec, PartitionSpec, str]:
        axis, = self.mesh.axis_names
        return PartitionSpec(axis), PartitionSpec(), axis


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a b^T, [n, m], of [n, dim] and [m, dim], in full float32: accelerators would round to fewer bits."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def tile(rows: Side, columns: Side) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the products, whether a pair has one group, and whether a pair exists; [rows, columns] each."""
    return (product(rows.z, columns.z), rows.group[:, None] == columns.group[None],
            rows.exists[:, None] & columns.exists[None])


def fold_tiles(fold: Callable, rows: Any, row_state: Any, columns: Any, column_state: Any, side: int
               ) -> tuple[Any, Any]:
    """Updates a state of the rows and a state of the columns with every tile.

    Args:
      fold: takes (rows, row_state, columns, column_state) of one tile; returns the new (row_state, column_state).
      rows, row_state: trees of arrays [n, ...].
      columns, column_state: trees of arrays [m, ...].
      side: the largest number of rows and of columns of a tile.

    Returns:
      (row_state, column_state) after all tiles.
    """
    def row_block(column_state, block):
        rows, row_state = block
        row_state, column_state = jax.lax.scan(
            lambda state, column_block: fold(rows, state, *column_block), row_state, (columns, column_state))
        return column_state, row_state

    n, m = (len(jax.tree.leaves(tree)[0]) for tree in (rows, columns))
    columns, column_state = _blocks((columns, column_state), side)
    column_state, row_state = jax.lax.scan(row_block, column_state, _blocks((rows, row_state), side))
    return _whole(row_state, n), _whole(column_state, m)


def _blocks(tree: Any, side: int) -> Any:
    """Splits [n, ...] into [blocks, height, ...]: as few blocks as possible, of equal height, padded with zeros."""
    def split(x):
        blocks = -(-len(x) // side)
        height = -(-len(x) // blocks)
        filled = jnp.pad(x, [(0, blocks * height - len(x)), *[(0, 0)] * (x.ndim - 1)])
        return filled.reshape(blocks, height, *x.shape[1:])

    return jax.tree.map(split, tree)


def _whole(tree: Any, n: int) -> Any:
    """Joins the blocks of `_blocks` to [n, ...] again, without the padding."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], tree)
