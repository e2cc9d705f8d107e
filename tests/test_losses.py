"""Losses against slow references in float64, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder import losses, mesh

# float32 has 2^-24 relative rounding; a batch-64 log-sum-exp and its gradient add up some 100 such errors.
RTOL = 1e-5


def unit_vectors(seed, batch=64, dim=32):
    z = np.random.default_rng(seed).normal(size=(batch, dim))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def info_nce_reference(z1, z2, scale, location=None):
    """The formula of the docstring, one pair at a time, float64."""
    total = 0.0
    for queries, keys in ((z1, z2), (z2, z1)):
        for i in range(len(queries)):
            kept = [j for j in range(len(keys)) if j == i or location is None or location[i] != location[j]]
            logits = np.array([scale * queries[i] @ keys[j] for j in kept])
            top = logits.max()
            total += np.log(np.exp(logits - top).sum()) + top - scale * queries[i] @ keys[i]
    return 0.5 * total / len(z1)


def numerical_gradient(function, x, at, eps=1e-6):
    gradient = []
    for index in at:
        up, down = x.copy(), x.copy()
        up[index] += eps
        down[index] -= eps
        gradient.append((function(up) - function(down)) / (2 * eps))
    return np.array(gradient)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("masked", [False, True])
def test_info_nce_equals_the_slow_reference(scale, masked):
    z1, z2 = unit_vectors(0), unit_vectors(1)
    location = np.arange(64, dtype=np.int32) // 2 if masked else None
    expected = info_nce_reference(z1, z2, scale, location)
    args = [jnp.asarray(z, jnp.float32) for z in (z1, z2)]
    loss, metrics = losses.info_nce(*args, jnp.float32(scale), None if location is None else jnp.asarray(location))
    np.testing.assert_allclose(loss, expected, rtol=RTOL)
    np.testing.assert_allclose(metrics["masked"], 64 / 64**2 if masked else 0.0, rtol=RTOL)
    at = [(0, 0), (13, 5), (63, 31)]
    slow = numerical_gradient(lambda z: info_nce_reference(z, z2, scale, location), z1, at)
    fast = jax.grad(lambda z: losses.info_nce(z, args[1], jnp.float32(scale),
                                              None if location is None else jnp.asarray(location))[0])(args[0])
    np.testing.assert_allclose([fast[i] for i in at], slow, rtol=1e-4, atol=1e-7)  # 1e-4: of the central difference


def test_info_nce_accuracy_counts_nearest_partners():
    z = jnp.asarray(unit_vectors(0), jnp.float32)
    assert losses.info_nce(z, z, jnp.float32(10.0))[1]["accuracy_s1_to_s2"] == 1.0
    assert losses.info_nce(z, jnp.roll(z, 1, axis=0), jnp.float32(10.0))[1]["accuracy_s1_to_s2"] == 0.0


def test_info_nce_on_eight_devices_equals_one():
    z1, z2 = (jnp.asarray(unit_vectors(seed), jnp.float32) for seed in (0, 1))
    value_and_grad = jax.value_and_grad(lambda a, b: losses.info_nce(a, b, jnp.float32(14.3))[0], argnums=(0, 1))
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        rows = mesh.by_row(mesh.make(devices))
        results.append(jax.jit(value_and_grad)(jax.device_put(z1, rows), jax.device_put(z2, rows)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=RTOL, atol=1e-8), *results)


def test_cross_entropy_equals_the_slow_reference():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(2, 5, 7, 3)), rng.integers(0, 3, size=(2, 5, 7)).astype(np.uint8)
    label[0, :2] = 255
    weights = np.array([0.5, 1.0, 3.0])
    total, weight = 0.0, 0.0
    for index in np.ndindex(label.shape):
        if label[index] != 255:
            probability = np.exp(logits[index]) / np.exp(logits[index]).sum()
            total -= weights[label[index]] * np.log(probability[label[index]])
            weight += weights[label[index]]
    args = jnp.asarray(logits, jnp.float32), jnp.asarray(label), jnp.asarray(weights, jnp.float32), 255
    np.testing.assert_allclose(losses.cross_entropy(*args), total / weight, rtol=RTOL)


def test_cross_entropy_without_labelled_pixels_is_zero_with_zero_gradient():
    label = jnp.full((1, 4, 4), 255, jnp.uint8)
    loss, gradient = jax.value_and_grad(losses.cross_entropy)(jnp.ones((1, 4, 4, 2)), label, jnp.ones(2), 255)
    assert loss == 0.0 and not gradient.any()
