"""The nearest vectors by cosine, exactly: matrix products of blocks, so that memory does not grow with the index."""

import numpy as np

_BLOCK = 65536  # rows of a product


def nearest(matrix: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of the largest products.

    Args:
      matrix: float32 [n, dim] of unit length, perhaps a memory map.
      queries: float32 [q, dim] of unit length.
      count: rows per query.

    Returns:
      (rows int64, cosines float32), both [q, min(count, n)]; the most similar first, equal ones by their number.
    """
    rows = np.empty((len(queries), 0), np.int64)
    best = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(matrix), _BLOCK):
        block = matrix[start:start + _BLOCK]
        # Of one query, a product for each row reads the block as it lies in memory, faster than BLAS does.
        products = np.vecdot(block, queries[0])[None] if len(queries) == 1 else (block @ queries.T).T
        merged = [_merge(*one, start, count) for one in zip(rows, best, products, strict=True)]
        rows, best = (np.stack(part) for part in zip(*merged, strict=True))
    return rows, best


def _merge(rows: np.ndarray, best: np.ndarray, products: np.ndarray, start: int, count: int
           ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best of (rows, best) and of the products of the rows start, start + 1, ...."""
    if len(best) == count:
        here = np.flatnonzero(products > best[-1])  # an equal one has a larger number
    else:
        here = np.arange(len(products))
    if len(here) > count:
        least = np.partition(products[here], len(here) - count)[len(here) - count]
        here = here[products[here] >= least]
    rows, best = np.concatenate([rows, here + start]), np.concatenate([best, products[here]])
    order = np.lexsort((rows, -best))[:count]
    return rows[order], best[order]
