"""Segmentation: encoders come from the checkpoint, frozen means frozen, fused uses both, two dates share an encoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dual_encoder.augment import record_keys
from dual_encoder.data.batches import batches
from dual_encoder.data.records import Records
from dual_encoder.data.shapes import Shapes
from dual_encoder.errors import UserError
from dual_encoder.evaluation.segmentation import confusion_matrix, segmentation_scores
from dual_encoder.imagery.normalise import normalise
from dual_encoder.losses.segmentation import cross_entropy, soft_dice
from dual_encoder.models.dual_encoder import DualEncoder
from dual_encoder.models.segmentation import SegmentationModel, _combined
from dual_encoder.optim.optimizer import make_optimizer
from dual_encoder.runtime import mesh
from dual_encoder.tasks.downstream import draw_available
from dual_encoder.tasks.segment import Segment
from dual_encoder.training.step import compile_step, init_state
from dual_encoder.workdir import metrics
from tests import runs
from tests.runs import fit, open_run

pytestmark = pytest.mark.usefixtures("short_resnet")


def configure(folder, family="resnet", **changes):
    """`runs.configure` of segmentation."""
    return runs.configure(folder, "water_weak", family=family, **changes)


@pytest.fixture(scope="module")
def labelled(write_dataset):
    return write_dataset(labels=True)


@pytest.fixture(scope="module")
def pretrained():
    images = {"s1": jnp.zeros((2, 32, 32, 2)), "s2": jnp.zeros((2, 32, 32, 12))}
    model = DualEncoder(("s1", "s2"), configure("unused").encoder, 16, 8)
    return jax.tree.map(np.asarray, jax.jit(lambda k: model.init(k, images, train=True))(jax.random.key(7)))


def first_batch(records):
    return next(batches(records, seed=0, batch_size=8, rows=range(8), start=0, stop=1, threads=1, processes=0))


@pytest.mark.parametrize("inputs", ["s1", "s2", "s1+s2"])
def test_encoders_come_from_the_checkpoint(labelled, pretrained, inputs):
    task, records = open_run(configure(labelled, inputs=inputs), pretrained)
    params, stats = task.init(jax.random.key(0))
    for name in inputs.split("+"):
        jax.tree.map(np.testing.assert_array_equal, params[f"{name}_encoder"], pretrained["params"][f"{name}_encoder"])
    prediction = jax.jit(task.predict)(params, stats, first_batch(records))["prediction"]
    assert prediction.shape == (8, 40, 40) and prediction.dtype == jnp.uint8


def two_steps(task, records):
    """(params, batch_stats) before and after two steps; the first step of the warm-up has rate 0."""
    devices = mesh.make(jax.devices()[:1])
    optimizer = make_optimizer(task.config.optimizer, 8, 10, task.frozen, task.config.rate_factor())
    state = init_state(task, optimizer, task.config, devices)
    before = jax.device_get((state.params, state.batch_stats))
    step = compile_step(task, optimizer, task.config, devices)
    batch = mesh.to_global(first_batch(records), devices)
    for _ in range(2):
        state, _ = step(state, batch)
    return before, jax.device_get((state.params, state.batch_stats))


def moved(old, new):
    """Name -> whether a leaf below it changed."""
    return {name: any((a != b).any() for a, b in zip(jax.tree.leaves(old[name]), jax.tree.leaves(new[name]),
                                                     strict=True)) for name in old}


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_encoders_stay_as_they_are(labelled, pretrained, frozen):
    for old, new in zip(*two_steps(*open_run(configure(labelled, frozen=frozen), pretrained)), strict=True):
        assert moved(old, new)["s1_encoder"] is not frozen
        assert moved(old, new)["decoder0"] and moved(old, new)["decoder4"]


def test_only_the_last_stages_of_a_resnet_learn(labelled, pretrained):
    """Neither parameters nor BatchNorm statistics of the first stages move, by gradient or by weight decay."""
    config = configure(labelled, train_stages=2, layer_decay=0.5, optimizer__weight_decay=0.1)
    for old, new in zip(*two_steps(*open_run(config, pretrained)), strict=True):
        changed = moved(old["s1_encoder"], new["s1_encoder"])
        assert {name for name, yes in changed.items() if yes} == {
            "layer3_0", "layer4_0"}
        assert moved(old, new)["decoder4"]


def test_only_the_last_stages_of_a_transformer_learn(labelled):
    config = configure(labelled, train_stages=2, optimizer__weight_decay=0.1, augment__crop=0, decoder="linear",
                       encoder={"family": "vit", "depth": 4, "width": 64, "patch": 8})
    (old, _), (new, _) = two_steps(*open_run(config))
    changed = moved(old["s1_encoder"], new["s1_encoder"])
    assert {name for name, yes in changed.items() if yes} == {"blocks_2", "blocks_3"}, "the norm is of the vector"


@pytest.mark.parametrize("encoder, expected", [
    ({"family": "resnet"}, {"conv1": 0, "bn1": 0, "layer1_1": 0, "layer2_0": 1 / 8, "layer4_1": 1 / 2}),
    ({"family": "vit", "depth": 4, "width": 64, "patch": 8},
     {"pos_embed": 0, "cls_token": 0, "patch_embed": 0, "blocks_0": 0, "blocks_1": 1 / 8, "blocks_3": 1 / 2,
      "norm": 1 / 2, "fc_norm": 1 / 2}),
    ({"family": "croma", "depth": 4, "width": 32},
     {"patch_embed": 0, "blocks_0": 0, "blocks_1": 1 / 8, "norm": 1 / 2, "gap_norm": 1 / 2, "gap_fc2": 1 / 2})])
def test_the_rate_falls_from_stage_to_stage(encoder, expected):
    factor = configure("unread", train_stages=3, layer_decay=0.5, augment__crop=0, encoder=encoder).rate_factor()
    assert {layer: factor(("s1_encoder", layer, "kernel")) for layer in expected} == expected
    assert factor(("decoder0", "conv1", "kernel")) == 1
    assert configure("unread").rate_factor() is None


@pytest.mark.parametrize("changes, message", [
    ({"train_stages": 6}, "train_stages is 6; expected 0 for all stages, or 1 to 5"),
    ({"train_stages": 1, "frozen": True}, "train_stages is 1; expected 0 with config.frozen"),
    ({"layer_decay": 0.0}, r"layer_decay is 0.0; expected a factor in \(0, 1\]")])
def test_stages_that_do_not_exist_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        configure("unread", **changes)


@pytest.mark.parametrize(("decoder", "encoder"), [
    *((decoder, encoder) for decoder in ("fpn", "linear")
      for encoder in ({"family": "resnet"}, {"family": "vit", "depth": 4, "width": 64, "patch": 8})),
    ("linear", {"family": "croma", "depth": 3, "width": 32})])
def test_each_decoder_learns_on_each_encoder(labelled, decoder, encoder):
    config = configure(labelled, inputs="s1+s2", decoder=decoder, augment__crop=0,
                       **{f"encoder__{key}": value for key, value in encoder.items()})
    task, records = open_run(config)
    params, stats = task.init(jax.random.key(0))
    batch = first_batch(records)
    assert jax.eval_shape(task.predict, params, stats, batch)["prediction"].shape == (8, 40, 40)
    _, grads = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, stats, batch, jax.random.key(0))
    for name, layers in grads.items():
        for layer, leaves in layers.items():  # what follows the blocks of a transformer is of its vector
            of_vector = layer in ("norm", "gap_norm", "gap_fc1", "gap_fc2")
            assert of_vector or any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(leaves)), (name, layer)


# Fusion


def test_early_fusion_stacks_the_bands_for_one_encoder(labelled):
    config = configure(labelled, "vit", inputs="s1+s2", fusion="early")
    images = {"s1": jnp.zeros((2, 32, 32, 2)), "s2": jnp.zeros((2, 32, 32, 12))}
    checkpoint = DualEncoder(("s1", "s2"), config.encoder, 16, 8, "early")
    pretrained = jax.jit(lambda k: checkpoint.init(k, images, train=True))(jax.random.key(7))
    task, records = open_run(config, pretrained)
    params, stats = task.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params["s1_s2_encoder"], pretrained["params"]["s1_s2_encoder"])
    batch = first_batch(records)
    images = {name: normalise(batch[name], task.sensors[name]) for name in ("s1", "s2")}
    one = SegmentationModel(("s1_s2",), config.encoder, config.decoder, config.decoder_width, 2, False)
    logits = jax.jit(lambda images: one.apply({"params": params, "batch_stats": stats}, images, False))(
        {"s1_s2": jnp.concatenate([images["s1"], images["s2"]], axis=-1)})
    np.testing.assert_array_equal(jax.jit(task.predict)(params, stats, batch)["prediction"], logits.argmax(axis=-1))
    late, _ = open_run(configure(labelled, "vit", inputs="s1+s2"), pretrained)
    with pytest.raises(UserError, match="no 's1_encoder', it has .'s1_s2_encoder'.; choose other config.inputs, or an"):
        late.init(jax.random.key(0))


def test_a_record_lacks_one_sensor_at_most():
    keys = record_keys(jax.random.key(0), 20_000)
    available = np.asarray(draw_available(keys, 3, 0.4))
    missing = (~available).sum(axis=0) / len(keys)
    assert ((~available).sum(axis=1) <= 1).all()
    np.testing.assert_allclose(missing, 0.4 / 3, atol=5 * np.sqrt(0.14 * 0.86 / len(keys)))
    assert draw_available(keys, 3, 0.0) is None


@pytest.fixture(scope="module")
def dropped(labelled):
    """A fused task that drops a sensor of every record, its variables and a batch."""
    task, records = open_run(configure(labelled, "vit", inputs="s1+s2", sensor_dropout=1.0))
    return task, records, task.init(jax.random.key(0)), first_batch(records)


def test_a_dropped_sensor_does_not_matter_in_training(dropped):
    task, _, variables, batch = dropped
    key, step = jax.random.key(3), jax.jit(task.loss)
    available = np.asarray(draw_available(record_keys(key, 8), 2, 1.0))
    assert 0 < available[:, 0].sum() < 8
    expected = step(*variables, batch, key)[0]
    for number, name in enumerate(("s1", "s2")):
        shown = available[:, number].reshape(-1, 1, 1, 1)
        assert step(*variables, batch | {name: np.where(shown, batch[name], batch[name][::-1])}, key)[0] == expected
        assert step(*variables, batch | {name: np.where(shown, batch[name][::-1], batch[name])}, key)[0] != expected


def test_a_fused_model_predicts_from_the_sensors_that_it_gets(dropped):
    task, _, variables, batch = dropped
    together = jax.jit(task.predict)(*variables, batch)
    for name, other in (("s1", "s2"), ("s2", "s1")):
        without = {key: value for key, value in batch.items() if key != other}
        alone = jax.jit(lambda *given, name=name: task.predict(*given, available=(name,)))(*variables, without)
        assert set(alone) == {"prediction", "label"}
        np.testing.assert_array_equal(alone["prediction"], together[f"prediction_{name}"])
    assert (together["prediction_s1"] != together["prediction_s2"]).any()
    with pytest.raises(UserError, match="'s3' is not available; the model takes s1 and s2"):
        task.predict(*variables, batch, available=("s1", "s3"))


def test_each_sensor_alone_is_scored(dropped):
    task, records, variables, _ = dropped
    batch = {name: np.stack([records[n][name] for n in range(4)]) for name in ("s1", "s2", "label")}
    output = {name: np.asarray(value) for name, value in jax.jit(task.predict)(*variables, batch).items()}
    evaluation = task.evaluate(iter([(np.arange(4), output)]), records)
    scores = evaluation.scores()
    for name in ("s1", "s2"):
        matrix = confusion_matrix(output["label"], output[f"prediction_{name}"], 2)
        assert scores["segmentation_alone"][name]["miou"] == segmentation_scores(matrix, task.classes)["miou"]
    assert [row.title for row in evaluation.tables[-1].rows] == ["s1 alone", "s2 alone"]


@pytest.mark.parametrize("changes", [{"inputs": "s1"}, {"inputs": "s1+s2", "fusion": "early"}])
def test_sensor_dropout_needs_two_encoders(changes):
    with pytest.raises(UserError, match="config.sensor_dropout is 0.5; expected 0, because"):
        configure("unread", sensor_dropout=0.5, **changes)


# Two dates


@pytest.fixture(scope="module")
def two_dates(write_dataset):
    return write_dataset(labels=True, two_dates=True)


@pytest.mark.parametrize("change, channels", [("difference", 64), ("concatenation", 192)])
def test_one_encoder_sees_both_dates(two_dates, pretrained, change, channels):
    task, records = open_run(configure(two_dates, inputs="s1+s2", change=change), pretrained)
    params, stats = task.init(jax.random.key(0))
    assert {name for name in params if "encoder" in name} == {"s1_encoder", "s2_encoder"}
    jax.tree.map(np.testing.assert_array_equal, params["s1_encoder"], pretrained["params"]["s1_encoder"])
    assert params["decoder4"]["conv1"]["kernel"].shape[2] == 2 * (channels + channels // 2), "both sensors, two levels"
    batch = first_batch(records)
    assert jax.eval_shape(task.predict, params, stats, batch)["prediction"].shape == (8, 40, 40)
    loss = jax.jit(lambda batch: task.loss(params, stats, batch, jax.random.key(0))[0])
    for name in ("s1", "s2_before"):
        assert loss(batch) != loss(batch | {name: batch[name][::-1]}), name


def test_without_a_change_the_difference_shows_nothing(two_dates, pretrained):
    """Both dates have the same weights, statistics, crop, flips and turns: the maps of equal images cancel out."""
    task, records = open_run(configure(two_dates, change="difference", frozen=False), pretrained)
    params, stats = task.init(jax.random.key(0))
    batch, step = first_batch(records), jax.jit(task.loss)
    results = [step(params, stats, batch | {"s1": image, "s1_before": image}, jax.random.key(1))[0]
               for image in (batch["s1"], batch["s1_before"])]
    assert results[0] == results[1]
    assert step(params, stats, batch, jax.random.key(1))[0] != results[0]


def test_maps_of_two_dates_are_combined_row_by_row():
    maps = np.random.default_rng(0).normal(size=(3, 2, 4, 5, 6)).astype(np.float32)
    both = jnp.asarray(maps.reshape(6, 4, 5, 6))
    np.testing.assert_array_equal(_combined(both, "difference"), maps[:, 1] - maps[:, 0])
    np.testing.assert_array_equal(_combined(both, "concatenation"),
                                  np.concatenate([maps[:, 1], maps[:, 0], maps[:, 1] - maps[:, 0]], axis=-1))


def test_a_change_needs_both_images_of_one_sensor(labelled, two_dates):
    with pytest.raises(UserError, match="has no feature 's1_before'"):
        open_run(configure(labelled, change="difference"))
    config = configure(two_dates, change="difference")
    records = Records(config.data.dir, "train", config.features)
    sensors = records.info.sensors | {"s1_before": records.info.sensors["s2"]}
    mixed = Shapes(dataclasses.replace(records.info, sensors=sensors))
    with pytest.raises(UserError, match="sensor bands differ: 's1_before' has 's2_l2a'"):
        Segment(config, records.info.sensors, mixed, None)


def test_a_change_run_shows_both_dates(two_dates, tmp_path):
    fit(configure(two_dates, "vit", change="concatenation"), tmp_path / "run", jax.devices()[:1], report=True)
    with Image.open(tmp_path / "run" / "evaluation" / "segmentation_panels.png") as picture:
        assert picture.width == 4 * (192 + 4) + 4 + 190
    assert "Each row: before, after, label" in (tmp_path / "run" / "report.html").read_text()


def test_training_learns_a_label_that_the_radar_shows(labelled, tmp_path):
    config = configure(labelled, "vit", class_weights="inverse", schedule__steps=60, schedule__log_every=20)
    fit(config, tmp_path / "run", jax.devices()[:1])
    final = [row for row in metrics.read(tmp_path / "run") if row["kind"] == "eval"][-1]
    assert final["miou"] > 0.6, "guessing one class gives 0.25"
    assert final["support/dry"] + final["support/wet"] == 8 * 40 * 40
    assert (tmp_path / "run" / "evaluation" / "segmentation_panels.png").exists()


def test_ignored_pixels_change_neither_loss_nor_gradient(labelled):
    task, records = open_run(configure(labelled))
    params, stats = task.init(jax.random.key(0))
    batch = first_batch(records)
    ignored = batch["label"].copy()
    ignored[:, :10] = 255
    results = []
    for wrong in (0, 1):  # what the label said before it was ignored must not matter
        label = np.where(ignored == 255, wrong, ignored)
        marked = batch | {"label": np.where(ignored == 255, 255, label).astype(np.uint8)}
        results.append(jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, stats, marked, jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, *results)
    (counted, _), _ = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(params, stats, batch, jax.random.key(0))
    assert counted != results[0][0][0]


def test_the_terms_of_the_loss_add_up(labelled):
    task, records = open_run(configure(labelled, decoder="linear", frozen=True, focal_gamma=2.0, dice=0.5,
                                       augment__crop=0, augment__flips=False, augment__turns=False))
    params, stats = task.init(jax.random.key(0))
    batch = first_batch(records)
    logits = jax.jit(lambda image: task.model.apply({"params": params, "batch_stats": stats}, {"s1": image}, False))(
        normalise(batch["s1"], task.sensors["s1"]))
    label = jnp.asarray(batch["label"])
    expected = jax.jit(lambda logits, label: cross_entropy(logits, label, jnp.ones(2), 255, 2.0)
                       + 0.5 * soft_dice(logits, label, 255))(logits, label)
    np.testing.assert_allclose(jax.jit(task.loss)(params, stats, batch, jax.random.key(0))[0], expected, rtol=1e-5)


def test_a_checkpoint_of_another_encoder_is_refused(labelled, pretrained):
    task, _ = open_run(configure(labelled, encoder__width=16), pretrained)
    with pytest.raises(UserError, match=r"'bn1/bias' is \(8,\) in the checkpoint, \(16,\) in the model"):
        task.init(jax.random.key(0))


def test_inverse_class_weights_are_one_over_the_share(labelled):
    task, records = open_run(configure(labelled, "vit", class_weights="inverse"))
    labels = np.stack([records[n]["label"] for n in range(len(records))])
    share = np.array([(labels == value).mean() for value in (0, 1)])
    np.testing.assert_allclose(task.class_weights, (1 / share) / (1 / share).mean(), rtol=1e-6)
