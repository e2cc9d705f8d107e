"""The loss tile by tile == the dense loss, values and gradients, on 1, 2 and 8 devices, with and without masks."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.losses import contrastive
from dual_encoder.losses.tiles import Tiles, fold_tiles
from dual_encoder.runtime import mesh

BATCH, DIM = 104, 16
PLACES = jnp.asarray(np.random.default_rng(0).permutation([i // 3 if i < 30 else i for i in range(BATCH)]), jnp.int32)
FUNCTIONS = {"info_nce": contrastive.info_nce, "nt_xent": contrastive.nt_xent, "sigmoid": contrastive.sigmoid}
MODES = {"keep": {}, "mask": {"location": PLACES}, "positive": {"location": PLACES, "positives": True}}


def arguments(name, scale, batch=BATCH):
    keys = jax.random.split(jax.random.key(0), 2)
    z1, noise = (jax.random.normal(key, (batch, DIM)) for key in keys)
    return [z1, z1 + noise, jnp.float32(scale), *([jnp.float32(-0.7 * scale)] if name == "sigmoid" else [])]


def run(name, mode, tiles, devices, scales):
    """Returns (loss, gradients of embeddings, scale and bias, metrics) per scale."""
    placed = mesh.make(devices)
    options = MODES[mode] | {"tiles": Tiles(tiles, placed) if tiles else None}
    function = functools.partial(FUNCTIONS[name], **options)
    count = len(arguments(name, 1.0))
    compiled = jax.jit(jax.value_and_grad(function, argnums=tuple(range(count)), has_aux=True))
    results = []
    for scale in scales:
        inputs = [jax.device_put(x, mesh.by_row(placed) if x.ndim else mesh.replicated(placed))
                  for x in arguments(name, scale)]
        (loss, metrics), gradients = compiled(*inputs)
        results.append(jax.device_get((loss, gradients, metrics)))
    return results


@functools.cache
def dense(name, mode):
    return run(name, mode, 0, jax.devices()[:1], (1.0, 14.3, 100.0))


# A tile of 9: 8 devices have 13 rows each, in tiles of 7 and 6, and 104 columns in 12 tiles with 4 columns too many.
@pytest.mark.parametrize("side, devices", [(9, 1), (9, 2), (9, 8), (1000, 2)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_tiles_equal_the_dense_loss_and_gradient(name, mode, side, devices):
    scales = (1.0, 14.3, 100.0)
    tiled = run(name, mode, side, jax.devices()[:devices], scales)
    for scale, one, other in zip(scales, tiled, dense(name, mode), strict=True):
        # A logit of `scale` is rounded by up to scale x 2^-25, and exp passes that on as a relative error.
        tolerance = max(1e-6, scale * 2**-25)
        # The gradients of scale and bias are differences of sums of order 1, whose rounding stays.
        (loss, gradients, metrics), (expected, expected_gradients, expected_metrics) = one, other
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        assert all(np.isfinite(g).all() and g.any() for g in gradients)
        for gradient, reference in zip(gradients, expected_gradients, strict=True):
            size = max(np.abs(reference).max(), 0.0 if reference.ndim else 1.0)
            assert np.abs(gradient - reference).max() <= tolerance * size, scale
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), metrics, expected_metrics)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_overflows_at_the_largest_scale(name):
    """exp(100) is more than float32 holds: without subtracting the largest logit, aligned embeddings give inf - inf."""
    z, _, scale, *bias = arguments(name, 100.0)
    tiles = Tiles(9, mesh.make(jax.devices()[:2]))
    function = jax.jit(jax.value_and_grad(lambda z1, z2: FUNCTIONS[name](z1, z2, scale, *bias, tiles=tiles)[0]))
    for z2 in (z, -z):
        loss, gradient = function(z, z2)
        assert np.isfinite(loss) and np.isfinite(gradient).all()
    assert loss > 10.0


def test_no_matrix_of_all_pairs_is_held_and_what_crosses_devices_is_gathered_once():
    batch, devices = 2048, mesh.make()
    rows, whole = mesh.by_row(devices), mesh.replicated(devices)
    shapes = [jax.ShapeDtypeStruct((batch, DIM), jnp.float32, sharding=rows)] * 2
    tiles = Tiles(64, devices)
    function = jax.value_and_grad(lambda a, b: contrastive.info_nce(a, b, jnp.float32(10.0), tiles=tiles)[0], (0, 1))
    compiled = jax.jit(function, out_shardings=(whole, (rows, rows))).lower(*shapes).compile()
    # 64 x 64 tiles and copies of [2048, 16] embeddings; one device's share of the matrix is [256, 2048].
    assert compiled.memory_analysis().temp_size_in_bytes < 256 * 2048 * 4
    text = compiled.as_text()
    assert not re.search(r"f32\[(2048|256),2048\]", text)
    assert len(re.findall(rf"= f32\[{batch},{DIM}\]\S* all-gather\(", text)) == 1
    assert len(re.findall(rf"= f32\[{batch // 8},{DIM}\]\S* reduce-scatter\(", text)) == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_memory_at_scale_is_a_sixteenth_of_the_dense_loss(name):
    """And a batch of 262,144 takes less than 1 GB, by the compiler's figures for loss and gradient on one device."""
    tiles = Tiles(512, mesh.make(jax.devices()[:1]))
    scalars = arguments(name, 14.3)[2:]

    def temporaries(batch, tiles):
        z = jax.ShapeDtypeStruct((batch, 128), jnp.float32)
        step = jax.jit(jax.value_and_grad(lambda z1, z2: FUNCTIONS[name](z1, z2, *scalars, tiles=tiles)[0], (0, 1)),
                       compiler_options={"xla_backend_optimization_level": 3})
        return step.lower(z, z).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(32_768, tiles) <= temporaries(32_768, None) / 16
    assert temporaries(262_144, tiles) < 1e9


@pytest.mark.parametrize("n, m, side", [(6, 9, 3), (7, 5, 3), (4, 4, 10), (1, 1, 1)])
def test_fold_tiles_visits_every_pair_once(n, m, side):
    a, b = jnp.arange(1.0, n + 1), jnp.arange(1.0, m + 1)

    def fold(rows, row_state, columns, column_state):
        pairs = rows[:, None] * columns[None]
        return row_state + pairs.sum(axis=1), column_state + pairs.sum(axis=0)

    row_state, column_state = fold_tiles(fold, a, jnp.zeros(n), b, jnp.zeros(m), side)
    np.testing.assert_array_equal(row_state, a * b.sum())
    np.testing.assert_array_equal(column_state, b * a.sum())
