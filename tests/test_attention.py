"""Attention against a reference in float64, values and gradients; cuDNN's own numbers: test_accelerator.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.models import attention as module
from dual_encoder.models.attention import _attend_in_pairs, attention


def reference(q, k, v, gradient):
    """One head of one image at a time, and the derivative of each step by hand."""
    out = [np.zeros_like(q) for _ in range(4)]
    for image in range(q.shape[0]):
        for head in range(q.shape[2]):
            qh, kh, vh, gh = (x[image, :, head] for x in (q, k, v, gradient))
            logits = qh @ kh.T / np.sqrt(q.shape[-1])
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            towards = gh @ vh.T
            logits_gradient = weights * (towards - (towards * weights).sum(axis=1, keepdims=True))
            parts = (weights @ vh, logits_gradient @ kh, logits_gradient.T @ qh, weights.T @ gh)
            for whole, part, scale in zip(out, parts, (1, 8, 8, 1), strict=True):
                whole[image, :, head] = part / scale
    return out


@pytest.mark.parametrize("tokens", [1, 8, 17])
@pytest.mark.parametrize("attend", [attention, functools.partial(_attend_in_pairs, implementation="xla")],
                         ids=["plain", "in_pairs"])
def test_values_and_gradients(tokens, attend):
    rng = np.random.default_rng(0)
    q, k, v, gradient = rng.normal(size=(4, 2, tokens, 3, 64))

    @jax.jit
    def values_and_gradients(q, k, v, gradient):
        y, pull = jax.vjp(attend, q, k, v)
        return y, *pull(gradient)

    found = values_and_gradients(*(x.astype(np.float32) for x in (q, k, v, gradient)))
    for ours, expected in zip(found, reference(q, k, v, gradient), strict=True):
        # Sums of 64 products and of 17 tokens, one after the other.
        np.testing.assert_allclose(ours, expected, rtol=0, atol=81 * 2**-24 * 4)


def test_cudnn_is_for_bfloat16_on_its_gpus_alone(monkeypatch):
    """On a machine that has some, a program for a CPU is XLA's all the same."""
    asked = []

    def in_pairs(q, k, v, implementation):
        asked.append(implementation)
        return jnp.sin(q)  # stands out in a program

    monkeypatch.setattr(module, "_attend_in_pairs", in_pairs)
    half = jnp.ones((1, 4, 1, 64), jnp.bfloat16)
    for gpus, x, expected in ((False, half, []), (True, half.astype(jnp.float32), []), (True, half, ["cudnn"])):
        monkeypatch.setattr(module, "_has_cudnn", lambda gpus=gpus: gpus)
        jax.clear_caches()
        assert "sine" not in jax.jit(attention).lower(x, x, x).as_text() and asked == expected
