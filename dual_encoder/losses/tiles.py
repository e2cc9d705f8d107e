"""The matrix of all pairs of two sets of embeddings, visited tile by tile instead of held as a whole.

One product per tile serves rows and columns. The backward pass makes each tile again (as FlashAttention does, Dao et
al. 2022, arXiv 2205.14135, section 3.1), so memory is a few tiles and a few copies of the embeddings. Over many
devices each holds its own rows; the columns are gathered once and their gradient is scattered once. That gradient is
written out for the whole mesh, with custom_vjp around shard_map: derived inside shard_map and then averaged over the
devices it would come out too large by their number.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

EXCLUDED = -1e30  # logit of a pair that does not count; finite, so that a row without pairs has gradient 0, not NaN


class PairSums(NamedTuple):
    """Sums over the matrix of pairs [n, n].

    Attributes:
      rows, columns: [n] float32, per row and per column; None where not asked for.
      row_top, column_top: [n] float32, the largest logit of pairs of different groups; no gradient flows through them.
    """

    rows: jax.Array
    columns: jax.Array | None
    row_top: jax.Array
    column_top: jax.Array | None


class Side(NamedTuple):
    """The rows, or the columns, of the matrix or of a tile of it.

    Attributes:
      z: [n, dim] float32, embeddings.
      group: [n] int32.
      exists: [n] bool; False after the last one, where tiles do not come out even.
    """

    z: jax.Array
    group: jax.Array
    exists: jax.Array

    @classmethod
    def of(cls, z: jax.Array, group: jax.Array) -> "Side":
        """All of them exist."""
        return cls(z, group, jnp.ones(len(z), bool))


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How to visit the pairs.

    Attributes:
      side: of a tile, at most.
      mesh: of one axis; the rows are sharded over it.
    """

    side: int
    mesh: Mesh

    def gather(self, x: jax.Array) -> jax.Array:
        """Returns `x`, as a whole on every device."""
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec()))

    def forward(self, function: Callable, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Returns function(rows, columns, axis) of the whole mesh.

        Args:
          function: takes a device's own rows, all columns and the name of the mesh axis; returns (results of its rows,
            results of all columns, the same on every device).
          rows, columns: trees of arrays.
        """
        own, every, axis = self._specs()
        # check_vma guards differentiation through shard_map, which does not happen here.
        return jax.shard_map(lambda r, c: function(r, c, axis), mesh=self.mesh, in_specs=(own, every),
                             out_specs=(own, every), check_vma=False)(rows, columns)

    def backward(self, slope: Callable, rows: Any, columns: Any, of_columns: bool = True
                 ) -> tuple[jax.Array, jax.Array | None, jax.Array]:
        """Returns the gradient of the embeddings from that of their products.

        Args:
          slope: (rows, columns), those of one tile -> gradient of its products, 0 for pairs that do not exist.
          rows, columns: trees of arrays; the first of each is a `Side`.
          of_columns: also give the gradient of the columns.

        Returns:
          gradient of rows[0].z, of columns[0].z or None, and sums of the slopes per row.
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
    """[n, dim], [m, dim] -> a b^T, [n, m], in full float32: accelerators would round to fewer bits."""
    return jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)


def tile(rows: Side, columns: Side) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns products, whether a pair is of one group, and whether it exists; [rows, columns] each."""
    return (product(rows.z, columns.z), rows.group[:, None] == columns.group[None],
            rows.exists[:, None] & columns.exists[None])


def fold_tiles(fold: Callable, rows: Any, row_state: Any, columns: Any, column_state: Any, side: int
               ) -> tuple[Any, Any]:
    """Folds every tile into a state of its rows and a state of its columns.

    Args:
      fold: (rows, row_state, columns, column_state), those of one tile -> (row_state, column_state).
      rows, row_state: trees of arrays [n, ...].
      columns, column_state: trees of arrays [m, ...].
      side: of a tile, at most.

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
    """[n, ...] -> [blocks, height, ...]: as few blocks as possible, as even as possible, filled up with zeros."""
    def split(x):
        blocks = -(-len(x) // side)
        height = -(-len(x) // blocks)
        filled = jnp.pad(x, [(0, blocks * height - len(x)), *[(0, 0)] * (x.ndim - 1)])
        return filled.reshape(blocks, height, *x.shape[1:])

    return jax.tree.map(split, tree)


def _whole(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], tree)
