"""ResNet against a plain numpy network, against timm's answers, and over a sharded batch."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dual_encoder.errors import UserError
from dual_encoder.export.timm_weights import from_timm, to_timm
from dual_encoder.models.resnet import ResNet, feature_widths, pool

GOLDEN = pathlib.Path(__file__).parent / "golden"
golden = runpy.run_path(str(GOLDEN / "make_resnet.py"))


def weights(model: ResNet, bands: int) -> tuple[dict, dict]:
    """Made-up values everywhere, BatchNorm statistics included: (timm state dict, the same as our variables)."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, bands)), False))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = {key: golden["weight"](key, value.shape) for key, value in to_timm(zeros).items()}
    return state, from_timm(state, shapes)


def conv(x, kernel, stride):
    """x [h, w, in], kernel OIHW, torch's padding (k - 1) / 2; one output pixel at a time."""
    size = kernel.shape[-1]
    x = np.pad(x, ((size // 2, size // 2),) * 2 + ((0, 0),))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
    return np.array([[np.einsum("hwi,oihw->o", x[r * stride:r * stride + size, c * stride:c * stride + size], kernel)
                      for c in range(columns)] for r in range(rows)])


def max_pool(x):
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = ((n - 3) // 2 + 1 for n in x.shape[:2])
    return np.array([[x[2 * r:2 * r + 3, 2 * c:2 * c + 3].max(axis=(0, 1)) for c in range(columns)]
                     for r in range(rows)])


def slow_resnet(x, state, depth):
    """Five maps of one image [h, w, bands] in float64, written down from torchvision's definition."""
    state = {k: v.astype(np.float64) for k, v in state.items()}

    def norm(x, name):
        x = (x - state[f"{name}.running_mean"]) / np.sqrt(state[f"{name}.running_var"] + 1e-5)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = np.maximum(norm(conv(x, state["conv1.weight"], 2), "bn1"), 0)
    maps = [x]
    x = max_pool(x)
    for layer, blocks in enumerate({18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth], start=1):
        for block in range(blocks):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            strides = (1, stride, 1) if depth == 50 else (stride, 1)
            y = x
            for i, s in enumerate(strides, start=1):
                y = norm(conv(y, state[f"{name}.conv{i}.weight"], s), f"{name}.bn{i}")
                y = np.maximum(y, 0) if i < len(strides) else y
            if f"{name}.downsample.0.weight" in state:
                x = norm(conv(x, state[f"{name}.downsample.0.weight"], stride), f"{name}.downsample.1")
            x = np.maximum(x + y, 0)
        maps.append(x)
    return maps


@pytest.mark.parametrize("depth", [18, 50])
def test_equals_a_plain_numpy_network_at_odd_sizes(depth):
    model = ResNet(depth, width=3)
    state, variables = weights(model, bands=2)
    x = np.random.default_rng(0).standard_normal((1, 37, 26, 2)).astype(np.float32)
    features = jax.jit(lambda x: model.apply(variables, x, False))(x)
    assert [f.shape[-1] for f in features] == list(feature_widths(depth, 3))
    for ours, slow in zip(features, slow_resnet(x[0], state, depth), strict=True):
        np.testing.assert_allclose(ours[0], slow, rtol=0, atol=2e-6 * np.abs(slow).max())
    np.testing.assert_allclose(pool(features), np.mean(features[-1], axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize("case", golden["CASES"], ids=lambda case: f"{case[0]}_{case[1]}x{case[2]}")
def test_equals_the_stored_answers_of_timm(case):
    depth, height, width = case
    model = ResNet(depth)
    _, variables = weights(model, golden["BANDS"])
    features = jax.jit(lambda x: model.apply(variables, x, False))(golden["image"](height, width))
    ours = golden["summary"]([np.asarray(f) for f in features])
    with np.load(GOLDEN / "resnet.npz") as answers:
        expected = answers[f"{depth}_{height}x{width}"]
    error = np.abs(ours - expected).max(axis=2) / np.abs(expected).max(axis=2)
    assert error.max() <= 2e-6, error


def test_statistics_are_those_of_the_whole_sharded_batch():
    model = ResNet(18, width=4)
    # Every device's part of the batch has its own level: statistics per device would differ a lot.
    x = np.random.default_rng(0).standard_normal((16, 33, 33, 2)).astype(np.float32)
    x += np.arange(16, dtype=np.float32)[:, None, None, None]
    _, variables = weights(model, bands=2)

    @jax.jit
    def step(x):
        features, updated = model.apply(variables, x, True, mutable=["batch_stats"])
        return features[1], updated["batch_stats"]["layer1_1"]  # the deeper layers compile for long and are the same

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    assert len(sharded.sharding.device_set) == 8
    for ours, expected in zip(jax.tree.leaves(step(sharded)), jax.tree.leaves(step(x)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-5)


def test_running_statistics_move_by_a_tenth_of_the_batch_statistics():
    model = ResNet(18, width=4)
    x = np.random.default_rng(0).standard_normal((2, 17, 17, 2)).astype(np.float32)
    _, variables = weights(model, bands=2)
    updated = jax.jit(lambda x: model.apply(variables, x, True, mutable=["batch_stats"])[1]["batch_stats"]["bn1"])(x)
    kernel = to_timm(variables)["conv1.weight"]
    stem = np.concatenate([conv(image, kernel, 2).reshape(-1, 4) for image in x])
    old = variables["batch_stats"]["bn1"]
    np.testing.assert_allclose(updated["mean"], 0.9 * old["mean"] + 0.1 * stem.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(updated["var"], 0.9 * old["var"] + 0.1 * stem.var(axis=0), rtol=1e-5)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters_and_statistics():
    x = jnp.ones((2, 32, 32, 2))
    model = ResNet(50, width=4, dtype=jnp.bfloat16)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, False))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    features, updated = jax.eval_shape(lambda v: model.apply(v, x, True, mutable=["batch_stats"]), variables)
    assert {f.dtype for f in features} == {np.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {np.dtype(np.float32)}
    assert jax.eval_shape(pool, features).dtype == jnp.float32


def test_zero_init_makes_every_block_the_identity_at_the_start():
    x = jnp.ones((1, 16, 16, 2))

    def scale(block, norm, zero_init_residual=True):
        model = ResNet(50, 4, zero_init_residual=zero_init_residual)
        return jax.jit(lambda: model.init(jax.random.key(0), x, False)["params"][block][norm]["scale"])()

    assert not scale("layer3_5", "bn3").any() and scale("layer3_5", "bn3", zero_init_residual=False).all()
    assert scale("layer3_5", "bn2").all() and scale("layer3_0", "downsample_bn").all()


def test_unknown_depth_names_the_known_ones():
    with pytest.raises(UserError, match=r"depth 20.*\[18, 34, 50\]"):
        feature_widths(20)
    with pytest.raises(UserError, match="depth 20"):
        ResNet(20).init(jax.random.key(0), jnp.zeros((1, 32, 32, 2)), False)
