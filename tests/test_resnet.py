"""ResNet against a plain numpy network, against timm's answers, and over a sharded batch."""

import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dual_encoder.errors import UserError
from dual_encoder.models.resnet import ResNet, feature_widths, groups
from dual_encoder.weights.timm_keys import from_timm, to_timm

GOLDEN = pathlib.Path(__file__).parent / "golden"
golden = runpy.run_path(str(GOLDEN / "make_resnet.py"))


def weights(model: ResNet, bands: int) -> tuple[dict, dict]:
    """Made-up values everywhere, BatchNorm statistics included: (timm state dict, the same as our variables)."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, bands)), False))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = {key: golden["weight"](key, value.shape) for key, value in to_timm(zeros).items()}
    return state, from_timm(state, shapes)


_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


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
        if f"{name}.running_mean" in state:
            x = (x - state[f"{name}.running_mean"]) / np.sqrt(state[f"{name}.running_var"] + 1e-5)
        else:
            parts = np.split(x, groups(x.shape[-1]), axis=-1)
            x = np.concatenate([(part - part.mean()) / np.sqrt(part.var() + 1e-5) for part in parts], axis=-1)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = np.maximum(norm(conv(x, state["conv1.weight"], 2), "bn1"), 0)
    maps = [x]
    x = max_pool(x)
    for layer, blocks in enumerate(_BLOCKS[depth], start=1):
        for block in range(blocks):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            strides = (1, stride, 1) if depth >= 50 else (stride, 1)
            y = x
            for i, s in enumerate(strides, start=1):
                y = norm(conv(y, state[f"{name}.conv{i}.weight"], s), f"{name}.bn{i}")
                y = np.maximum(y, 0) if i < len(strides) else y
            if f"{name}.downsample.0.weight" in state:
                x = norm(conv(x, state[f"{name}.downsample.0.weight"], stride), f"{name}.downsample.1")
            x = np.maximum(x + y, 0)
        maps.append(x)
    return maps


@pytest.mark.parametrize(("depth", "width", "norm"), [(18, 3, "batch"), (50, 3, "batch"), (18, 4, "group")])
def test_equals_a_plain_numpy_network_at_odd_sizes(depth, width, norm):
    model = ResNet(depth, width, norm)
    state, variables = weights(model, bands=2)
    x = np.random.default_rng(0).standard_normal((1, 37, 26, 2)).astype(np.float32)
    features = jax.jit(lambda v, x: model.apply(v, x, False))(variables, x)
    assert [m.shape[-1] for m in features.maps] == list(feature_widths(depth, width))
    for ours, slow in zip(features.maps, slow_resnet(x[0], state, depth), strict=True):
        np.testing.assert_allclose(ours[0], slow, rtol=0, atol=2e-6 * np.abs(slow).max())
    np.testing.assert_allclose(features.pooled, np.mean(features.maps[-1], axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize("case", golden["CASES"], ids=lambda case: "{}_{}_{}x{}".format(*case))
def test_equals_the_stored_answers_of_timm(case):
    depth, norm, height, width = case
    model = ResNet(depth, norm=norm)
    _, variables = weights(model, golden["BANDS"])
    features = jax.jit(lambda v, x: model.apply(v, x, False))(variables, golden["image"](height, width))
    ours = golden["summary"]([np.asarray(m) for m in features.maps])
    with np.load(GOLDEN / "resnet.npz") as answers:
        expected = answers["{}_{}_{}x{}".format(*case)]
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
        return features.maps[1], updated["batch_stats"]["layer1_1"]  # deeper layers are the same and compile for long

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
    assert {m.dtype for m in features.maps} == {np.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(updated)} == {np.dtype(np.float32)}
    assert features.pooled.dtype == jnp.float32


def test_groupnorm_has_no_statistics_and_an_image_does_not_know_of_the_others():
    model = ResNet(18, width=8, norm="group")
    state, variables = weights(model, bands=2)
    assert set(variables) == {"params"} and not any("running" in key for key in state)
    batch_norm = jax.eval_shape(lambda: ResNet(18, width=8).init(jax.random.key(0), jnp.zeros((1, 32, 32, 2)), True))
    assert jax.tree.structure(batch_norm["params"]) == jax.tree.structure(variables["params"])
    x = np.random.default_rng(0).standard_normal((8, 33, 33, 2)).astype(np.float32)
    x += np.arange(8, dtype=np.float32)[:, None, None, None]
    function = jax.jit(lambda x: model.apply(variables, x, True, mutable=["batch_stats"]))
    together, updated = function(x)
    assert not updated
    alone = [function(x[row:row + 1])[0].pooled[0] for row in (0, 5)]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharded = function(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))))[0].pooled
    # The same float32 sums; programs for other batch sizes may order them otherwise.
    np.testing.assert_allclose(alone, together.pooled[np.array([0, 5])], rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(sharded, together.pooled, rtol=2e-5, atol=2e-6)


def test_groups_have_at_least_two_channels_and_number_32_in_the_published_networks():
    assert [groups(c) for c in (64, 128, 2048)] == [32, 32, 32]
    assert [groups(c) for c in (3, 4, 8, 16, 32, 96)] == [1, 2, 4, 8, 16, 16]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_remat_changes_neither_values_nor_gradients_nor_statistics(norm):
    _, variables = weights(ResNet(18, 4, norm), bands=2)
    x = np.random.default_rng(0).standard_normal((4, 33, 33, 2)).astype(np.float32)
    results, recomputed = [], []
    for remat in (False, True):
        def loss(params, remat=remat):
            features, updated = ResNet(18, 4, norm, remat).apply(variables | {"params": params}, x, True,
                                                                 mutable=["batch_stats"])
            return features.pooled.sum(), (features.maps, updated)
        function = jax.value_and_grad(loss, has_aux=True)
        recomputed.append("remat" in str(jax.make_jaxpr(function)(variables["params"])))
        results.append(jax.jit(function)(variables["params"]))
    assert recomputed == [False, True]
    # The same products in programs that fuse otherwise; BatchNorm amplifies the rounding some ten times.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max()), *results)


def test_zero_init_makes_every_block_the_identity_at_the_start():
    x = jnp.ones((1, 16, 16, 2))

    def scale(block, norm, zero_init_residual=True):
        model = ResNet(50, 4, zero_init_residual=zero_init_residual)
        return jax.jit(lambda: model.init(jax.random.key(0), x, False)["params"][block][norm]["scale"])()

    assert not scale("layer3_5", "bn3").any() and scale("layer3_5", "bn3", zero_init_residual=False).all()
    assert scale("layer3_5", "bn2").all() and scale("layer3_0", "downsample_bn").all()


def test_unknown_depth_names_the_known_ones():
    with pytest.raises(UserError, match=r"depth 20.*\[18, 34, 50, 101\]"):
        feature_widths(20)
    with pytest.raises(UserError, match="depth 20"):
        ResNet(20).init(jax.random.key(0), jnp.zeros((1, 32, 32, 2)), False)
