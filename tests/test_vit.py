"""ViT against a plain numpy transformer, against timm's answers, over devices, rematerialised, in bfloat16."""

import math
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dual_encoder.errors import UserError
from dual_encoder.models.croma import Croma, distance_bias
from dual_encoder.models.vit import ViT, resample, sincos
from dual_encoder.weights.timm_keys import from_timm, to_timm

GOLDEN = pathlib.Path(__file__).parent / "golden"
golden = runpy.run_path(str(GOLDEN / "make_vit.py"))
SMALL = dict(depth=2, width=128, patch=8, image_size=32)
# float32 has a precision of 6e-8; through the sums of a few blocks some 10 of it are seen, of the largest value.
TOLERANCE = 2e-6


def weights(model: ViT | Croma, bands: int) -> tuple[dict, dict]:
    """Made-up values everywhere: (timm state dict, the same as our variables)."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, bands)), False))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = {key: golden["weight"](key, value.shape) for key, value in to_timm(zeros).items()}
    return state, from_timm(state, shapes)


def image(height: int, width: int, bands: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(height * width).standard_normal((batch, height, width, bands)).astype(np.float32)


def keys_cubic(x):
    """Keys 1981, equation 15 (a = -1/2)."""
    x = abs(x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def slow_resample(grid, rows, columns):
    """[side, side, channels] float64; pixel centres at halves, weights of pixels outside are left out."""
    def matrix(new, old):
        stretch = max(1.0, old / new)
        table = np.array([[keys_cubic(((i + 0.5) * old / new - 0.5 - j) / stretch) for j in range(old)]
                          for i in range(new)])
        return table / table.sum(axis=1, keepdims=True)
    return np.einsum("ri,cj,ijd->rcd", matrix(rows, grid.shape[0]), matrix(columns, grid.shape[1]), grid)


def slow_bias(rows, columns):
    """-distance / 2^(h / 2) of two patches for heads h = 1 .. 16, one pair at a time."""
    places = [(row, column) for row in range(rows) for column in range(columns)]
    return [[[-math.dist(one, other) / math.sqrt(2) ** head for other in places] for one in places]
            for head in range(1, 17)]


def slow_vit(x, state, patch, pool, shift=0):
    """(vector, maps) of one image [h, w, bands] in float64, one head and one token at a time, from the papers.

    pool: of a ViT; 'croma' is another network.
    """
    state = {k: v.astype(np.float64) for k, v in state.items()}
    epsilon = 1e-5 if pool == "croma" else 1e-6

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    def norm(x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attention(x, name):
        q, k, v = np.split(linear(x, f"{name}.qkv"), 3, axis=-1)
        heads, channels = [], x.shape[-1] // 16 if pool == "croma" else 64
        for head in range(x.shape[-1] // channels):
            part = slice(channels * head, channels * head + channels)
            similarity = np.exp(q[:, part] @ k[:, part].T / math.sqrt(channels) + bias[head])
            heads.append(similarity / similarity.sum(axis=1, keepdims=True) @ v[:, part])
        return linear(np.concatenate(heads, axis=-1), f"{name}.proj")

    def mlp(x, name):
        x = linear(x, f"{name}fc1")
        return linear(x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))), f"{name}fc2")

    rows, columns = (-(-side // patch) for side in x.shape[:2])
    bias = np.array(slow_bias(rows, columns)) if pool == "croma" else np.zeros(x.size)
    padded = np.zeros((rows * patch, columns * patch, x.shape[2]))
    seen = x[:rows * patch - shift, :columns * patch - shift]
    padded[shift:shift + len(seen), shift:shift + seen.shape[1]] = seen
    kernel = state["patch_embed.proj.weight"]
    tokens = np.array([np.einsum("hwi,oihw->o", padded[r * patch:(r + 1) * patch, c * patch:(c + 1) * patch], kernel)
                       for r in range(rows) for c in range(columns)]) + state["patch_embed.proj.bias"]
    prefix = int(pool in ("token", "patches"))
    if pool != "croma":
        positions = state["pos_embed"][0]
        side = math.isqrt(len(positions) - prefix)
        grid = slow_resample(positions[prefix:].reshape(side, side, -1), rows, columns)
        tokens = tokens + grid.reshape(rows * columns, -1)
    if prefix:
        tokens = np.concatenate([state["cls_token"][0] + positions[:1], tokens])
    maps = []
    for block in range(sum(key.endswith("norm1.weight") for key in state)):
        name = f"blocks.{block}"
        tokens = tokens + attention(norm(tokens, f"{name}.norm1"), f"{name}.attn")
        tokens = tokens + mlp(norm(tokens, f"{name}.norm2"), f"{name}.mlp.")
        maps.append(tokens[prefix:].reshape(rows, columns, -1))
    if pool == "patches":
        return norm(tokens[1:].mean(axis=0), "fc_norm"), maps
    if pool == "croma":
        return mlp(norm(norm(tokens, "norm").mean(axis=0), "gap_norm"), "gap_"), maps
    tokens = norm(tokens, "norm")
    return tokens[0] if prefix else tokens.mean(axis=0), maps


def assert_close(ours, expected, tolerance=TOLERANCE):
    assert np.shape(ours) == np.shape(expected)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(("pool", "shift"), [("token", 0), ("mean", 0), ("patches", 3), ("croma", 0)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (21, 50)], ids=["as_kept", "resampled_and_padded"])
def test_equals_a_plain_numpy_transformer(pool, shift, height, width):
    model = Croma(depth=2, width=128) if pool == "croma" else ViT(**SMALL, pool=pool, shift=shift)
    state, variables = weights(model, bands=3)
    x = image(height, width, 3)
    features = jax.jit(lambda v, x: model.apply(v, x, False))(variables, x)
    pooled, maps = slow_vit(x[0], state, 8, pool, shift)
    assert_close(features.pooled[0], pooled)
    for ours, slow in zip(features.maps, maps, strict=True):
        assert_close(ours[0], slow)


def test_the_bias_of_croma_falls_with_the_distance():
    bias = distance_bias(3, 4)
    assert bias.shape == (1, 16, 12, 12) and bias.dtype == jnp.float32
    np.testing.assert_allclose(bias[0], slow_bias(3, 4), rtol=1e-6)


def test_gradients_are_the_slopes_of_the_plain_numpy_transformer():
    """Along one random direction per parameter; float64 differences over 2e-4 are good to 1e-7 or so."""
    model = ViT(depth=1, width=128, patch=8, image_size=24)
    state, variables = weights(model, bands=2)
    x = image(16, 24, 2)
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(128)
    grads = to_timm(jax.jit(jax.grad(lambda v: model.apply(v, x, True).pooled[0] @ direction.astype(np.float32)))(
        variables))
    for key, value in state.items():
        step = 1e-4 * rng.standard_normal(value.shape) * np.abs(value).mean()
        up, down = (slow_vit(x[0], state | {key: value.astype(np.float64) + sign * step}, 8, "token")[0] @ direction
                    for sign in (1, -1))
        # The sum of products may cancel; float32 errors are relative to its largest possible value.
        scale = np.linalg.norm(grads[key]) * np.linalg.norm(step)
        assert abs((up - down) / 2 - np.sum(grads[key] * step)) <= 1e-5 * scale, key


@pytest.mark.parametrize("name", golden["CASES"])
def test_equals_the_stored_answers_of_timm(name):
    geometry, height, width = golden["CASES"][name]
    model = ViT(*geometry)
    _, variables = weights(model, golden["BANDS"])
    features = jax.jit(lambda v, x: model.apply(v, x, False))(variables, golden["image"](height, width))
    with np.load(GOLDEN / "vit.npz") as answers:
        assert_close(features.pooled[0], answers[f"{name}/pooled"])
        expected = answers[f"{name}/maps"]
    error = np.abs(golden["summary"]([np.asarray(m) for m in features.maps]) - expected)
    assert (error.max(axis=2) / np.abs(expected).max(axis=2)).max() <= TOLERANCE


@pytest.mark.parametrize(("rows", "columns"), [(14, 9), (3, 5), (7, 7), (6, 20)])
def test_positions_are_resampled_by_antialiased_cubic_convolution(rows, columns):
    grid = np.random.default_rng(0).standard_normal((7, 7, 4)).astype(np.float32)
    assert_close(resample(jnp.asarray(grid), rows, columns), slow_resample(grid.astype(np.float64), rows, columns))


def test_fixed_positions_follow_the_formula_and_never_move():
    ours = sincos(3, 16)
    for row in range(3):
        for column in range(3):
            angles = [[position / 10000 ** (k / 4) for k in range(4)] for position in (row, column)]
            expected = [wave(a) for wave in (math.sin, math.cos) for axis in angles for a in axis]
            np.testing.assert_allclose(ours[3 * row + column], expected, rtol=0, atol=1e-6)
    for pool in ("token", "mean"):
        model = ViT(**SMALL, positions="sincos", pool=pool)
        variables = jax.jit(lambda m=model: m.init(jax.random.key(0), jnp.zeros((1, 32, 32, 2)), True))()
        positions = variables["params"]["pos_embed"]
        np.testing.assert_array_equal(positions[0, -16:], sincos(4, 128))
        assert not positions[0, :-16].any()
        # One channel, because the sum of all normalised values is zero for any tokens.
        grads = jax.jit(jax.grad(lambda v, m=model: m.apply(v, image(24, 32, 2), True).pooled[0, 0]))(variables)
        assert not grads["params"]["pos_embed"].any()
        if pool == "token":
            assert grads["params"]["cls_token"].any()


@pytest.mark.parametrize("model", [ViT(**SMALL), Croma(depth=1, width=32)], ids=["vit", "croma"])
def test_remat_changes_neither_values_nor_gradients(model):
    _, variables = weights(model, bands=2)
    x = image(24, 32, 2, batch=2)
    results, recomputed = [], []
    for remat in (False, True):
        function = jax.value_and_grad(lambda v, r=remat: model.clone(remat=r).apply(v, x, True).pooled[0, 0])
        recomputed.append("remat" in str(jax.make_jaxpr(function)(variables)))
        results.append(jax.jit(function)(variables))
    assert recomputed == [False, True]
    jax.tree.map(assert_close, results[1], results[0])


def test_an_image_does_not_know_of_the_others_nor_of_devices():
    model = ViT(**SMALL)
    _, variables = weights(model, bands=2)
    x = image(32, 32, 2, batch=8)
    function = jax.jit(lambda x: model.apply(variables, x, True).pooled)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    together = function(x)
    assert_close(function(x[3:4])[0], together[3])
    assert_close(function(jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))), together)


def dtypes_of(jaxpr, names):
    """(primitive, dtype of an operand) of the primitives called `names`, anywhere in a jaxpr."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in names:
            found |= {(equation.primitive.name, str(v.aval.dtype)) for v in equation.invars}
        for inner in jaxprs_in_params(equation.params):
            found |= dtypes_of(inner, names)
    return found


