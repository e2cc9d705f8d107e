"""Prediction in windows against a loop over windows and pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.tasks.windows import in_windows, starts
from tests import runs

CLASSES = 3


def draw(height, width):
    return np.random.default_rng(0).normal(size=(2, height, width, CLASSES)).astype(np.float32)


def by_place(images):
    """Logits that depend on a pixel's place in its window, as those of a network do near a border."""
    image = images["x"]
    place = jnp.arange(image.shape[1] * image.shape[2], dtype=jnp.float32).reshape(1, *image.shape[1:3], 1)
    return image + jnp.sin(place)


def slow(image, window, overlap):
    """One pixel at a time, in float64."""
    out, total = np.zeros(image.shape), np.zeros((1, *image.shape[1:3], 1))
    rows, columns = (min(window, side) for side in image.shape[1:3])
    for top in starts(image.shape[1], rows, overlap):
        for left in starts(image.shape[2], columns, overlap):
            for i in range(rows):
                for j in range(columns):
                    weight = (np.sin(np.pi * (i + 0.5) / rows) * np.sin(np.pi * (j + 0.5) / columns)) ** 2
                    out[:, top + i, left + j] += weight * (image[:, top + i, left + j] + np.sin(i * columns + j))
                    total[:, top + i, left + j] += weight
    return out / total


@pytest.mark.parametrize("height, width, window, overlap", [(20, 17, 8, 0.5), (9, 30, 12, 0.25), (16, 16, 8, 0.0)])
def test_windows_are_blended_by_their_weights(height, width, window, overlap):
    image = draw(height, width)
    blended = jax.jit(lambda x: in_windows(by_place, {"x": x}, CLASSES, window, overlap))(image)
    np.testing.assert_allclose(blended, slow(image, window, overlap), atol=1e-5)


@pytest.mark.parametrize("window", [0, 16, 40])
def test_a_window_that_covers_the_image_is_the_whole_image(window):
    image = draw(16, 12)
    np.testing.assert_array_equal(in_windows(by_place, {"x": image}, CLASSES, window, 0.5), by_place({"x": image}))


@pytest.mark.parametrize("size, window, overlap", [(512, 256, 0.5), (100, 32, 0.0), (33, 32, 0.9), (32, 32, 0.5)])
def test_windows_reach_both_borders_and_overlap(size, window, overlap):
    first = starts(size, window, overlap)
    assert first[0] == 0 and first[-1] == size - window
    assert all(0 < step <= round(window * (1 - overlap)) + 1 for step in np.diff(first))  # 1: starts are whole pixels


@pytest.mark.parametrize("changes", [{}, {"change": "difference", "inputs": "s1+s2", "sensor_dropout": 0.5}])
def test_a_task_predicts_in_windows(write_dataset, changes):
    folder = write_dataset(labels=True, two_dates=True)

    def predict(window):
        task, records = runs.open_run(runs.configure(folder, "water_weak", decoder="linear", window=window, **changes))
        batch = {name: np.stack([records[number][name] for number in range(2)]) for name in task.features}
        return jax.jit(task.predict)(*task.init(jax.random.key(0)), batch)

    whole, covered, parts = predict(0), predict(40), predict(24)
    jax.tree.map(np.testing.assert_array_equal, whole, covered)
    assert parts["prediction"].shape == (2, 40, 40) and (parts["prediction"] != whole["prediction"]).any()
    assert set(parts) == set(whole)
