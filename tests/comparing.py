"""How far two results are apart, for tests of equal programs."""

import jax
import numpy as np


def relative_error(one, other):
    """|one - other| / |other|, the Euclidean norms of all values of the trees, in float64."""
    one, other = (np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])
                  for tree in (one, other))
    return np.linalg.norm(one - other) / np.linalg.norm(other)
