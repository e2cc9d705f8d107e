"""geotiff.json is checked whole: each fault is told, all of them in one message, never a traceback."""

import copy
import json

import numpy as np
import pytest

from data_prep import importers
from data_prep.importers import _geotiff_json
from data_prep.importers._geotiff_labels import parse_labels
from dual_encoder.errors import UserError
from tests.data_prep.geotiff_writing import S1, S2, SIZE, decibels, describe, digital_numbers, pair, read, tif

pytestmark = pytest.mark.quick

WHOLE = {"size": 16, "s1": S1, "s2": S2, "label": {"classes": {"land": 0, "water": 1}, "ignore": [255]},
         "licence": "CC0", "attribution": "me"}
IMAGE = WHOLE | {"label": {"kind": "image_classes", "table": "labels.csv", "classes": {"land": 0, "water": [1]}}}
STRANGE = [None, True, False, 0, -1, 1.5, 1e400, "", "x", "16", [], [[]], [None], [1, 1], {}, {"": None},
           {"a": {"b": []}}, 2**70, ["VV", "VV"], ["\ud800"], {"VV": 1}, {"VV": "a", "VH": "a"},
           [{"name": "a"}], float("nan"), "nan"]


def layout(raw):
    return importers.load("geotiff").layout("tiles", raw)


