"""The terms of the segmentation loss against loops over pixels in float64, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.losses.segmentation import cross_entropy, soft_dice

pytestmark = pytest.mark.quick

SHAPE, CLASSES = (2, 3, 4), 3


@pytest.fixture
def drawn():
    """Logits, labels with ignored pixels and a class that does not occur, class weights."""
    random = np.random.default_rng(0)
    label = random.integers(0, 2, SHAPE).astype(np.uint8)
    label[0, 1, :3] = 255
    return random.normal(0, 2, (*SHAPE, CLASSES)), label, np.array([0.5, 2.0, 1.0])


def labelled(logits, label):
    """(logits, class) of each pixel that counts."""
    return [(logits[at], int(label[at])) for at in np.ndindex(*SHAPE) if label[at] != 255]


def slow_focal(logits, label, weights, gamma):
    total, norm = 0.0, 0.0
    for z, c in labelled(logits, label):
        p = np.exp(z[c]) / np.exp(z).sum()
        total += weights[c] * (1 - p) ** gamma * -np.log(p)
        norm += weights[c]
    return total / norm


def slow_dice(logits, label):
    pixels, lost = labelled(logits, label), []
    for c in sorted({c for _, c in pixels}):
        p = np.array([np.exp(z[c]) / np.exp(z).sum() for z, _ in pixels])
        g = np.array([float(of == c) for _, of in pixels])
        lost.append(1 - 2 * (p * g).sum() / ((p**2).sum() + (g**2).sum()))
    return np.mean(lost)


def slow_gradient(loss, logits, step=1e-5):
    """By central differences in float64: an error of step^2."""
    gradient = np.zeros_like(logits)
    for at in np.ndindex(*logits.shape):
        change = np.zeros_like(logits)
        change[at] = step
        gradient[at] = (loss(logits + change) - loss(logits - change)) / (2 * step)
    return gradient


def compare(fast, slow, logits):
    value, gradient = jax.jit(jax.value_and_grad(fast))(jnp.asarray(logits, jnp.float32))
    assert value == pytest.approx(slow(logits), rel=1e-5)
    np.testing.assert_allclose(gradient, slow_gradient(slow, logits), atol=1e-6)  # float32 sums of 21 pixels


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_and_its_gradient(drawn, gamma):
    logits, label, weights = drawn
    compare(lambda z: cross_entropy(z, jnp.asarray(label), jnp.asarray(weights, jnp.float32), 255, gamma),
            lambda z: slow_focal(z, label, weights, gamma), logits)


def test_dice_and_its_gradient(drawn):
    logits, label, _ = drawn
    compare(lambda z: soft_dice(z, jnp.asarray(label), 255), lambda z: slow_dice(z, label), logits)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_certain_pixel_has_a_finite_gradient(gamma):
    """1 - p is 0 in float32, and the power 0.5 of 0 has no gradient."""
    logits = jnp.array([200.0, -200.0, 0.0, 0.0]).reshape(1, 1, 2, 2)
    for label in (0, 1):
        loss = jax.jit(jax.value_and_grad(lambda z, label: cross_entropy(z, label, jnp.ones(2), 255, gamma)))
        value, gradient = loss(logits, np.full((1, 1, 2), label, np.uint8))
        assert np.isfinite(value) and np.isfinite(gradient).all()
    assert value == pytest.approx((400 + 0.5**gamma * np.log(2)) / 2)


def test_without_a_labelled_pixel_the_terms_are_zero():
    logits, label = jnp.ones((1, 2, 2, 3)), jnp.full((1, 2, 2), 255, jnp.uint8)
    for loss in (lambda z: cross_entropy(z, label, jnp.ones(3), 255, 2.0), lambda z: soft_dice(z, label, 255)):
        value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
        assert value == 0 and not gradient.any()