@pytest.mark.parametrize("kept", [ViT(**SMALL), Croma(depth=2, width=128)], ids=["vit", "croma"])
def test_bfloat16_keeps_parameters_norms_and_softmax_in_float32(kept):
    model = kept.clone(dtype=jnp.bfloat16)
    _, variables = weights(model, bands=2)
    x = image(32, 32, 2, batch=2)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    jaxpr = jax.make_jaxpr(lambda v: model.apply(v, x, True))(variables).jaxpr
    assert dtypes_of(jaxpr, {"exp", "rsqrt"}) == {("exp", "float32"), ("rsqrt", "float32")}
    assert dtypes_of(jaxpr, {"dot_general"}) == {("dot_general", "bfloat16")}
    features, exact = (jax.jit(lambda v, m=m: m.apply(v, x, True))(variables) for m in (model, kept))
    assert features.pooled.dtype == jnp.float32 and {m.dtype for m in features.maps} == {jnp.dtype(jnp.bfloat16)}
    # bfloat16 keeps 8 bits; 2 blocks of 4 products each lose some 8 x 2^-9 = 1.6 %.
    error = np.linalg.norm(features.pooled - exact.pooled) / np.linalg.norm(exact.pooled)
    assert 1e-4 < error < 0.016
    grads = jax.eval_shape(jax.grad(lambda v: model.apply(v, x, True).pooled.sum()), variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {np.dtype(np.float32)}


def test_the_start_is_that_of_the_papers():
    """Tokens of unit size in, variances of Xavier, positions small, nothing at zero that must move."""
    model = ViT(depth=1, width=384, patch=16, image_size=64)
    params = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 12)), True))()["params"]
    assert set(params) == {"patch_embed", "cls_token", "pos_embed", "blocks_0", "norm"}
    block = params["blocks_0"]
    for values, variance in ((params["patch_embed"]["kernel"], 1 / (16 * 16 * 12)), (params["pos_embed"], 0.02**2),
                             *((block[name]["kernel"], 1 / 384) for name in ("attn_qkv", "attn_proj")),
                             *((block[name]["kernel"], 2 / (5 * 384)) for name in ("mlp_fc1", "mlp_fc2"))):
        # The variance of n samples is known to about sqrt(2 / n); the smallest tensor has 6,528.
        assert np.var(values) == pytest.approx(variance, rel=0.07)
    assert (block["norm1"]["scale"] == 1).all() and not block["attn_qkv"]["bias"].any()


def test_sizes_that_cannot_be_divided_are_refused():
    for wrong in (dict(width=100), dict(image_size=36)):
        with pytest.raises(UserError, match="expected a width that is a multiple of 64, and images of whole patches"):
            ViT(**SMALL | wrong).init(jax.random.key(0), jnp.zeros((1, 32, 32, 2)), False)
    with pytest.raises(UserError, match="CROMA of width 40: expected a multiple of 16"):
        Croma(1, 40).init(jax.random.key(0), jnp.zeros((1, 32, 32, 2)), False)
