"""Objectives on the statistics of embeddings over the global batch, without negatives.

Each objective takes embeddings, [batch, dim] float32, and returns the loss, [] float32, and metrics. Row i of each
array comes from one place and time.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Result = tuple[jax.Array, dict[str, jax.Array]]


def barlow(z1: jax.Array, z2: jax.Array, off_diagonal: float) -> Result:
    """Barlow Twins (Zbontar et al. 2021, eq. 1). C is the correlation matrix [dim, dim] of z1 with z2 over the batch.

        L = sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2

    >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> loss, metrics = barlow(z, -z, off_diagonal=0.005)
    >>> round(float(loss), 2), round(float(metrics["correlation"]), 2)  # two dimensions, each (1 - (-1))^2
    (8.0, -1.0)
    """
    matrix = _correlation(z1, z2)
    return _redundancy(matrix, 1.0, off_diagonal), {"correlation": jnp.diagonal(matrix).mean()}


def decur(z1: jax.Array, z2: jax.Array, z1_again: jax.Array, z2_again: jax.Array, off_diagonal: float, common: int
          ) -> Result:
    """DeCUR: makes the first dimensions agree between the sensors, and the others differ.

    The method is that of Wang et al. 2024 (arXiv 2309.05300), with the weights of the authors' code. With
    B(C, t) = sum_i (t - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2 and C the correlation
    matrix of z1 with z2:

        L = 1/3 [ 1/2 ( B(C of the first `common` dimensions, 1) + B(C of the others, 0) )
                  + B(C of z1 with z1_again, 1) + B(C of z2 with z2_again, 1) ]

    Args:
      z1, z2: [batch, dim] float32.
      z1_again, z2_again: the same, from a second augmentation of the images.
      off_diagonal: weight of the correlations between different dimensions.
      common: the number of dimensions that shall agree.

    >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> loss, _ = decur(z, z, z, z, off_diagonal=0.005, common=1)
    >>> round(float(loss), 3)  # 1/3 of 1/2 of (0 - 1)^2: the second dimension agrees, and shall not
    0.167
    """
    between = _correlation(z1, z2)
    agree, differ = between[:common, :common], between[common:, common:]
    inter = 0.5 * (_redundancy(agree, 1.0, off_diagonal) + _redundancy(differ, 0.0, off_diagonal))
    intra = [_redundancy(_correlation(a, b), 1.0, off_diagonal) for a, b in ((z1, z1_again), (z2, z2_again))]
    metrics = {"loss_inter": inter, "loss_intra_1": intra[0], "loss_intra_2": intra[1],
               "correlation": jnp.diagonal(agree).mean()}
    return (inter + sum(intra)) / 3.0, metrics


def vicreg(z1: jax.Array, z2: jax.Array, weights: Sequence[float]) -> Result:
    """VICReg (Bardes et al. 2022, algorithm 1): invariance, variance and covariance terms.

        L = w0 mean (z1 - z2)^2 + w1 [v(z1) + v(z2)] + w2 [c(z1) + c(z2)]
        v(z) = mean_j max(0, 1 - sqrt(Var z_j + 1e-4)),  c(z) = 1/dim sum_{i != j} Cov(z)_ij^2

    The first term is a mean over batch and dimensions, as in the algorithm; the paper's eq. 5 sums the dimensions.

    Args:
      z1, z2: [batch, dim] float32; they are not normalised.
      weights: (w0, w1, w2); the paper uses (25, 25, 1).

    >>> z = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> loss, terms = vicreg(z, -z, weights=(25.0, 25.0, 1.0))
    >>> round(float(loss), 2), {name: round(float(term), 2) for name, term in terms.items()}
    (100.0, {'invariance': 4.0, 'variance': 0.0, 'covariance': 0.0})
    """
    invariance = jnp.square(z1 - z2).mean()
    variance, covariance = (sum(terms, start=jnp.float32(0))
                            for terms in zip(_spread(z1), _spread(z2), strict=True))
    terms = {"invariance": invariance, "variance": variance, "covariance": covariance}
    weighted = (weight * term for weight, term in zip(weights, terms.values(), strict=True))
    return sum(weighted, start=jnp.float32(0)), terms


def _correlation(z1: jax.Array, z2: jax.Array) -> jax.Array:
    """Returns the correlations over the batch, [dim of z1, dim of z2]; 1e-5 is added to variances, as in BatchNorm."""
    def standardise(z):
        return (z - z.mean(axis=0, keepdims=True)) * jax.lax.rsqrt(z.var(axis=0, keepdims=True) + 1e-5)

    return _products(standardise(z1), standardise(z2)) / len(z1)


def _redundancy(matrix: jax.Array, target: float, off_diagonal: float) -> jax.Array:
    """Returns B(matrix, target) of `decur`."""
    on_diagonal = jnp.eye(len(matrix), dtype=bool)
    return jnp.where(on_diagonal, jnp.square(target - matrix), off_diagonal * jnp.square(matrix)).sum()


def _spread(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns v(z) and c(z) of `vicreg`."""
    centred = z - z.mean(axis=0, keepdims=True)
    covariance = _products(centred, centred) / (len(z) - 1)
    deviation = jnp.sqrt(jnp.diagonal(covariance) + 1e-4)
    off_diagonal = jnp.where(jnp.eye(len(covariance), dtype=bool), 0.0, jnp.square(covariance))
    return jnp.maximum(0.0, 1.0 - deviation).mean(), off_diagonal.sum() / len(covariance)


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a^T b, [d1, d2], of [batch, d1] and [batch, d2], in full float32."""
    return jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST)
