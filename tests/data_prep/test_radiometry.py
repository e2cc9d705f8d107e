"""Radiometry against loops over pixels."""

import math

import numpy as np
import pytest

from dual_encoder.errors import UserError
from dual_encoder.imagery import radiometry
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick


def test_linear_to_db():
    power = np.array([[1.0, 0.1, 100.0], [0.0, -1.0, np.nan], [np.inf, 1e-5, 2.0]], np.float32)
    expected = [[10 * math.log10(value) if 0 < value < math.inf else math.nan for value in row] for row in power]
    result = radiometry.linear_to_db(power)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_db_to_int16_by_pixel():
    random = np.random.default_rng(0)
    db = random.normal(-15, 8, (9, 7, 2)).astype(np.float32)
    db[0, 0, 0], db[1, 1, 1], db[2, 2], db[3, 3, 0] = np.nan, np.inf, -np.inf, 400.0
    db[4, 4] = -327.68  # would be the no-data value
    result = radiometry.db_to_int16(db)
    assert result.dtype == np.int16
    for y in range(9):
        for x in range(7):
            if all(math.isfinite(value) for value in db[y, x]):
                expected = [min(max(round(float(value) * 100), -32767), 32767) for value in db[y, x]]
            else:
                expected = [-32768, -32768]
            assert result[y, x].tolist() == expected, (y, x)
    assert (result[0, 0] == -32768).all() and result[3, 3, 0] == 32767 and result[4, 4, 0] == -32767


def test_offset_leaves_no_data_and_makes_none():
    dn = np.array([[[0, 0, 0], [0, 1500, 900]], [[1000, 1001, 1000], [500, 20000, 65535]]], np.uint16)
    plain = radiometry.remove_s2_offset(dn, 0)
    np.testing.assert_array_equal(plain, dn)
    result = radiometry.remove_s2_offset(dn, 1000)
    assert result.dtype == np.uint16
    # No data stays 0 in all bands, and a pixel with a 0 in one band lies at an edge. A dark band of a valid pixel
    # becomes 1, not 0 and not 64536.
    assert result.tolist() == [[[0, 0, 0], [0, 0, 0]], [[1, 1, 1], [1, 19000, 64535]]]
    for dtype in (np.int16, np.int32, np.int64, np.uint8):
        small = np.array([[[0, 9], [200, 7]]], dtype)
        assert radiometry.remove_s2_offset(small, 1000).tolist() == [[[0, 0], [1, 1]]]


def test_upsample_native_by_pixel():
    band = np.arange(9, dtype=np.uint16).reshape(3, 3)
    result = radiometry.upsample_native(band, 12)
    assert result.dtype == np.uint16
    assert all(result[y, x] == band[y // 4, x // 4] for y in range(12) for x in range(12))
    with pytest.raises(UserError, match="band of 3x3 pixels does not fill 10x10"):
        radiometry.upsample_native(band, 10)
    with pytest.raises(UserError, match="band of 2x3"):
        radiometry.upsample_native(band[:2], 6)


def _slow_label(pixel, spec):
    green, red, nir, swir = (float(pixel[spec.bands.index(band)]) for band in ("B03", "B04", "B08", "B11"))
    if all(value == 0 for value in pixel):
        return 255
    ndwi, mndwi = (green - nir) / (green + nir), (green - swir) / (green + swir)
    if ndwi > 0 and mndwi > 0 and nir * 1e-4 <= 0.11:
        return 1
    return 2 if (nir - red) / (nir + red) >= 0.5 else 0


@pytest.mark.parametrize("sensor", ["s2_l2a", "s2_l1c"])
def test_weak_water_labels_by_pixel(sensor):
    spec = SENSORS[sensor]
    s2 = np.random.default_rng(1).integers(1, 3000, (20, 20, len(spec.bands)), np.uint16)
    s2[0, :3] = 0
    label = radiometry.weak_water_labels(s2, spec)
    assert label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 1, 2, 255}
    for y in range(20):
        for x in range(20):
            assert label[y, x] == _slow_label(s2[y, x], spec), (y, x)


def test_snow_is_not_water():
    spec = SENSORS["s2_l2a"]
    snow, lake = np.full((1, 1, 12), 800, np.uint16), np.full((1, 1, 12), 300, np.uint16)
    for band, value in (("B03", 9000), ("B04", 9000), ("B08", 8500)):
        snow[..., spec.bands.index(band)] = value
    lake[..., spec.bands.index("B03")] = 700
    assert radiometry.weak_water_labels(snow, spec) == 0 and radiometry.weak_water_labels(lake, spec) == 1


def test_weak_water_labels_need_their_bands():
    with pytest.raises(UserError, match="sensor 'ombria_s2' lacks B04"):
        radiometry.weak_water_labels(np.zeros((2, 2, 3), np.uint8), SENSORS["ombria_s2"])


def test_weak_water_labels_find_a_real_lake_and_a_real_forest(real_pairs):
    spec = SENSORS["s2_l2a"]
    labels = [radiometry.weak_water_labels(np.moveaxis(s2, 0, -1), spec) for s2 in real_pairs["s2"]]
    water = [float((label == 1).mean()) for label in labels]
    # Radar knows nothing of the indices: what they call water is darker than the land around it by several dB.
    wettest = int(np.argmax(water))
    vv = real_pairs["s1_cdb"][wettest][real_pairs["s1_bands"].tolist().index("VV")] / 100
    assert 0.05 < water[wettest] < 0.9
    assert vv[labels[wettest] == 1].mean() < vv[labels[wettest] != 1].mean() - 4
