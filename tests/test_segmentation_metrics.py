"""Segmentation scores against counts in Python loops."""

import numpy as np
import pytest

from dual_encoder.errors import UserError
from dual_encoder.evaluation.segmentation import (
    confusion_matrix,
    evaluate_segmentation,
    segmentation_panels,
    segmentation_scores,
    segmentation_tables,
)
from dual_encoder.evaluation.table import scores as scores_of
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick


def tiles(count=3, classes=4, seed=0):
    """Labels with ignored pixels and predictions that are right about half the time, uint8 [count, 9, 7]."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, (count, 9, 7)).astype(np.uint8)
    prediction = np.where(rng.random(label.shape) < 0.5, label, rng.integers(0, classes, label.shape)).astype(np.uint8)
    label[rng.random(label.shape) < 0.2] = 255
    return label, prediction


def slow_scores(label, prediction, names):
    pixels = [(int(a), int(b)) for a, b in zip(label.ravel(), prediction.ravel(), strict=True) if a != 255]
    iou, f1, precision, recall, support = {}, {}, {}, {}, {}
    for c, name in enumerate(names):
        both = sum(a == c and b == c for a, b in pixels)
        either = sum(a == c or b == c for a, b in pixels)
        labelled, predicted = sum(a == c for a, b in pixels), sum(b == c for a, b in pixels)
        iou[name] = both / either if either else None
        f1[name] = 2 * both / (labelled + predicted) if labelled + predicted else None
        precision[name] = both / predicted if predicted else None
        recall[name] = both / labelled if labelled else None
        support[name] = labelled
    present = [v for v in iou.values() if v is not None]
    return {"miou": sum(present) / len(present), "accuracy": sum(a == b for a, b in pixels) / len(pixels),
            "iou": iou, "f1": f1, "precision": precision, "recall": recall, "support": support}


def test_matrix_counts_labels_in_rows():
    label, prediction = np.array([0, 0, 1, 255, 2]), np.array([0, 1, 1, 2, 0])
    assert confusion_matrix(label, prediction, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert confusion_matrix(label, prediction, 3).dtype == np.int64


def test_scores_equal_the_slow_reference():
    label, prediction = tiles()
    label[label == 2], prediction[prediction == 2] = 0, 3  # class 2 occurs in neither
    names = ("land", "water", "snow", "forest")
    ours = segmentation_scores(confusion_matrix(label, prediction, 4), names)
    slow = slow_scores(label, prediction, names)
    assert ours.keys() == slow.keys() and slow["iou"]["snow"] is None
    for key, value in slow.items():
        assert ours[key] == pytest.approx(value), key


def test_a_class_that_is_only_predicted_counts_in_the_mean():
    scores = segmentation_scores(np.array([[6, 2], [0, 0]]), ("land", "water"))
    assert scores["iou"] == {"land": 0.75, "water": 0} and scores["miou"] == 0.375
    assert scores["support"] == {"land": 8, "water": 0}


def test_parts_add_up_to_the_whole():
    label, prediction = tiles(count=6, classes=3)
    parts = [confusion_matrix(label[i:i + 1], prediction[i:i + 1], 3) for i in range(6)]
    assert np.array_equal(sum(parts), confusion_matrix(label, prediction, 3))


def test_the_mean_over_batches_is_another_number():
    dry, flooded = np.array([[98, 2], [0, 0]]), np.array([[40, 5], [5, 50]])  # 2 false alarms make the dry one's IoU 0
    names = ("land", "water")
    per_batch = np.mean([segmentation_scores(matrix, names)["iou"]["water"] for matrix in (dry, flooded)])
    assert per_batch == pytest.approx(50 / 60 / 2)
    assert segmentation_scores(dry + flooded, names)["iou"]["water"] == pytest.approx(50 / 62)


def test_nothing_but_ignored_pixels_gives_no_figure():
    label = np.full((4, 4), 255, np.uint8)
    scores = segmentation_scores(confusion_matrix(label, np.zeros((4, 4), np.uint8), 2), ("land", "water"))
    assert scores["miou"] is None and scores["accuracy"] is None and scores["f1"] == {"land": None, "water": None}


def test_large_counts_do_not_overflow():
    matrix = np.array([[3, 1], [1, 3]], np.int64) * 10**17
    assert segmentation_scores(matrix, ("a", "b"))["miou"] == pytest.approx(0.6)


@pytest.mark.parametrize(("label", "prediction", "message"), [
    ([0, 7], [0, 1], "label holds the value 7; expected classes 0 to 1"),
    ([0, -1], [0, 1], "label holds the value -1"),
    ([0, 1], [0, 2], "prediction holds the value 2"),
    ([0, 1], [0, 255], "prediction holds the value 255"),
    ([0, 1], [0], r"label has shape \[2\], prediction \[1\]"),
])
def test_values_that_are_no_class_are_refused(label, prediction, message):
    with pytest.raises(UserError, match=message):
        confusion_matrix(np.array(label), np.array(prediction), 2)


def test_panels_show_input_label_and_prediction():
    spec = SENSORS["ombria_s2"]
    image = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    label = np.zeros((16, 16), np.uint8)
    label[:8] = 255
    picture = np.asarray(segmentation_panels([[image]] * 2, [label] * 2, [np.ones_like(label)] * 2, spec,
                                             ("land", "water")))
    step, top = 192 + 4, 21  # below the titles
    assert picture.shape == (top + 2 * step + 4, 3 * step + 4 + 190, 3)  # with the legend
    ignored = picture[top + 4:top + 100, step + 4:2 * step].reshape(-1, 3)
    assert {tuple(pixel) for pixel in ignored.tolist()} == {(255, 255, 255), (0, 0, 0)}  # the hatch
    assert picture[top + step - 10, step + 10].tolist() == [196, 178, 142]  # class 0
    assert picture[top + 10, 2 * step + 10].tolist() == [33, 102, 200]  # class 1
    assert (picture[:top, :3 * step] < 100).any() and (picture[top:, 3 * step + 4:] == (33, 102, 200)).all(-1).any()


def test_the_tables_hold_the_scores():
    names = ("land", "water", "snow")
    scores = segmentation_scores(np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]]), names)
    tables = segmentation_tables(scores)
    assert scores_of(tables) == scores and [*scores_of(tables)] == [*scores]
    assert tables[1].rows[1].values == (0.5, 6 / 9, 3 / 5, 3 / 4, 4, 4 / 12)
    assert tables[1].rows[2].values == (None, None, None, None, 0, 0)
    assert tables[0].references[0].values == (8 / 12 / 2, 8 / 12), "8 of 12 pixels are land; water's IoU is 0"
    assert tables[0].headlines[0].title == "mean IoU of 3 classes" and tables[1].class_colours
    nothing = segmentation_scores(np.zeros((3, 3), int), names)
    assert scores_of(segmentation_tables(nothing)) == nothing


def test_evaluation_is_the_tables_and_their_picture():
    label = np.zeros((16, 16), np.uint8)
    image = np.zeros((16, 16, 3), np.uint8)
    evaluation = evaluate_segmentation(np.array([[6, 2], [1, 3]]), ("land", "water"), [[image, image]], [label],
                                       [label], SENSORS["ombria_s2"], ("before", "after"))
    assert evaluation.scores()["support"] == {"land": 8, "water": 4}
    assert [*evaluation.images] == [evaluation.tables[1].pictures[0].name]
    assert evaluation.images["segmentation_panels"].width == 4 * (192 + 4) + 4 + 190
    assert evaluation.tables[1].pictures[0].caption.startswith("Each row: before, after, label")
