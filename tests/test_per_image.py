"""Scores computed from what each image adds: those of scikit-learn and of the evaluations, with weights of images."""

import numpy as np
import pytest
from sklearn import metrics

from dual_encoder.evaluation.classification import evaluate_classes, image_values
from dual_encoder.evaluation.per_image import PerImage
from dual_encoder.evaluation.segmentation import confusion_matrix, segmentation_scores

pytestmark = pytest.mark.quick
CLASSES = ("dry", "flood", "cloud")
ROUNDING = 1e-9  # the stated agreement with scikit-learn


def pixels(images=12, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, (images, 8, 8))
    guess = np.where(rng.random(label.shape) < 0.6, label, rng.integers(0, 3, label.shape))
    values = np.array([confusion_matrix(a, b, 3).ravel() for a, b in zip(label, guess, strict=True)], np.float64)
    names = tuple(f"i{i}" for i in range(images))
    return label, guess, PerImage("counts", CLASSES, names, names, values)


def several(images=40, seed=0):
    rng = np.random.default_rng(seed)
    label = (rng.random((images, 3)) < (0.5, 0.3, 0.1)).astype(np.uint8)
    probability = np.round(np.clip(label * 0.3 + 0.7 * rng.random((images, 3)), 0, 1), 1)  # many equal ones
    names = tuple(f"i{i}" for i in range(images))
    kind, values = image_values(label, probability)
    return label, probability, PerImage(kind, CLASSES, names, names, values)


def repeated(counts, *arrays):
    return [np.repeat(array, counts, axis=0) for array in arrays]


@pytest.mark.parametrize("metric, reference", [
    ("iou/flood", lambda y, p: metrics.jaccard_score(y, p, average=None)[1]),
    ("miou", lambda y, p: metrics.jaccard_score(y, p, average="macro")),
    ("f1/cloud", lambda y, p: metrics.f1_score(y, p, average=None)[2]),
    ("macro_f1", lambda y, p: metrics.f1_score(y, p, average="macro")),
    ("accuracy", metrics.accuracy_score)])
def test_scores_of_counts_are_those_of_scikit_learn_on_the_images_that_were_drawn(metric, reference):
    label, guess, table = pixels()
    weights = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), 5)
    got = table.score(metric)(table.values, weights.astype(np.float64))
    for counts, value in zip(weights, got, strict=True):
        y, p = repeated(counts, label, guess)
        assert value == pytest.approx(reference(y.ravel(), p.ravel()), abs=ROUNDING)


@pytest.mark.parametrize("metric, reference", [
    ("map", lambda y, p: metrics.average_precision_score(y, p, average="macro")),
    ("micro_f1", lambda y, p: metrics.f1_score(y, p >= 0.5, average="micro"))])
def test_scores_of_probabilities_are_those_of_scikit_learn_on_the_images_that_were_drawn(metric, reference):
    label, probability, table = several()
    weights = np.random.default_rng(2).multinomial(40, np.full(40, 1 / 40), 5)
    got = table.score(metric)(table.values, weights.astype(np.float64))
    for counts, value in zip(weights, got, strict=True):
        assert value == pytest.approx(reference(*repeated(counts, label, probability)), abs=ROUNDING)


def test_the_whole_split_has_the_scores_of_its_evaluation():
    label, guess, table = pixels()
    whole = segmentation_scores(confusion_matrix(label, guess, 3), CLASSES)
    assert table.score("miou")(table.values, np.ones((1, 12)))[0] == pytest.approx(whole["miou"], abs=ROUNDING)
    label, probability, table = several()
    scores = evaluate_classes(label, probability, CLASSES).scores()
    for metric in ("map", "micro_f1"):
        assert table.score(metric)(table.values, np.ones((1, 40)))[0] == pytest.approx(scores[metric], abs=ROUNDING)


def test_a_table_is_read_as_it_was_written_and_another_one_is_refused():
    for table in (pixels()[2], several()[2]):
        again = PerImage.from_csv(table.to_csv(), table.kind, CLASSES)
        assert (again.ids, again.places) == (table.ids, table.places)
        np.testing.assert_allclose(again.values, table.values, rtol=1e-8)
    with pytest.raises(ValueError, match=r"the head of the table is \['id', 'location_id', 'label dry'"):
        PerImage.from_csv(table.to_csv(), "counts", CLASSES)
    with pytest.raises(ValueError, match="there is no metric 'iou/water'; valid: miou, macro_f1, accuracy, iou/dry"):
        pixels()[2].score("iou/water")


def test_a_class_that_is_nowhere_counts_for_nothing():
    _, _, table = pixels()
    values = table.values.reshape(-1, 3, 3).copy()
    values[:, 2] = values[:, :, 2] = 0
    ones = np.ones((1, 12))
    values = values.reshape(-1, 9)
    assert np.isnan(table.score("iou/cloud")(values, ones)[0])
    both = [table.score(f"iou/{name}")(values, ones)[0] for name in ("dry", "flood")]
    assert table.score("miou")(values, ones)[0] == pytest.approx(np.mean(both))
