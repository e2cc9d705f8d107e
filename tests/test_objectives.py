"""The objectives in the step: chosen by name, one view or two, one sensor or two, dense or in tiles."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.losses import contrastive, correlation
from dual_encoder.losses import objective as losses
from dual_encoder.losses.choices import AnyObjective
from dual_encoder.losses.objective import clamp, views
from dual_encoder.runtime import mesh
from dual_encoder.tasks.pretrain import Pretrain
from dual_encoder.workdir import checkpoint, metrics
from tests import runs
from tests.runs import fit

BATCH, DIM = 16, 8


def configure(folder="data/x", inputs="s1+s2", **loss):
    """`runs.configure` of pre-training with another objective."""
    return runs.configure(folder, inputs=inputs, batch_size=BATCH, loss={"false_negatives": "keep"} | loss)


def embed(sensors=("s1", "s2"), count=2):
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((BATCH, DIM), np.float32)
    return {name: [jnp.asarray(shared + rng.standard_normal((BATCH, DIM), np.float32)) for _ in range(count)]
            for name in sensors}


def compute(config, embeddings, location=None, devices=None):
    location = jnp.arange(BATCH, dtype=jnp.int32) if location is None else location
    step = jax.jit(lambda embeddings, location: losses.compute(config.loss, embeddings, config.loss.scalars(), location,
                                                               devices))
    return step(embeddings, location)


SCALE, BIAS = jnp.float32(1 / 0.07), jnp.float32(-10.0)
EXPECTED = {
    "info_nce": lambda a, b: contrastive.info_nce(a[0], b[0], SCALE),
    "nt_xent": lambda a, b: contrastive.nt_xent(a[0], b[0], SCALE),
    "iai_simclr": lambda a, b: contrastive.iai_simclr(a[0], b[0], a[1], b[1], SCALE),
    "sigmoid": lambda a, b: contrastive.sigmoid(a[0], b[0], SCALE, BIAS),
    "barlow": lambda a, b: correlation.barlow(a[0], b[0], 0.0051),
    "decur": lambda a, b: correlation.decur(a[0], b[0], a[1], b[1], 0.0051, 7),
    "vicreg": lambda a, b: correlation.vicreg(a[0], b[0], (25.0, 25.0, 1.0)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_objective_that_is_named_is_the_one_used(name):
    config = configure(name=name)
    assert views(config.loss, ("s1", "s2")) == (2 if name in ("iai_simclr", "decur") else 1)
    embeddings = embed(count=views(config.loss, ("s1", "s2")))
    loss, measured = compute(config, embeddings)
    expected, names = jax.jit(EXPECTED[name])(*embeddings.values())
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert {key.replace("s1", "1").replace("s2", "2") for key in measured} == {
        *names, *({"temperature"} if name in ("info_nce", "nt_xent", "iai_simclr", "sigmoid") else ()),
        *({"bias"} if name == "sigmoid" else ())}
    assert all(value.shape == () and value.dtype == jnp.float32 for value in measured.values())


def test_every_objective_of_the_configuration_is_tested_here():
    assert {choice.name for choice in typing.get_args(AnyObjective)} == set(EXPECTED)


@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "sigmoid", "barlow", "vicreg"])
def test_one_sensor_compares_two_views_of_itself(name):
    config = configure(inputs="s2", name=name)
    assert views(config.loss, ("s2",)) == 2
    embeddings = embed(("s2",))
    loss, measured = compute(config, embeddings)
    first, second = embeddings["s2"]
    np.testing.assert_allclose(loss, jax.jit(EXPECTED[name])([first], [second])[0], rtol=1e-6)
    assert not any("s1" in key or "s2" in key for key in measured)


def test_three_sensors_are_compared_two_by_two():
    config = configure()
    embeddings = embed(("s1", "s2", "dem"), count=1)
    loss, measured = compute(config, embeddings)
    pairs = [contrastive.info_nce(embeddings[a][0], embeddings[b][0], SCALE)
             for a, b in (("s1", "s2"), ("s1", "dem"), ("s2", "dem"))]
    np.testing.assert_allclose(loss, np.mean([value for value, _ in pairs]), rtol=1e-6)
    np.testing.assert_allclose(measured["accuracy_dem_to_s2"], pairs[2][1]["accuracy_2_to_1"], rtol=1e-6)
    assert {"accuracy_s1_to_s2", "accuracy_s2_to_s1", "accuracy_s1_to_dem", "temperature"} <= set(measured)


def test_false_negatives_reach_the_objective():
    location = jnp.arange(BATCH, dtype=jnp.int32) // 2
    losses = {mode: compute(configure(false_negatives=mode), embed(count=1), location)[0]
              for mode in ("keep", "mask", "positive")}
    (a,), (b,) = embed(count=1).values()
    for mode, further in (("keep", ()), ("mask", (location,)), ("positive", (location, True))):
        expected = jax.jit(lambda a, b, further=further: contrastive.info_nce(a, b, SCALE, *further)[0])(a, b)
        np.testing.assert_allclose(losses[mode], expected, rtol=1e-6)
    assert losses["mask"] < losses["keep"] < losses["positive"]


def test_scalars_start_where_the_configuration_says_and_learn_when_it_says():
    assert configure(name="barlow").loss.scalars() == {}
    assert set(configure(name="info_nce").loss.scalars()) == {"log_scale"}
    siglip = configure(name="sigmoid", temperature=0.1, bias=-10.0).loss
    np.testing.assert_allclose([siglip.scalars()["log_scale"], siglip.scalars()["bias"]], [np.log(10), -10], rtol=1e-6)
    for learnable in (False, True):
        config = configure(name="sigmoid", learnable_temperature=learnable)
        gradient = jax.jit(jax.grad(lambda p, c=config: losses.compute(c.loss, embed(count=1), p, jnp.arange(BATCH),
                                                                       None)[0]))(config.loss.scalars())
        assert bool(gradient["log_scale"] != 0) == learnable and gradient["bias"] != 0
    above = clamp({"log_scale": jnp.float32(5.0), "bias": BIAS, "other": {}})
    np.testing.assert_allclose(jnp.exp(above["log_scale"]), 100.0, rtol=1e-5)
    assert above["bias"] == BIAS and above["other"] == {} and clamp({"other": {}}) == {"other": {}}


@pytest.mark.parametrize("name", ["info_nce", "nt_xent", "iai_simclr", "sigmoid"])
def test_tiles_are_used_where_they_are_asked_for(name):
    for chunk in (0, 4):
        config = configure(name=name, chunk=chunk)
        program = jax.make_jaxpr(lambda e, c=config: compute(c, e, devices=mesh.make())[0])(
            embed(count=views(config.loss, ("s1", "s2"))))
        assert ("shard_map" in str(program)) == bool(chunk)


def test_tiles_without_a_mesh_are_refused():
    with pytest.raises(ValueError, match="chunk=4 needs the mesh"):
        compute(configure(chunk=4), embed(count=1))


@pytest.mark.parametrize("inputs, loss, message", [
    ("s1+s2", {"name": "simclr"}, "config.loss.name is 'simclr'; did you mean 'iai_simclr'"),
    ("s1", {"name": "iai_simclr"}, "config.inputs is 's1'; expected 's1\\+s2': 'iai_simclr' compares two sensors"),
    ("s2", {"name": "decur"}, "config.inputs is 's2'; expected 's1\\+s2'"),
    ("s1+s2", {"name": "decur", "common": 1.0}, "config.loss.common is 1.0; expected a share that leaves .* the 8"),
    ("s1+s2", {"name": "vicreg", "vicreg": (25.0, 1.0)}, "config.loss.vicreg is .*; expected three weights"),
    ("s1+s2", {"chunk": -1}, "config.loss.chunk is -1; expected at least 0"),
])
def test_a_mistake_in_the_configuration_is_one_line(inputs, loss, message):
    with pytest.raises(UserError, match=message):
        configure(inputs=inputs, **loss)


def read(records, count):
    rows = [records[number] for number in range(count)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def gradients(config, records, devices):
    placed = mesh.make(devices)
    task = Pretrain(config, records.info.sensors, placed)
    params, stats = jax.device_put(task.init(jax.random.key(0)), mesh.replicated(placed))
    batch = mesh.to_global(read(records, BATCH), placed)
    (loss, (_, measured)), grads = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
        params, stats, batch, jax.random.key(1))
    return jax.device_get((loss, grads, measured))


@pytest.mark.parametrize("inputs, loss", [
    ("s1+s2", {"name": "iai_simclr", "false_negatives": "mask"}),
    ("s1", {"name": "nt_xent", "false_negatives": "mask"}),
])
def test_the_step_in_tiles_on_eight_devices_equals_the_dense_step_on_one(write_dataset, inputs, loss):
    """Two views as well; places repeat, so masks count."""
    folder = write_dataset(places=12)
    records = Records(folder, "train", ("s1", "s2"))
    one = gradients(configure(folder, inputs, **loss), records, jax.devices()[:1])
    eight = gradients(configure(folder, inputs, chunk=3, **loss), records, jax.devices())
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-5)
    for path, (ours, expected) in jax.tree_util.tree_leaves_with_path(
            jax.tree.map(lambda a, b: (a, b), eight[1], one[1]), is_leaf=lambda x: isinstance(x, tuple)):
        # As in test_training: sums in another order differ by 1e-6, 18 BatchNorm layers amplify that.
        assert np.abs(ours - expected).max() <= 1e-3 * max(np.abs(expected).max(), 1e-6), path
    assert one[2]["same_place"] > 0


def test_the_second_view_is_another_augmentation_and_only_made_when_it_is_needed(write_dataset):
    folder = write_dataset()
    records = Records(folder, "train", ("s1", "s2"))
    batch, seen, images = read(records, 4), {}, {}
    for name in ("info_nce", "iai_simclr"):
        task = Pretrain(configure(folder, name=name), records.info.sensors)

        def apply(variables, inputs, **_):
            seen.update(inputs)
            return {sensor: x.reshape(len(x), -1)[:, :DIM] for sensor, x in inputs.items()}, {}

        task.model = type("Model", (), {"apply": staticmethod(apply)})
        embeddings, images[name] = jax.jit(lambda key, task=task: (task.embed({}, {}, batch, key)[0], dict(seen)))(
            jax.random.key(0))
        for sensor, number in (("s1", 2), ("s2", 12)):
            count = 2 if name == "iai_simclr" else 1
            assert images[name][sensor].shape == (4 * count, 32, 32, number)
            assert [z.shape for z in embeddings[sensor]] == [(4, DIM)] * count
            for view, z in enumerate(embeddings[sensor]):  # row by row its own image
                np.testing.assert_array_equal(z, images[name][sensor][view::count].reshape(4, -1)[:, :DIM])
    first, second = (images["iai_simclr"]["s1"][view::2] for view in (0, 1))
    assert not any(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_run_with_one_sensor_is_scored_and_hands_its_encoder_on(write_dataset, tmp_path):
    folder = write_dataset(labels=True)
    config = configure(folder, "s2", name="nt_xent")
    fit(config, tmp_path / "run", jax.devices()[:1])
    scores = [row for row in metrics.read(tmp_path / "run") if row["kind"] == "eval"][-1]
    assert scores["s2_to_s2_turned/gallery_size"] == 8
    model = checkpoint.load_model(tmp_path / "run")
    assert set(model.sensors) == {"s2"} and "s1_encoder" not in model.variables["params"]

    tuning = runs.configure(folder, "water_weak", inputs="s2", init_from=str(tmp_path / "run"))
    tuned, _ = runs.open_run(tuning, model.variables, sensors=model.sensors)
    params, _ = tuned.init(jax.random.key(5))
    jax.tree.map(np.testing.assert_array_equal, params["s2_encoder"], model.variables["params"]["s2_encoder"])
