"""The gradient cache against the plain step: values and gradients, and what it is for, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.data.batches import batches
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.losses.contrastive import info_nce
from dual_encoder.runtime import mesh
from dual_encoder.tasks.checks import check_batch
from dual_encoder.tasks.micro_batches import in_micro_batches
from dual_encoder.tasks.pretrain import Pretrain
from tests import runs
from tests.comparing import relative_error

SENSORS = ("s1", "s2")
BATCH = 32
TILES = {"chunk": 3}
# As users run it: conftest's unoptimised sums go one by one and lose two bits more.
OPTIMISED = {"xla_backend_optimization_level": 3}

pytestmark = pytest.mark.usefixtures("short_resnet")


def configure(folder, micro_batch, inputs="s1+s2", loss=None, **encoder):
    """`runs.configure` of pre-training in micro-batches."""
    return runs.configure(folder, family="resnet", inputs=inputs, batch_size=BATCH, train__micro_batch=micro_batch,
                          loss=loss or {}, encoder=encoder)


@pytest.fixture(scope="module")
def folder(write_dataset):
    return write_dataset(train=BATCH, places=BATCH // 2)


def loss_and_gradients(config, devices):
    records = Records(config.data.dir, "train", SENSORS)
    devices = mesh.make(devices)
    task = Pretrain(config, records.info.sensors, devices)
    params, stats = jax.device_put(task.init(jax.random.key(0)), mesh.replicated(devices))
    batch = next(batches(records, seed=0, batch_size=BATCH, rows=range(BATCH), start=0, stop=1, threads=1, processes=0))
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True), out_shardings=mesh.replicated(devices),
                       compiler_options=OPTIMISED)
    (loss, _), gradients = function(params, stats, mesh.to_global(batch, devices), jax.random.key(1))
    return loss, gradients


@pytest.mark.parametrize("count, limits, more", [
    (1, {8: 1e-6, 16: 1e-6}, {}), (2, {8: 1e-6}, {}),
    (8, {16: 1e-6, 8: 1.4e-6}, {}),  # one image alone on a device has other code, too
    (8, {16: 1e-6}, {"loss": TILES}),
    (8, {16: 1e-6}, {"loss": TILES | {"name": "nt_xent"}, "inputs": "s1"}),
    (8, {16: 1e-6}, {"loss": TILES | {"name": "iai_simclr"}})])
def test_equals_the_plain_step_where_there_is_no_batchnorm(folder, count, limits, more):
    """limits: rows of a micro-batch -> largest relative error of the gradients."""
    # Patches of 4, not 8: XLA has other code, which rounds otherwise, for the attention of a few rows of 17 tokens.
    vit = dict(family="vit", width=64, depth=1, patch=4, image_size=32)
    plain, *cached = (loss_and_gradients(configure(folder, size, **more, **vit), jax.devices()[:count])
                      for size in (0, *limits))
    for (loss, gradients), limit in zip(cached, limits.values(), strict=True):
        assert relative_error(loss, plain[0]) < 1e-6 and relative_error(gradients, plain[1]) < limit


def test_equals_the_plain_step_with_group_norm(folder):
    devices = jax.devices()[:1]
    plain, cached = (loss_and_gradients(configure(folder, size, norm="group", width=32), devices) for size in (0, 8))
    # The stem's gradient is a sum over 32 x 16 x 16 pixels: in another order it may differ by sqrt(8192) x 2^-24.
    assert relative_error(cached[0], plain[0]) < 1e-6 and relative_error(cached[1], plain[1]) < 5.4e-6


def test_batchnorm_statistics_are_means_over_the_micro_batches(folder):
    config = configure(folder, 8)
    records = Records(config.data.dir, "train", SENSORS)
    task = Pretrain(config, records.info.sensors)
    params, stats = task.init(jax.random.key(0))
    batch = next(batches(records, seed=0, batch_size=BATCH, rows=range(BATCH), start=0, stop=1, threads=1, processes=0))
    _, cached = jax.jit(task.embed)(params, stats, batch, jax.random.key(1))

    def part(number):
        """Every fourth row by hand, each under the key that it has in the whole batch."""
        rows = {name: batch[name][number::4] for name in SENSORS}
        keys = jnp.stack([jax.random.fold_in(jax.random.key(1), row) for row in range(number, BATCH, 4)])
        return jax.jit(task._embed)(params, stats, rows, [keys])[1]

    expected = jax.tree.map(lambda *parts: np.mean(parts, axis=0), *(part(number) for number in range(4)))
    assert relative_error(cached, expected) < 1e-6
    assert relative_error(cached, part(0)) > 1e-3, "one micro-batch alone has other statistics"


def test_is_exact_in_float64():
    """An encoder of two layers, the loss of the project, and masks of pairs of one place."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 4)
        x1, x2 = (jax.random.normal(k, (24, 9), jnp.float64) for k in keys[:2])
        params = [jax.random.normal(k, (9, 5), jnp.float64) for k in keys[2:]]
        location = jnp.arange(24, dtype=jnp.int32) // 2

        def loss(params, parts):
            def embed(x1, x2):
                return [jnp.tanh(x @ w) for x, w in zip((x1, x2), params, strict=True)], ()

            z1, z2 = (in_micro_batches(embed, parts, x1, x2) if parts else embed(x1, x2))[0]
            return info_nce(z1, z2, jnp.float64(14.0), location)[0]

        step = jax.jit(jax.value_and_grad(loss), static_argnums=1)
        plain = step(params, 0)
        for parts in (2, 3, 24):
            assert relative_error(step(params, parts), plain) < 1e-14


def test_rows_keep_their_order_and_each_is_seen_once():
    x = jnp.arange(24, dtype=jnp.float32).reshape(12, 2)
    (doubled, index), total = in_micro_batches(lambda x, i: ((2.0 * x, i), x.sum()), 3, x, jnp.arange(12))
    np.testing.assert_array_equal(doubled, 2.0 * x)
    np.testing.assert_array_equal(index, np.arange(12))
    assert total == x.sum() / 3


def test_memory_of_activations_is_that_of_a_micro_batch(folder):
    """The compiler's count of temporaries; the raw batch is an argument and not among them."""
    def temporaries(batch_size, micro_batch):
        config = runs.configure(folder, batch_size=batch_size, train__micro_batch=micro_batch, encoder__norm="group")
        records = Records(config.data.dir, "train", SENSORS)
        task = Pretrain(config, records.info.sensors)
        variables = jax.eval_shape(task.init, jax.random.key(0))
        batch = {name: jax.ShapeDtypeStruct((batch_size, *records.info.tensors[name].shape),
                                            records.info.tensors[name].dtype) for name in SENSORS}
        batch |= {"location": jax.ShapeDtypeStruct((batch_size,), jnp.int32)}
        step = jax.jit(jax.grad(task.loss, has_aux=True), compiler_options=OPTIMISED)
        return step.lower(*variables, batch, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    small, cached, plain = temporaries(64, 0), temporaries(1024, 64), temporaries(1024, 0)
    assert cached <= 1.2 * small and plain > 10 * small


def test_a_micro_batch_that_does_not_divide_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="micro_batch is 12; expected 0, or a divisor of config.batch_size, 32"):
        configure(folder, 12)
    with pytest.raises(UserError, match="config.train.micro_batch is 4, not a multiple of the 8 devices; use 8"):
        check_batch(configure(folder, 4), mesh.make())
    with pytest.raises(UserError, match="not a multiple of the 8 devices; use 8 or 24$"):  # 16 does not divide 24
        mesh.check_rows("train.micro_batch", 12, mesh.make(), of=24)
