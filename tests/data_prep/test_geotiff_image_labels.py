"""Own GeoTIFFs with labels of whole images from a table: by id or place, by name or value, one class or several."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data_prep import importers
from data_prep.importers import Entry, Reject
from dual_encoder.data.labels import LabelSpec
from dual_encoder.data.manifest import load_info
from dual_encoder.errors import UserError
from tests.data_prep.geotiff_writing import S1, decibels, describe, tif

pytestmark = pytest.mark.quick

ONE = {"kind": "image_class", "table": "labels.csv", "classes": {"forest": 10, "river": [20, 21]}}
SEVERAL = ONE | {"kind": "image_classes"}


def folder(raw, label, table, named=True):
    """Four images of two places, by names or by a table, and the table of the labels."""
    names = [f"{place}_{date}" for place in ("lagos", "oslo") for date in ("20200601", "20200602")]
    for name in names:
        tif(raw / f"s1/{name}.tif", decibels())
    describe(raw, s1=S1 | ({"files": "s1/{place}_{date}.tif"} if named else {}), label=label)
    if not named:
        (raw / "pairs.csv").write_text("s1,id,label\n" + "".join(
            f"s1/{name}.tif,{name},{cell}\n" for name, cell in zip(names, table, strict=True)))
    elif table is not None:
        (raw / "labels.csv").write_text("id,label\n" + "".join(f"{line}\n" for line in table))
    return raw


def open_(raw):
    return importers.open_raw("geotiff", raw, "tiles", {"s1": "s1_grd"})


def labels(raw):
    """Returns id -> stored label, or the reason of a Reject."""
    importer = open_(raw)
    return {item.id: importer.read(item).label.tolist() if isinstance(item, Entry) else item.reason
            for item in importer.entries()}


def test_one_class_by_id_before_that_of_the_place(tmp_path):
    raw = folder(tmp_path, ONE, ["lagos,river", "lagos_20200602,10", "oslo_20200601,21.0"])
    assert labels(raw) == {"lagos_20200601": 1, "lagos_20200602": 0, "oslo_20200601": 1,
                           "oslo_20200602": "'labels.csv' has no usable row with this id, or that of its place"}
    tile = open_(raw).read(next(open_(raw).entries()))
    assert tile.label.dtype == np.int32 and tile.label.shape == ()


def test_several_classes_and_none(tmp_path):
    raw = folder(tmp_path, SEVERAL, ["lagos,river;forest", "oslo_20200601,river|21", "oslo_20200602,"])
    assert labels(raw) == {"lagos_20200601": [1, 1], "lagos_20200602": [1, 1], "oslo_20200601": [0, 1],
                           "oslo_20200602": [0, 0]}


def test_the_table_may_be_that_of_the_images(tmp_path):
    raw = folder(tmp_path, ONE | {"table": "pairs.csv"}, ["forest", "river", "10", "20"], named=False)
    assert list(labels(raw).values()) == [0, 1, 0, 1]


def test_a_parquet_table_may_hold_lists(tmp_path):
    raw = folder(tmp_path, SEVERAL | {"table": "labels.parquet"}, None)
    pyarrow.parquet.write_table(pyarrow.table({"id": ["lagos", "oslo"], "label": [["river"], ["forest", "river"]]}),
                                raw / "labels.parquet")
    assert list(labels(raw).values()) == [[0, 1], [0, 1], [1, 1], [1, 1]]


@pytest.mark.parametrize("label, line, reason", [
    (ONE, "lagos,sea", "line 2 of 'labels.csv': label is 'sea', which is no class of geotiff.json (forest, river)"),
    (ONE, "lagos,forest;river", "label is 'forest;river', which is no class"),
    (ONE, "lagos,", "label has 0 classes, expected one"),
    (SEVERAL, "lagos,river;11", "label is '11', which is no class"),
    (SEVERAL, "lagos,forest\nlagos,river", "line 3 of 'labels.csv': the id stands in two rows"),
    (ONE, "lagos,forest,river", "has 3 cells, the header has 2")])
def test_a_row_that_cannot_be_used_is_told(tmp_path, label, line, reason):
    rejects = [item for item in open_(folder(tmp_path, label, [line])).entries() if isinstance(item, Reject)]
    assert reason in rejects[0].reason


def test_a_missing_table_and_a_missing_column_are_told(tmp_path):
    raw = folder(tmp_path, ONE, None)
    with pytest.raises(UserError, match="labels.csv' is missing; label.table of geotiff.json names it"):
        labels(raw)
    (raw / "labels.csv").write_text("id,class\nlagos,river\n")
    with pytest.raises(UserError, match="labels.csv' has no column label"):
        labels(raw)


@pytest.mark.parametrize("label, message", [
    (ONE | {"kind": "image"}, "label.kind is 'image', expected one of 'pixel_classes', 'image_class', 'image_classes'"),
    (ONE | {"table": "../labels.csv"}, "label.table is '../labels.csv'"), (ONE | {"table": 3}, "label.table is 3"),
    (ONE | {"classes": ["a"]}, r"label.classes is \['a'\]"), (ONE | {"files": "a.tif"}, "unknown key 'label.files'"),
    (ONE | {"classes": {"a": 1, "b": 1}}, "gives the value 1 to 'a' and to 'b'")])
def test_a_wrong_description_is_told(tmp_path, label, message):
    with pytest.raises(UserError, match=message):
        open_(folder(tmp_path, label, ["lagos,river"]))


def test_the_build_stores_them_and_the_table_counts_as_description(tmp_path, cli):
    raw = folder(tmp_path / "raw", ONE, ["lagos,river", "oslo,forest"])
    first = importers.load("geotiff").layout("tiles", raw)
    assert first.label == LabelSpec("image_class", ("forest", "river"))
    done = cli("build", "--importer=geotiff", f"--raw={raw}", f"--data_dir={tmp_path}", "--kind=tiles", "--workers=1")
    assert done.returncode == 0, done.stderr
    assert "configs/classify.py" in done.stdout
    info = load_info(tmp_path / "s1s2_tiles/geotiff/1.0.0")
    assert info.label == first.label and info.source["description"] == first.source["description"]
    (raw / "labels.csv").write_text("id,label\nlagos,river\noslo,river\n")
    changed = importers.load("geotiff").layout("tiles", raw).source["description"]
    assert changed != first.source["description"]
