"""On-device normalisation and augmentation against plain numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.augment import AugmentConfig, _window, augment, record_keys
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import sensor

SENSORS = {"s1": sensor("s1_grd"), "s2": sensor("s2_l2a")}
OFF = AugmentConfig(crop=0, min_area=0.0, shared_crop=True, flips=False, turns=False, sar_gain_db=0.0,
                    sar_band_gain_db=0.0, sar_looks=0, optical_brightness=0.0, optical_band_gain=0.0,
                    optical_contrast=0.0, blur=0.0, to_grey=0.0, drop_band=0.0)


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

    def program(rows):
        return augment(rows, sensors, config, record_keys(jax.random.key(seed), len(next(iter(rows.values())))))

    return jax.jit(program)(rows)


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


def triangle(image, valid, corner, size, side):
    """A window resampled to `side` pixels, weight by weight: a triangle as wide as the larger of both pixels."""
    out, total = np.zeros((side, side, image.shape[2])), np.zeros((side, side, 1))
    weights = []
    for axis in (0, 1):
        step = size[axis] / side
        centres = corner[axis] + (np.arange(side) + 0.5) * step - 0.5
        distance = np.abs(centres[:, None] - np.arange(image.shape[axis])) / max(step, 1.0)
        weight = np.maximum(0.0, 1.0 - distance)
        weights.append(weight / weight.sum(axis=1, keepdims=True))
    for row in range(side):
        for column in range(side):
            weight = np.outer(weights[0][row], weights[1][column])[..., None] * valid
            out[row, column] = (weight * image).sum(axis=(0, 1))
            total[row, column] = weight.sum(axis=(0, 1))
    return out / np.maximum(total, 1e-6), total >= 0.5


@pytest.mark.parametrize("crop", [9, 26])
def test_a_window_is_resampled_with_antialiasing_and_without_pixels_that_hold_no_data(crop):
    batch = images(size=20)
    batch["s2"][:, 5:9, 5:9] = 0
    config = dataclasses.replace(OFF, crop=crop, min_area=0.2)
    out = augmented(batch, config, 3)
    keys = jax.vmap(lambda k: jax.random.fold_in(k, 0))(record_keys(jax.random.key(3), 6))
    window = jax.jit(lambda key: _window(20, 20, 0.2, key))
    for row in range(6):
        corner, size = (np.asarray(v, np.float64) for v in window(keys[row]))
        for name in ("s1", "s2"):
            spec, image = SENSORS[name], batch[name][row].astype(np.float64)
            valid = (batch[name][row] != spec.no_data).any(axis=-1, keepdims=True)
            power = 10 ** (image * spec.scale / 10) if name == "s1" else image
            moved, there = triangle(power * valid, valid, corner, size, crop)
            stored = 10 * np.log10(np.maximum(moved, 1e-10)) / spec.scale if name == "s1" else moved
            expected = np.where(there, (stored - np.array(spec.mean)) / np.array(spec.std), 0.0)
            sure = np.abs(np.asarray(out[name][row]) - expected) < 1e-3  # float32, values of up to 9000 with std 1100
            assert sure.mean() > 0.999 if there.all() else sure.mean() > 0.98  # a weight of one half, rounded
        at = [np.clip((corner[axis] + (np.arange(crop) + 0.5) * size[axis] / crop).astype(int), 0, 19)
              for axis in (0, 1)]
        np.testing.assert_array_equal(out["label"][row], batch["label"][row][np.ix_(*at)])


def test_windows_have_the_stated_area_and_stay_inside():
    keys = record_keys(jax.random.key(0), 2000)
    corners, sizes = jax.jit(jax.vmap(lambda k: _window(100, 100, 0.2, k)))(keys)
    corners, sizes = np.asarray(corners), np.asarray(sizes)
    assert corners.min() >= 0 and (corners + sizes).max() <= 100 + 1e-3
    area = sizes.prod(axis=1) / 1e4
    assert area.min() > 0.15 and area.max() <= 1.0 + 1e-6
    assert abs(area.mean() - 0.58) < 0.03, "0.6 for uniform shares, a little less by windows cut at the edge"
    ratio = sizes[:, 0] / sizes[:, 1]
    assert 0.74 < ratio.min() and ratio.max() < 1.34


def test_images_move_apart_when_the_crop_is_not_shared():
    batch = images(batch=200)
    config = dataclasses.replace(OFF, crop=10, flips=True, turns=True, shared_crop=False)
    out = augmented({name: batch[name] for name in ("s1", "s2")}, config, 0)
    first, second = (np.rint(np.asarray(out[name][..., 0]) * SENSORS[name].std[0] + SENSORS[name].mean[0])
                     for name in ("s1", "s2"))
    alike = (first == second).all(axis=(1, 2)).mean()
    assert alike < 0.05, "11 x 11 windows in 8 orientations"


def test_band_gains_differ_between_bands_of_an_image():
    flat = {"s1": jnp.full((500, 4, 4, 2), -1500, jnp.int16), "s2": jnp.full((500, 4, 4, 12), 2000, jnp.uint16)}
    out = augmented(flat, dataclasses.replace(OFF, sar_band_gain_db=1.0, optical_band_gain=0.2), 0)
    physical = {k: np.asarray(v) * np.array(SENSORS[k].std) + np.array(SENSORS[k].mean) for k, v in out.items()}
    gain = physical["s1"][:, 0, 0] / 100 + 15
    assert abs(gain.std() - 1) < 5 / np.sqrt(2 * 1000) and abs(np.corrcoef(gain.T)[0, 1]) < 5 / np.sqrt(500)
    share = physical["s2"][:, 0, 0] / 2000
    assert 0.8 <= share.min() < 0.81 and 1.19 < share.max() <= 1.2001
    assert np.ptp(share, axis=1).min() > 0.02, "one draw per band"


def test_radar_stored_as_grey_levels_gets_the_options_of_optical_images():
    spec = sensor("ombria_s1")
    flat = jnp.full((300, 4, 4, 1), 100, jnp.uint8)
    config = dataclasses.replace(OFF, optical_brightness=0.2, sar_gain_db=3.0, sar_looks=4)
    keys = record_keys(jax.random.key(0), 300)
    out = jax.jit(lambda flat: augment({"s1": flat}, {"s1": spec}, config, keys)["s1"])(flat)
    grey = np.asarray(out) * spec.std[0] + spec.mean[0]
    assert 80 <= grey.min() < 82 and 118 < grey.max() <= 120.01


def test_blur_is_a_gaussian_of_the_pixels_with_data():
    batch = {"s2": images(batch=1, size=16)["s2"]}
    batch["s2"][:, 4:7, 4:7] = 0
    before, after = (np.asarray(augmented(batch, dataclasses.replace(OFF, blur=share), 0)["s2"][0], np.float64)
                     for share in (0.0, 1.0))
    valid = (batch["s2"][0] != 0).any(axis=-1)
    assert (after[~valid] == 0).all()
    rows, columns = np.mgrid[:16, :16]

    def blurred(sigma):
        out = np.zeros_like(before)
        for row in range(16):
            for column in range(16):
                weight = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * sigma**2)) * valid
                out[row, column] = (weight[..., None] * before).sum(axis=(0, 1)) / weight.sum()
        return out * valid[..., None]

    keys = record_keys(jax.random.key(0), 1)
    for number in (1, 3, 0):  # of the first image, of blur, of its sigma
        keys = jax.vmap(lambda k, n=number: jax.random.fold_in(k, n))(keys)
    sigma = float(jax.random.uniform(keys[0], (), minval=0.1, maxval=2.0))
    np.testing.assert_allclose(after, blurred(sigma), atol=1e-4)


def test_grey_and_dropped_bands_happen_as_often_as_stated():
    batch = {"s2": images(batch=400, size=6)["s2"]}
    plain_images = np.asarray(augmented(batch, OFF, 0)["s2"])
    grey = np.asarray(augmented(batch, dataclasses.replace(OFF, to_grey=0.3), 0)["s2"])
    is_grey = np.ptp(grey, axis=-1).max(axis=(1, 2)) < 1e-6
    assert abs(is_grey.mean() - 0.3) < 5 * np.sqrt(0.21 / 400)
    np.testing.assert_allclose(grey[is_grey][..., 0], plain_images[is_grey].mean(axis=-1), atol=1e-5)
    np.testing.assert_array_equal(grey[~is_grey], plain_images[~is_grey])
    dropped = np.asarray(augmented(batch, dataclasses.replace(OFF, drop_band=0.5), 0)["s2"])
    gone = (dropped == 0).all(axis=(1, 2))
    assert set(gone.sum(axis=1)) == {0, 1} and gone.any(axis=0).all(), "one band at most, each of them"
    assert abs(gone.any(axis=1).mean() - 0.5) < 5 * np.sqrt(0.25 / 400)
    np.testing.assert_array_equal(dropped[~gone.any(axis=1)], plain_images[~gone.any(axis=1)])


def test_options_with_a_window_do_not_depend_on_the_rows_beside_it():
    batch = images()
    config = dataclasses.replace(OFF, crop=16, min_area=0.3, flips=True, turns=True, shared_crop=False,
                                 sar_band_gain_db=1.0, optical_band_gain=0.2, blur=0.5, to_grey=0.3, drop_band=0.5)
    whole, part = augmented(batch, config, 0), augmented({k: v[:2] for k, v in batch.items()}, config, 0)
    for name in whole:
        np.testing.assert_allclose(whole[name][:2], part[name], atol=1e-4)  # sums of another vector width
