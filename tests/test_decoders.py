"""Decoders against slow ones: sums of maps that are enlarged pixel by pixel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.models.decoders import decode

pytestmark = pytest.mark.quick

SIZE, CLASSES, WIDTH = (22, 19), 3, 4  # odd sizes: maps are rounded up
STRIDES = (2, 4, 8)


class Model(nn.Module):
    """A decoder alone."""

    decoder: str
    strides: tuple[int, ...] = STRIDES

    @nn.compact
    def __call__(self, maps, train=False):
        return decode(self.decoder, maps, self.strides, SIZE, WIDTH, CLASSES, jnp.float32, train)


def draw(strides):
    random = np.random.default_rng(0)
    return [random.normal(size=(2, -(-SIZE[0] // s), -(-SIZE[1] // s), 5 + n)).astype(np.float32)
            for n, s in enumerate(strides)]


def initialised(model, maps):
    """Variables with statistics and biases that are not 0."""
    variables = jax.jit(model.init)(jax.random.key(0), maps)
    leaves, tree = jax.tree.flatten(variables)
    random = np.random.default_rng(1)
    return jax.tree.unflatten(tree, [np.abs(leaf + random.normal(0, 0.2, leaf.shape)).astype(np.float32)
                                     if leaf.ndim == 1 else np.asarray(leaf) for leaf in leaves])


def bilinear(x, factor, size):
    """Enlarges one pixel at a time; a pixel's value stands in its middle, and borders are repeated."""
    rows, columns = x.shape[1:3]
    out = np.zeros((len(x), *size, x.shape[-1]))
    for row in range(size[0]):
        for column in range(size[1]):
            for i in range(rows):
                for j in range(columns):
                    at = [np.clip((p + 0.5) / factor - 0.5, 0, n - 1) for p, n in ((row, rows), (column, columns))]
                    weight = max(0, 1 - abs(at[0] - i)) * max(0, 1 - abs(at[1] - j))
                    out[:, row, column] += weight * x[:, i, j]
    return out


def nearest(x, size):
    return np.stack([np.stack([x[:, r // 2, c // 2] for c in range(size[1])], 1) for r in range(size[0])], 1)


def by_pixel(x, layer):
    return x.astype(np.float64) @ np.asarray(layer["kernel"], np.float64)[0, 0] + layer["bias"]


def block(x, params, stats):
    """3x3 convolution with zeros around the image, BatchNorm with running statistics, ReLU."""
    kernel = np.asarray(params["conv1"]["kernel"], np.float64)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    x = sum(padded[:, i:i + height, j:j + width] @ kernel[i, j] for i in range(3) for j in range(3))
    x = (x - stats["bn1"]["mean"]) / np.sqrt(stats["bn1"]["var"] + 1e-5)
    return np.maximum(x * params["bn1"]["scale"] + params["bn1"]["bias"], 0)


@pytest.mark.parametrize("strides", [STRIDES, (8, 8)])  # of a ResNet, of a transformer
def test_linear_is_a_sum_of_enlarged_classifications(strides):
    maps, model = draw(strides), Model("linear", strides)
    variables = initialised(model, maps)
    expected = sum(bilinear(by_pixel(x, variables["params"][f"classifier{n}"]), stride, SIZE)
                   for n, (x, stride) in enumerate(zip(maps, strides, strict=True), start=1))
    np.testing.assert_allclose(jax.jit(model.apply)(variables, maps), expected, atol=1e-5)


def test_fpn_is_that_of_the_papers():
    maps, model = draw(STRIDES), Model("fpn")
    variables = initialised(model, maps)
    params, stats = variables["params"], variables["batch_stats"]
    assert all(layer["kernel"].shape[-1] == 4 * WIDTH for name, layer in params.items() if "lateral" in name)
    pyramid = by_pixel(maps[2], params["lateral3"])
    levels = {3: pyramid}
    for level in (2, 1):
        pyramid = by_pixel(maps[level - 1], params[f"lateral{level}"]) + nearest(pyramid, maps[level - 1].shape[1:3])
        levels[level] = pyramid
    total = 0.0
    for level, x in levels.items():
        x = block(x, params[f"level{level}_{level}"], stats[f"level{level}_{level}"])
        for target in range(level - 1, 0, -1):
            x = bilinear(x, 2, maps[target - 1].shape[1:3])
            if target > 1:
                x = block(x, params[f"level{level}_{target}"], stats[f"level{level}_{target}"])
        total = total + x
    expected = bilinear(by_pixel(total, params["classifier"]), 2, SIZE)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, maps), expected, atol=2e-4)