def places(value, path=()):
    """Yields the path of each value in a description."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


@pytest.mark.parametrize("whole, path", [(whole, path) for whole in (WHOLE, IMAGE) for path in places(whole)
                                         if whole is WHOLE or path[0] == "label"], ids=str)
def test_each_wrong_value_is_one_line_or_works(tmp_path, whole, path):
    (tmp_path / "s1").mkdir()
    for strange in STRANGE:
        said = copy.deepcopy(whole)
        *parents, last = path
        target = said
        for key in parents:
            target = target[key]
        target[last] = strange
        (tmp_path / "geotiff.json").write_text(json.dumps(said))
        try:
            found = layout(tmp_path)
            importers.open_raw("geotiff", tmp_path, "tiles", {f: names[0] for f, names in found.sensors.items()})
        except UserError as error:
            assert "geotiff.json" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("top", [[], None, 3, "size", True])
def test_a_description_that_is_no_object_is_told(tmp_path, top):
    (tmp_path / "geotiff.json").write_text(json.dumps(top))
    with pytest.raises(UserError, match="geotiff.json': it is no JSON object but"):
        layout(tmp_path)


def test_all_faults_are_in_one_message(tmp_path):
    describe(tmp_path, size="16", s1=S1 | {"unit": "dBm", "bands": ["VV", "HV"], "no_data": "0"}, s2=[], licence=7,
             sise=3, label={"classes": {"land": 0, "water": 0}, "ignore": "no"})
    with pytest.raises(UserError) as error:
        layout(tmp_path)
    for part in ("has 9 faults: (1) ", "unknown key 'sise'; did you mean 'size'?", "size is '16'", "s1.unit is 'dBm'",
                 "s1.bands: the bands VV HV lack VH", "s1.no_data is '0'", "s2 is no JSON object but []",
                 "licence is 7", "label.ignore is 'no'"):
        assert part in str(error.value), part
    assert "s2.offset" not in str(error.value)  # it would follow from another


def test_before_the_first_file_is_opened(tmp_path, monkeypatch):
    describe(tmp_path, {"s1": "gone.tif", "s2": "gone.tif"}, s1=S1 | {"product": 3}, s2=S2)
    monkeypatch.setattr("dual_encoder.imagery.raster.load", None)
    with pytest.raises(UserError, match="s1.product is 3, expected one of 'grd', 'rtc'"):
        layout(tmp_path)


@pytest.mark.parametrize("data, message", [
    (b'{"size": 16, "size": 32}', "the key 'size' stands twice in one object"),
    (b'{"s1": {"unit": "dB", "unit": "linear"}}', "the key 'unit' stands twice"),
    ('{"licence": "K\u00f6ln"}'.encode("latin-1"), r"is no UTF-8 text \(byte 0xf6 at 14\); save it as UTF-8"),
    (b"", "is no JSON"), (b"\0\0\0\0", "is no"), (b'{"size": 16,}', "is no JSON"), (b"[" * 100_000, "is no JSON"),
    (b'{"size": ' + b"9" * 5000 + b"}", "is no JSON"), (b'{"licence": "\\ud800"}', "half a character"),
    (b"<html>", "is no JSON"), (b"{'size': 16}", "is no JSON")])
def test_text_that_is_no_description_is_told(tmp_path, data, message):
    (tmp_path / "geotiff.json").write_bytes(data)
    with pytest.raises(UserError, match=message):
        layout(tmp_path)


def test_a_byte_order_mark_and_utf_16_do_not_matter(tmp_path):
    text = json.dumps(WHOLE)
    for data in (text.encode("utf-8-sig"), text.encode("utf-16")):
        (tmp_path / "geotiff.json").write_bytes(data)
        assert layout(tmp_path).size == 16


def test_words_in_any_case_and_no_data_in_words(tmp_path):
    describe(tmp_path, s1={"unit": "DB", "product": "GRD", "no_data": "NaN"}, s2={"level": "L2A", "offset": 0})
    said = _geotiff_json.read(tmp_path)
    assert said.images["s1"].convention == "dB" and np.isnan(said.images["s1"].no_data)


# Labels

@pytest.mark.parametrize("classes, expected", [
    ({"land": 0, "water": 1}, {"land": (0,), "water": (1,)}),
    ({"land": [10, 20, 30], "water": [80, 90]}, {"land": (10, 20, 30), "water": (80, 90)}),
    ({"land": "10", "water": " 80 "}, {"land": (10,), "water": (80,)}),
    ({"land": 10.0, "water": "80.0"}, {"land": (10,), "water": (80,)}),
    ({"land": "10-13", "water": ["80..81", 90, "-3 - -2"]}, {"land": (10, 11, 12, 13), "water": (80, 81, 90, -3, -2)}),
    (["land", "water"], {"land": (0,), "water": (1,)}),
    ({"0": "land", "1": "water"}, {"land": (0,), "water": (1,)}),
    ({"10": "land", "80": "water", "90": "water", "20-21": "land"}, {"land": (10, 20, 21), "water": (80, 90)}),
    ([{"name": "land", "value": 1}, {"name": "water", "values": [2, 3], "color": "#00f"}],
     {"land": (1,), "water": (2, 3)}),
    ([{"id": 4, "name": "land"}, {"id": 5, "name": "water"}], {"land": (4,), "water": (5,)}),
    ({"1": 10, "2": 20}, {"1": (10,), "2": (20,)})])
def test_classes_are_understood_as_people_write_them(classes, expected):
    faults = []
    assert parse_labels({"classes": classes}, faults).classes == expected and not faults


def test_classes_may_have_colours_of_their_own():
    faults, said = [], {"classes": {"land": 0, "water": 1}}
    assert parse_labels(said | {"colours": {"water": "#2166c8"}}, faults).colours == ("", "#2166c8") and not faults
    assert parse_labels(said, faults).colours == () and not faults
    parse_labels(said | {"colours": {"water": "blue"}}, faults)
    parse_labels(said | {"colours": {"watr": "#2166c8"}}, faults)
    assert len(faults) == 2 and """such as {"water": "#2166c8"}""" in faults[0] and "'label.colours.watr'" in faults[1]


@pytest.mark.parametrize("section, message", [
    ({"classes": {"a": [1, 2], "b": [2, 3]}}, "gives the value 2 to 'a' and to 'b'"),
    ({"classes": {"a": [], "b": 1}}, "label.classes, 'a' has no value"),
    ({"classes": {"a": [[1]], "b": 1}}, r"label.classes, 'a' is \[1\], expected a whole number"),
    ({"classes": {"a": 1.5, "b": 1}}, "label.classes, 'a' is 1.5"),
    ({"classes": {"a": True, "b": 1}}, "label.classes, 'a' is True"),
    ({"classes": {"a": None, "b": 1}}, "label.classes, 'a' is None"),
    ({"classes": {"a": "9-1", "b": 1}}, "label.classes, 'a' is '9-1'"),
    ({"classes": {"a": "0-99999999", "b": 1}}, "label.classes, 'a' is '0-99999999'"),
    ({"classes": ["a", "a", "b"]}, "label.classes names 'a' twice"), ({"classes": ["a", 1]}, "label.classes is"),
    ({"classes": [{"name": "a", "value": 1}, {"name": "a", "value": 2}, {"name": "b", "value": 3}]}, "'a' twice"),
    ({"classes": {"a": 1}}, "expected two or more names"), ({"classes": {"0": "a", "1": "a"}}, "two or more names"),
    ({}, "label.classes is None"),
    ({"classes": {"a": 0, "b": 1}, "ignore": [1]}, "label.ignore has the value 1, which"),
    ({"classes": {"a": 0, "b": 1}, "ignore": {"c": 2}}, "label.ignore is {'c': 2}"),
    ({"classes": [f"class {i}" for i in range(300)]}, "300 classes, more than 255"),
    ({"classes": {"a": 0, "b": 1}, "nodata": 2}, "unknown key 'label.nodata'")])
def test_faults_of_classes_are_told(tmp_path, section, message):
    describe(tmp_path, s1=S1, label=section)
    with pytest.raises(UserError, match=message):
        layout(tmp_path)


def test_values_of_one_class_are_merged(tmp_path):
    pair(tmp_path, label={"classes": {"land": [10, "20-29"], "water": [80, 90]}, "ignore": "0"})
    tif(tmp_path / "s1.tif", decibels())
    tif(tmp_path / "s2.tif", digital_numbers())
    values = np.random.default_rng(0).choice(np.array([0, 10, 20, 25, 29, 80, 90], np.uint8), (1, SIZE, SIZE))
    expected = np.select([values[0] >= 80, values[0] > 0], [1, 0], 255)
    for dtype in (np.uint8, np.int16, np.float32, np.float64):
        tif(tmp_path / "label.tif", values.astype(dtype))
        np.testing.assert_array_equal(read(tmp_path, "tiles").label, expected)


def test_labels_of_floats(tmp_path):
    pair(tmp_path, label={"classes": {"land": 0, "water": 1}})
    tif(tmp_path / "s1.tif", decibels())
    tif(tmp_path / "s2.tif", digital_numbers())
    values = np.random.default_rng(0).choice(np.array([0, 1, np.nan], np.float32), (1, SIZE, SIZE))
    for tag in (None, np.nan, -1):
        tif(tmp_path / "label.tif", values, nodata=tag)
        expected = np.where(np.isnan(values[0]), 255, np.nan_to_num(values[0]))
        np.testing.assert_array_equal(read(tmp_path, "tiles").label, expected)
    values[0, 0, 0] = 0.25
    tif(tmp_path / "label.tif", values)
    with pytest.raises(UserError, match="label.tif' holds 0.25, expected whole numbers, the values of classes; was it"):
        read(tmp_path, "tiles")
