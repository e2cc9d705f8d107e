"""Convolution and pooling as they run on a CPU against jax.lax: values and gradients; TPUs get jax.lax itself."""

import os
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.models.convolution import _part_size, convolution, max_pool


def normal(*shapes):
    """Returns float32 arrays of normally distributed values; NumPy draws them without compiling anything."""
    random = np.random.default_rng(0)
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def by_lax(x, kernel, stride):
    pad = (len(kernel) - 1) // 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2,
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))


def with_gradients(function):
    """Returns the compiled function (gradient, *arguments) -> (value, *gradients of the arguments)."""
    def both(gradient, *arguments):
        value, pull = jax.vjp(function, *arguments)
        return value, *pull(gradient)
    return jax.jit(both)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 9), (3, 4), (5, 5), (12, 8)])
def test_values_and_gradients_are_those_of_lax(size, kernel, stride):
    x, w, gradient = normal((3, *size, 4), (kernel, kernel, 4, 5), (3, *(-(-side // stride) for side in size), 5))
    seen = with_gradients(lambda x, w: convolution(x, w, stride))(gradient, x, w)
    expected = with_gradients(lambda x, w: by_lax(x, w, stride))(gradient, x, w)
    for ours, theirs in zip(seen, expected, strict=True):
        assert ours.shape == theirs.shape
        # Sums of at most 3 x 12 x 8 or 7 x 7 x 4 products of values of size 1, in another order.
        np.testing.assert_allclose(ours, theirs, atol=300 * 2**-24 * 4, rtol=1e-5)


@pytest.mark.parametrize("stride, kernel", [(1, 3), (2, 3), (2, 7)])
@pytest.mark.parametrize("features, pixels", [(8, 4), (12, 2), (16, 2), (20, 1)])
def test_few_features_are_computed_for_neighbours_at_once(features, pixels, stride, kernel, monkeypatch):
    """With one or two threads; with more, with rows that do not divide or an odd number of bands, it is left to XLA."""
    x, w, gradient = normal((3, 10, 16, 8), (kernel, kernel, 8, features), (3, 10 // stride, 16 // stride, features))

    def seen(x, threads):
        monkeypatch.setattr(os, "cpu_count", lambda: threads)
        of_bands = w[:, :, :x.shape[-1]]
        program = jax.jit(lambda x, w: convolution(x, w, stride)).lower(x, of_bands).as_text()
        return int(re.search(rf"stablehlo.convolution.* -> tensor<[0-9x]+x({features}|{pixels * features})xf32>",
                             program)[1]) // features

    assert seen(x, 2) == pixels and seen(x, 3) == seen(x[:, :, :-3], 2) == seen(x[..., :-1], 2) == 1
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    ours = with_gradients(lambda x, w: convolution(x, w, stride))(gradient, x, w)
    expected = with_gradients(lambda x, w: by_lax(x, w, stride))(gradient, x, w)
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=7 * 7 * 16 * 2**-24 * 4, rtol=1e-5)  # sums in another order


@pytest.mark.parametrize("images, size, channels, features, kernel, stride, part", [
    (20, 64, 16, 32, 3, 1, (4, 21)), (72, 64, 8, 32, 3, 1, (4, 25)), (64, 64, 8, 32, 7, 2, (4, 32)),
    (64, 48, 12, 16, 7, 2, (32, 5)), (16, 96, 12, 64, 7, 2, (4, 12)), (64, 32, 32, 64, 3, 1, (4, 21)),
    (64, 16, 64, 64, 3, 1, (8, 16)), (64, 32, 32, 64, 3, 2, (4, 16)), (64, 8, 64, 64, 3, 1, (32, 8)),
    (21, 64, 16, 32, 3, 1, (21, 64)), (64, 4, 64, 64, 3, 1, (64, 4))])
def test_a_large_kernel_gradient_is_summed_in_parts(images, size, channels, features, kernel, stride, part,
                                                    monkeypatch):
    """On one device; images that no part of at least 4 (32 of few features) divides, and small sums, are left whole.

    In parts, 16 channels and more lie beside each other in the rows of the result.
    """
    x, w, gradient = normal((images, size, size, channels), (kernel, kernel, channels, features),
                            (images, size // stride, size // stride, features))
    assert _part_size(x, gradient) == part
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    program = jax.jit(lambda x, w, gradient: jax.vjp(lambda w: convolution(x, w, stride), w)[1](gradient)[0])
    whole = jax.jit(lambda x, w, gradient: jax.vjp(lambda w: by_lax(x, w, stride), w)[1](gradient)[0])
    text = program.lower(x, w, gradient).as_text()
    assert f"tensor<{part[1]}x{size // stride}x{part[0]}x{features}xf32>" in text
    beside = channels if channels >= 16 and part[0] < images else 1
    result = f"tensor<{channels // beside}x{kernel}x{kernel * beside}x{features}xf32>"
    assert re.search(rf"stablehlo.convolution.* -> {result}", text)
    # A sum of n products of values of size 1 is of size sqrt(n), and off by that many roundings of that size.
    n = images * (size // stride) ** 2
    np.testing.assert_allclose(program(x, w, gradient), whole(x, w, gradient), atol=4 * n * 2**-24)


def test_bfloat16_stays_bfloat16():
    x, w = jnp.ones((2, 2, 2, 3), jnp.bfloat16), jnp.ones((3, 3, 3, 4), jnp.bfloat16)
    y, pull = jax.vjp(lambda x, w: convolution(x, w, 1), x, w)
    assert {a.dtype for a in (y, *pull(y))} == {jnp.dtype("bfloat16")}
    assert (y == 12).all()


def test_nan_goes_through_the_gradients():
    x, w = jnp.ones((2, 6, 6, 3)).at[0, 0, 0, 0].set(jnp.nan), jnp.ones((3, 3, 3, 4))
    y, pull = jax.vjp(lambda w: convolution(x, w, 1), w)
    assert jnp.isnan(pull(jnp.ones_like(y))[0]).any()
    x, w = jnp.ones((2, 6, 6, 3)), w.at[0, 0, 0, 0].set(jnp.nan)
    y, pull = jax.vjp(lambda x: convolution(x, w, 1), x)
    assert jnp.isnan(y).any() and jnp.isnan(pull(jnp.ones_like(y))[0]).any()


def by_window(x):
    return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (8, 8), (9, 12)])
def test_max_pooling_and_its_gradient_are_those_of_lax(size):
    """Small whole numbers, so that many are equal: the gradient goes to one of them, the same one."""
    x = jax.random.randint(jax.random.key(0), (3, *size, 4), -2, 3).astype(jnp.float32)
    gradient, = normal((3, *(-(-side // 2) for side in size), 4))
    seen, seen_gradient = with_gradients(max_pool)(gradient, x)
    expected, expected_gradient = with_gradients(by_window)(gradient, x)
    np.testing.assert_array_equal(seen, expected)
    # Up to four windows add up in one pixel.
    np.testing.assert_allclose(seen_gradient, expected_gradient, atol=1e-6)


@pytest.mark.parametrize("platform, scatters", [("tpu", 1), ("cuda", 0)])
def test_programs_for_accelerators_are_those_of_lax_but_pooling_on_gpus(platform, scatters):
    def program(convolve, pool):
        def loss(x, w):
            return pool(convolve(x, w, 2)).sum()
        x, w = jnp.ones((2, 2, 2, 3)), jnp.ones((3, 3, 3, 4))
        text = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
        return sorted(line.split(" = ")[1].split("(")[0].split(" ")[0] for line in text.splitlines() if " = " in line)

    ours = program(convolution, max_pool)
    assert "stablehlo.dot_general" not in ours, "the patches of a CPU"
    assert ours.count("stablehlo.convolution") == program(by_lax, by_window).count("stablehlo.convolution") > 0
    assert ours.count('"stablehlo.select_and_scatter"') == scatters
