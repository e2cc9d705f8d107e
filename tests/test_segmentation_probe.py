"""The probe of pixels: bilinear features against a slow loop, learning what is there, and chance on shuffled labels."""

import numpy as np
import pytest

from dual_encoder.evaluation.segmentation_probe import STRENGTHS, Difference, LabelledMaps, segmentation_probe

pytestmark = pytest.mark.quick


def slow_bilinear(level, row, column, height, width):
    """Weights 1 - distance of the four nearest centres of cells, which are repeated beyond the border."""
    rows, columns, channels = level.shape
    y, x = (row + 0.5) * rows / height - 0.5, (column + 0.5) * columns / width - 0.5
    value = np.zeros(channels)
    for r in range(-1, rows + 1):
        for c in range(-1, columns + 1):
            weight = max(0.0, 1 - abs(y - r)) * max(0.0, 1 - abs(x - c))
            value += weight * level[min(max(r, 0), rows - 1), min(max(c, 0), columns - 1)]
    return value


def test_features_of_a_pixel_are_bilinear_in_each_level():
    rng = np.random.default_rng(0)
    maps = LabelledMaps((rng.random((2, 6, 8, 3)).astype(np.float16), rng.random((2, 2, 1, 2)).astype(np.float16)),
                        np.zeros((2, 12, 16), np.uint8), np.array([1, 0]))
    rows, columns = (index.ravel() for index in np.indices((12, 16)))
    found = maps.at(0, rows, columns)  # the second one
    assert found.shape == (192, 5) and found.dtype == np.float32
    for pixel in range(192):
        expected = np.concatenate([slow_bilinear(level[1].astype(np.float64), rows[pixel], columns[pixel], 12, 16)
                                   for level in maps.maps])
        np.testing.assert_allclose(found[pixel], expected, atol=1e-6)


def test_logits_of_cells_brought_to_the_pixels_are_those_of_the_pixels():
    maps = scene(3, 0)
    maps = maps._replace(maps=(*maps.maps, np.random.default_rng(1).random((3, 2, 2, 5)).astype(np.float16)))
    probe = segmentation_probe(maps, maps, 2).probe
    rows, columns = (index.ravel() for index in np.indices((16, 16)))
    for image in range(3):
        expected = maps.at(image, rows, columns) @ probe.weights + probe.bias
        # float32 sums of 7 features of order 1, with weights of order 10
        np.testing.assert_allclose(maps.logits(image, probe).reshape(256, 2), expected, atol=1e-4)


def test_the_difference_of_two_dates_is_made_image_by_image():
    after, before = np.random.default_rng(0).random((2, 3, 4, 4, 2)).astype(np.float16)
    found = Difference(after, before)
    assert found.shape == (3, 4, 4, 2) and found[1].dtype == np.float32
    np.testing.assert_array_equal(found[1], after[1].astype(np.float32) - before[1].astype(np.float32))


def scene(images, seed, shuffle=False, ignored=True):
    """Maps of half the size of the image, whose first channel is high where the label is 1."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 2, (images, 8, 8))
    labels = np.repeat(np.repeat(cells, 2, axis=1), 2, axis=2).astype(np.uint8)
    maps = np.stack([cells + 0.2 * rng.standard_normal(cells.shape), rng.random(cells.shape)], axis=-1)
    if shuffle:
        labels = rng.permutation(labels.ravel()).reshape(labels.shape)
    if ignored:
        labels[:, :3] = 255
    return LabelledMaps((maps.astype(np.float16),), labels, np.arange(images))


def accuracy(probe, test):
    right = [(probe.predict(test, image) == test.labels[image])[3:].mean() for image in range(len(test.labels))]
    return np.mean(right)


def test_a_probe_learns_what_is_in_the_maps_and_chance_from_shuffled_labels():
    test = scene(10, 3)
    good = segmentation_probe(scene(20, 1), scene(5, 2), 2)
    assert accuracy(good, test) > 0.85 and good.pixels == 20 * 208
    assert good.probe.strength in STRENGTHS
    shuffled = segmentation_probe(scene(20, 1, shuffle=True), scene(5, 2, shuffle=True), 2)
    assert abs(accuracy(shuffled, test) - 0.5) < 0.1


def test_a_class_that_is_nowhere_is_never_predicted_and_no_label_is_an_error():
    probe = segmentation_probe(scene(6, 1), scene(3, 2), 4)
    assert set(np.unique(probe.predict(scene(1, 3), 0))) <= {0, 1}
    empty = LabelledMaps(scene(2, 1).maps, np.full((2, 16, 16), 255, np.uint8), np.arange(2))
    with pytest.raises(ValueError, match="the validation images have no labelled pixel"):
        segmentation_probe(scene(6, 1), empty, 2)
