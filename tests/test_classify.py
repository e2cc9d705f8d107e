"""Classification of whole images: scores against slow references, learning, and labels of the wrong kind."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dual_encoder.data.shapes import shapes
from dual_encoder.errors import UserError
from dual_encoder.evaluation.classification import average_precision, evaluate_classes, evaluate_single_class
from dual_encoder.runtime import mesh
from dual_encoder.tasks.build import build_without_weights
from tests import runs


def configure(variant="land_cover_small", **changes):
    return runs.configure("unread", variant, **changes)


def slow_average_precision(label, score):
    """By its definition: at each distinct score, precision and recall of all images of at least that score."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        chosen = score >= threshold
        recall = label[chosen].sum() / label.sum()
        total += (recall - recall_before) * label[chosen].mean()
        recall_before = recall
    return total


def test_average_precision_is_its_definition_with_ties():
    rng = np.random.default_rng(0)
    for _ in range(20):
        label, score = rng.integers(0, 2, 30), rng.integers(0, 8, 30) / 8
        label[0] = 1
        assert average_precision(label, score) == pytest.approx(slow_average_precision(label, score), abs=1e-12)
    assert average_precision(np.array([1, 0, 1]), np.array([0.9, 0.8, 0.7])) == pytest.approx(5 / 6)
    assert average_precision(np.zeros(3, int), np.ones(3)) is None


def test_scores_of_several_classes_by_hand():
    label = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0]])
    probability = np.array([[0.9, 0.6, 0.1], [0.4, 0.7, 0.2], [0.3, 0.8, 0.3]])
    scores = evaluate_classes(label, probability, ("a", "b", "c")).scores()
    assert scores["average_precision"] == {"a": 1.0, "b": 1.0, "c": None}
    assert scores["map"] == 1.0 and scores["support"] == {"a": 2, "b": 2, "c": 0}
    # a: 1 of 2 found; b: 2 found and 1 too many; c: none in either
    assert scores["f1"] == {"a": pytest.approx(2 / 3), "b": pytest.approx(4 / 5), "c": None}
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (4 + 4))
    table = evaluate_classes(label, probability, ("a", "b", "c")).tables[0]
    assert table.references[0].values[0] == pytest.approx(2 / 3), "the mean share of the two classes that occur"


def test_scores_of_one_class_by_hand():
    probability = np.eye(3)[[0, 1, 1, 0]]
    scores = evaluate_single_class(np.array([0, 1, 0, 0]), probability, ("a", "b", "c")).scores()
    assert scores["accuracy"] == 0.75 and scores["support"] == {"a": 3, "b": 1, "c": 0}
    assert scores["f1"] == {"a": pytest.approx(4 / 5), "b": pytest.approx(2 / 3), "c": None}


@pytest.mark.parametrize("kind", ["image_class", "image_classes"])
def test_loss_and_gradient_reach_every_part(kind):
    config = configure(batch_size=4)
    records = shapes(40, ("s1_grd", "s2_l2a"), classes=3, kind=kind)
    task = build_without_weights(config, records, mesh.make(jax.devices()[:1]))
    params, stats = task.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(1, 900, (4, 40, 40, len(spec.bands))).astype(spec.dtype)
             for name, spec in task.sensors.items()}
    batch["label"] = np.array([0, 2, 1, 1], np.int32)
    if kind == "image_classes":
        batch["label"] = np.eye(3, dtype=np.uint8)[batch["label"]]
    (loss, (_, metrics)), gradients = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
        params, stats, batch, jax.random.key(1))
    assert np.isfinite(loss) and 0 <= metrics["accuracy"] <= 1
    for name in ("s1_encoder", "s2_encoder", "classifier"):
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients[name])), name
    output = jax.jit(task.predict)(params, stats, batch)
    assert output["probability"].shape == (4, 3)
    if kind == "image_class":
        np.testing.assert_allclose(output["probability"].sum(axis=1), 1, rtol=1e-5)


def test_a_fused_classifier_is_scored_with_each_sensor_alone():
    task = build_without_weights(configure(sensor_dropout=0.5, batch_size=4),
                                 shapes(40, ("s1_grd", "s2_l2a"), 3, "image_class"), mesh.make(jax.devices()[:1]))
    variables, random = task.init(jax.random.key(0)), np.random.default_rng(0)
    batch = {name: random.integers(1, 900, (4, 40, 40, len(spec.bands))).astype(spec.dtype)
             for name, spec in task.sensors.items()} | {"label": np.array([0, 1, 2, 0], np.int32)}
    output = jax.device_get(jax.jit(task.predict)(*variables, batch))
    alone = jax.jit(lambda *given: task.predict(*given, available=("s2",)))(
        *variables, {"s2": batch["s2"], "label": batch["label"]})
    np.testing.assert_allclose(alone["probability"], output["probability_s2"], rtol=1e-5)
    assert np.abs(output["probability_s2"] - output["probability"]).max() > 1e-3
    records = SimpleNamespace(ids=list("abcd"), location_ids=list("efgh"))
    tables = task.evaluate(iter([(np.arange(4), output)]), records).tables
    accuracy = (output["probability_s1"].argmax(axis=1) == batch["label"]).mean()
    assert tables[-1].value("s1", "accuracy") == accuracy and tables[-1].name == "classification_alone"


@pytest.mark.parametrize("fusion, encoders", [("late", ("s1_encoder", "s2_encoder")), ("early", ("s1_s2_encoder",))])
def test_frozen_encoders_get_no_gradient(fusion, encoders):
    task = build_without_weights(configure(frozen=True, fusion=fusion),
                                 shapes(40, ("s1_grd", "s2_l2a"), 3, "image_class"), mesh.make(jax.devices()[:1]))
    assert task.frozen == encoders
    params, stats = task.init(jax.random.key(0))
    batch = {"s1": np.ones((2, 40, 40, 2), np.int16), "s2": np.ones((2, 40, 40, 12), np.uint16),
             "label": np.array([0, 1], np.int32)}
    gradients = jax.jit(jax.grad(task.loss, has_aux=True))(params, stats, batch, jax.random.key(1))[0]
    assert not any(np.any(leaf != 0) for leaf in jax.tree.leaves([gradients[name] for name in encoders]))


def test_labels_of_another_kind_are_one_line():
    devices = mesh.make(jax.devices()[:1])
    pixels, images = (shapes(40, ("s1_grd", "s2_l2a"), 3, kind) for kind in ("pixel_classes", "image_class"))
    with pytest.raises(UserError, match="of kind 'pixel_classes', classification needs one of image_class"):
        build_without_weights(configure(), pixels, devices)
    with pytest.raises(UserError, match="of kind 'image_class', segmentation needs a class for each pixel"):
        build_without_weights(configure("water_weak"), images, devices)
    nothing = dataclasses.replace(images, info=dataclasses.replace(images.info, label=None))
    with pytest.raises(UserError, match="of kind 'none'"):
        build_without_weights(configure(), nothing, devices)
