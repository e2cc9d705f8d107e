"""Attention. XLA computes it; on NVIDIA GPUs cuDNN does, which keeps the weights of a head on the chip.

On an H200 a step of two ViT-B at 224 px takes 155 ms instead of 207, and the values are closer to those of float32
(docs/performance.md).
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

# The version of jaxlib that the choice of cuDNN and the even number of tokens were measured with, on a GPU. With a
# newer one tests/test_workarounds.py fails until both are measured again.
_MEASURED_WITH = "0.10"

Implementation = Literal["xla", "cudnn"]


def attention(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Returns softmax(q k^T / sqrt(channels) + bias) v for each head, softmax in float32.

    Vaswani et al. 2017, equation 1. cuDNN is used for bfloat16 without a bias only.

    Args:
      q, k, v: [batch, tokens, heads, channels], of one dtype.
      bias: [1, heads, tokens, tokens] float32; None: nothing.

    Returns:
      [batch, tokens, heads, channels], of the dtype of q.
    """
    by_xla = functools.partial(_attend, implementation="xla", bias=bias)
    if q.dtype != jnp.bfloat16 or bias is not None or not _has_cudnn():
        return by_xla(q, k, v)
    by_cudnn = functools.partial(_attend_in_pairs, implementation="cudnn")
    return jax.lax.platform_dependent(q, k, v, cuda=by_cudnn, default=by_xla)


@functools.cache  # called once per block of the network
def _has_cudnn() -> bool:
    """Returns whether cuDNN is installed, so that a program for GPUs can be traced, and runs on this process's GPUs."""
    device = jax.local_devices()[0]
    if "cuda" in device.client.platform_version:
        return float(device.compute_capability) >= 8
    x = jax.ShapeDtypeStruct((1, 2, 1, 64), jnp.bfloat16)
    try:
        jax.eval_shape(functools.partial(_attend_in_pairs, implementation="cudnn"), x, x, x)
    except RuntimeError:  # cuDNN is not installed
        return False
    return True


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, implementation: Implementation,
            tokens: jax.Array | None = None, bias: jax.Array | None = None) -> jax.Array:
    """Returns the attention of the first `tokens` [batch] int32 tokens of each image; None: of all."""
    with jax.numpy_dtype_promotion("standard"):  # JAX's function mixes bfloat16 with its float32 softmax
        return jax.nn.dot_product_attention(q, k, v, bias, implementation=implementation, query_seq_lengths=tokens,
                                            key_value_seq_lengths=tokens)


def _attend_in_pairs(q: jax.Array, k: jax.Array, v: jax.Array, implementation: Implementation) -> jax.Array:
    """Returns the attention, after padding to an even number of tokens, which JAX requires of cuDNN in training.

    The extra token is masked.
    """
    tokens = q.shape[1]
    count = jnp.full(len(q), tokens, jnp.int32)
    q, k, v = (jnp.pad(x, ((0, 0), (0, tokens % 2), (0, 0), (0, 0))) for x in (q, k, v))
    y = _attend(q, k, v, implementation, count)
    return y[:, :tokens]
