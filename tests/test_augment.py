"""On-device normalisation and augmentation against plain numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.augment import AugmentConfig, augment, record_keys
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import sensor

SENSORS = {"s1": sensor("s1_grd"), "s2": sensor("s2_l2a")}
OFF = AugmentConfig(crop=0, flips=False, turns=False, sar_gain_db=0.0, sar_looks=0, optical_brightness=0.0,
                    optical_contrast=0.0)


def images(batch=6, size=20):
    """Stored images whose first bands count the pixels, so that any motion can be read off."""
    rng = np.random.default_rng(0)
    s1 = rng.integers(-3000, 0, (batch, size, size, 2)).astype(np.int16)
    s2 = rng.integers(1, 9000, (batch, size, size, 12)).astype(np.uint16)
    s1[..., 0] = s2[..., 0] = np.arange(size * size).reshape(size, size)
    s1[:, 3, 4] = -32768
    label = np.broadcast_to((np.arange(size * size) % 251).astype(np.uint8).reshape(size, size), (batch, size, size))
    return {"s1": s1, "s2": s2, "label": label.copy()}


def augmented(batch, config, seed):
    rows = {name: jnp.asarray(array) for name, array in batch.items()}
    sensors = {name: spec for name, spec in SENSORS.items() if name in rows}
    return augment(rows, sensors, config, record_keys(jax.random.key(seed), len(next(iter(rows.values())))))


def plain(image, spec):
    values = (image.astype(np.float64) - np.array(spec.mean)) / np.array(spec.std)
    if spec.no_data is not None:
        values[(image == spec.no_data).all(-1)] = 0.0
    return values


def positions(crop, size):
    """Every outcome of crop, flip and quarter turn, as arrays of pixel numbers."""
    numbers = np.arange(size * size).reshape(size, size)
    for top in range(size - crop + 1):
        for left in range(size - crop + 1):
            window = numbers[top:top + crop, left:left + crop]
            for turns in range(4):
                for flipped in (window, window[:, ::-1]):
                    yield np.rot90(flipped, turns)


@pytest.mark.parametrize("name", ["s1", "s2"])
def test_normalise_equals_numpy_and_no_data_becomes_the_mean(name):
    image = images()[name]
    result = normalise(jnp.asarray(image), SENSORS[name])
    np.testing.assert_allclose(result, plain(image, SENSORS[name]), rtol=1e-5, atol=1e-6)
    assert result.dtype == jnp.float32
    if name == "s1":
        assert (np.asarray(result)[:, 3, 4] == 0).all()


def test_all_images_of_a_record_move_alike_to_a_valid_position():
    batch = images()
    config = dataclasses.replace(OFF, crop=18, flips=True, turns=True)
    out = augmented(batch, config, 0)
    allowed = {position.tobytes() for position in positions(18, 20)}
    seen = set()
    for row in range(len(batch["s1"])):
        spec = SENSORS["s2"]
        numbers = np.rint(np.asarray(out["s2"][row, ..., 0]) * spec.std[0] + spec.mean[0]).astype(np.int64)
        assert numbers.tobytes() in allowed
        seen.add(numbers.tobytes())
        rows, columns = np.divmod(numbers, 20)
        for name in ("s1", "s2"):
            expected = plain(batch[name][row], SENSORS[name])[rows, columns]
            np.testing.assert_allclose(out[name][row], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(out["label"][row], batch["label"][row][rows, columns])
    assert len(seen) == len(batch["s1"]), "every record has its own draw"


def test_all_eight_orientations_occur_equally_often():
    image = np.broadcast_to(np.arange(4, dtype=np.uint8).reshape(1, 2, 2), (4000, 2, 2))
    config = dataclasses.replace(OFF, flips=True, turns=True)
    out = np.asarray(augmented({"label": image}, config, 1)["label"]).reshape(-1, 4)
    counts = np.unique(out, axis=0, return_counts=True)[1]
    assert len(counts) == 8
    assert abs(counts - 500).max() < 5 * np.sqrt(500), "five standard deviations"


def test_a_row_does_not_depend_on_the_rows_beside_it():
    batch = {k: jnp.asarray(v) for k, v in images().items()}
    config = dataclasses.replace(OFF, crop=16, flips=True, turns=True, sar_gain_db=1.0, sar_looks=4,
                                 optical_brightness=0.2, optical_contrast=0.2)
    whole = augmented(batch, config, 0)
    part = augmented({k: v[:2] for k, v in batch.items()}, config, 0)
    for name in whole:
        np.testing.assert_array_equal(whole[name][:2], part[name])


def test_photometric_options_change_values_as_documented():
    flat = {"s1": jnp.full((500, 8, 8, 2), -1500, jnp.int16), "s2": jnp.full((500, 8, 8, 12), 2000, jnp.uint16)}

    def physical(config):
        out = augmented(flat, config, 0)
        return {k: np.asarray(v) * np.array(SENSORS[k].std) + np.array(SENSORS[k].mean) for k, v in out.items()}

    gain = physical(dataclasses.replace(OFF, sar_gain_db=1.0))["s1"] / 100 + 15
    assert np.ptp(gain, axis=(1, 2, 3)).max() < 1e-3, "one gain per image"
    assert abs(gain[:, 0, 0, 0].std() - 1.0) < 5 / np.sqrt(2 * 500)
    speckle = 10 ** (physical(dataclasses.replace(OFF, sar_looks=4))["s1"] / 1000 + 1.5)
    assert abs(speckle.mean() - 1.0) < 0.02 and abs(speckle.var() - 0.25) < 0.02, "mean 1, variance 1 / looks"
    bright = physical(dataclasses.replace(OFF, optical_brightness=0.2))["s2"] / 2000
    assert 0.8 <= bright.min() < 0.82 and 1.18 < bright.max() <= 1.2001
    contrast = physical(dataclasses.replace(OFF, optical_contrast=0.3))["s2"]
    np.testing.assert_allclose(contrast, 2000.0, rtol=1e-4)  # a flat image has no contrast to change
