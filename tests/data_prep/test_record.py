"""What `record.check` refuses, and in which words."""

import dataclasses
import math

import numpy as np
import pytest

from data_prep import record
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick

SPECS = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}


CLASSES = LabelSpec("pixel_classes", ("no", "yes"))


def with_images(pair, **images):
    return dataclasses.replace(pair, images=pair.images | images)


@pytest.fixture
def pair():
    random = np.random.default_rng(0)
    images = {"s1": random.integers(-3000, 0, (6, 6, 2), np.int16),
              "s2": random.integers(1, 9000, (6, 6, 12), np.uint16)}
    return record.Pair(id="p", images=images, times={"s1": 0}, location_id="here", lat=math.nan,
                       lon=3.0, source="test", s2_offset_removed=0, split="")


@pytest.fixture
def tile(pair):
    return record.Tile(id="t", images={"s1": pair.images["s1"]}, label=np.full((6, 6), 255, np.uint8), times={},
                       location_id="here", lat=0.0, lon=0.0, source="test", s2_offset_removed=0, split="")


def test_good_records_pass(pair, tile):
    record.check(pair, SPECS, 6)
    record.check(tile, {"s1": SPECS["s1"]}, 6, CLASSES)
    one_good_pixel = np.full((6, 6, 2), -32768, np.int16)
    one_good_pixel[0, 0] = -1000
    record.check(with_images(pair, s1=one_good_pixel), SPECS, 6)


@pytest.mark.parametrize("changes, message", [
    ({"s1": np.zeros((6, 6, 2), np.float32)}, "dtype of s1 is float32, expected int16"),
    ({"s1": np.zeros((6, 6), np.int16)}, r"shape of s1 is \[6, 6\], expected \[6, 6, 2\] for bands VV VH"),
    ({"s2": np.ones((6, 6, 13), np.uint16)}, r"shape of s2 is \[6, 6, 13\], expected \[6, 6, 12\]"),
    ({"s2": np.ones((4, 4, 12), np.uint16)}, r"size of s2 is \[4, 4\], expected that of s1, \[6, 6\]"),
    ({"s1": np.full((6, 6, 2), -32768, np.int16)}, r"s1 is without data in every pixel \(all NaN or no-data\)"),
    ({"s2": np.zeros((6, 6, 12), np.uint16)}, "s2 is without data"),
    ({"lat": 91.0}, "lat is 91.0"), ({"location_id": ""}, "id or location_id is empty"),
])
def test_bad_pairs_are_named(pair, changes, message):
    with pytest.raises(UserError, match=f"record 'p': {message}") as error:
        record.check(with_images(pair, **changes) if set(changes) <= {"s1", "s2"}
                     else dataclasses.replace(pair, **changes), SPECS, 6)
    assert "\n" not in str(error.value)


def test_wrong_size_for_the_data_set(pair):
    with pytest.raises(UserError, match=r"shape of s1 is \[6, 6, 2\], expected \[8, 8, 2\]"):
        record.check(pair, SPECS, 8)


@pytest.mark.parametrize("label, message", [
    (np.full((6, 6), 2, np.uint8), "label value is 2, expected 0..1 or 255"),
    (np.zeros((6, 6), np.int16), r"label is int16\[6, 6\], expected uint8\[6, 6\]"),
    (np.zeros((5, 6), np.uint8), r"label is uint8\[5, 6\]"),
])
def test_bad_labels_are_named(tile, label, message):
    with pytest.raises(UserError, match=f"record 't': {message}"):
        record.check(dataclasses.replace(tile, label=label), {"s1": SPECS["s1"]}, 6, CLASSES)


def test_missing_image_is_named(tile):
    with pytest.raises(UserError, match=r"set of images is \['s1'\], expected \['s1', 's2'\]"):
        record.check(tile, SPECS, 6, CLASSES)
