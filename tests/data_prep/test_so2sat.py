"""So2Sat LCZ42: small HDF5 files in the published layout, pixels against the numbers in them, and bad input."""

import json

import h5py
import numpy as np
import pytest

from data_prep import importers, record
from data_prep.importers import Entry, Unmatched
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS, sensor

pytestmark = pytest.mark.quick

BOTH = {"s1": "s1_grd", "s2": "so2sat_s2"}


def write(path, count, seed=0, **changes):
    """Writes a file with noise in all channels; returns its arrays."""
    rng = np.random.default_rng(seed)
    arrays = {"sen1": rng.uniform(0.001, 1, (count, 32, 32, 8)), "sen2": rng.uniform(0.01, 1, (count, 32, 32, 10)),
              "label": np.eye(17)[rng.integers(0, 17, count)]} | changes
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            if values is not None:
                file[name] = values
    return arrays


def make(raw, kind="tiles", sensors=BOTH):
    return importers.load("so2sat")(raw, kind, sensors)


def test_the_official_splits_pixels_and_classes(tmp_path):
    arrays = {"train": write(tmp_path / "training.h5", 3), "validation": write(tmp_path / "validation.h5", 2, 1),
              "test": write(tmp_path / "testing.h5", 1, 2)}
    layout, importer = importers.load("so2sat").layout("tiles"), make(tmp_path)
    entries = list(importer.entries())
    assert [entry.id for entry in entries] == ["train_000000", "train_000001", "train_000002", "validation_000000",
                                               "validation_000001", "test_000000"]
    for entry in entries:
        entry = Entry(**json.loads(json.dumps({"id": entry.id, "location_id": entry.location_id, "split": entry.split,
                                               "where": entry.where})))
        tile, row = importer.read(entry), entry.where["row"]
        record.check(tile, {feature: sensor(name) for feature, name in BOTH.items()}, 32, layout.label)
        raw = {name: values[row] for name, values in arrays[entry.split].items()}
        assert raw["label"][tile.label] == 1 and tile.location_id == entry.id and tile.times == {}
        for band, channel in (("VV", 5), ("VH", 4)):
            decibels = 10 * np.log10(raw["sen1"][..., channel])
            stored = tile.images["s1"][..., SENSORS["s1_grd"].bands.index(band)]
            np.testing.assert_allclose(stored, decibels * 100, atol=0.51)
        np.testing.assert_allclose(tile.images["s2"], raw["sen2"] * 1e4, atol=0.51)
    pair = make(tmp_path, "pairs").read(entries[0])
    assert isinstance(pair, record.Pair)


def test_what_is_not_finite_or_positive_is_no_data(tmp_path):
    arrays = write(tmp_path / "training.h5", 1)
    arrays["sen1"][0, 3, 4, 4], arrays["sen2"][0, 5, 6, 2] = 0, np.nan
    write(tmp_path / "training.h5", 1, **arrays)
    tile = make(tmp_path).read(next(make(tmp_path).entries()))
    for feature, place in (("s1", (3, 4)), ("s2", (5, 6))):
        holds = sensor(BOTH[feature]).holds_data(tile.images[feature])
        assert not holds[place] and holds.sum() == 32 * 32 - 1


def test_one_sensor_and_one_file_are_enough(tmp_path):
    write(tmp_path / "validation.h5", 2, sen1=None)
    (tmp_path / "training_geo.h5").touch()
    *entries, beside = make(tmp_path, sensors={"s2": "so2sat_s2"}).entries()
    assert [entry.split for entry in entries] == ["validation"] * 2
    assert isinstance(beside, Unmatched) and beside.examples == ("training_geo.h5",)


@pytest.mark.parametrize("changes, message", [
    ({"sen1": None}, "array 'sen1' is missing, expected shape"),
    ({"sen2": np.zeros((2, 32, 32, 13))}, r"array 'sen2' is of shape \(2, 32, 32, 13\)"),
    ({"label": np.zeros((3, 17))}, r"array 'label' is of shape \(3, 17\), chunks of 0 bytes, expected shape \(2, 17\)"),
    ({"label": np.zeros((2, 17), "S1")}, "array 'label' is of shape"),
    ({"label": np.zeros((2, 17))}, r"label of row 0 is \[0.0, .* expected one 1 among 0"),
    ({"label": np.full((2, 17), 1.0)}, "label of row 0 is")])
def test_arrays_of_another_form_are_named(tmp_path, changes, message):
    write(tmp_path / "training.h5", 2, **changes)
    with pytest.raises(UserError, match=message) as error:
        importer = make(tmp_path)
        importer.read(next(importer.entries()))
    assert "training.h5" in str(error.value) and "\n" not in str(error.value)


def test_missing_and_cut_files_are_named(tmp_path):
    with pytest.raises(UserError, match="training.h5' is missing, and validation.h5 and testing.h5 with it"):
        next(make(tmp_path).entries())
    write(tmp_path / "testing.h5", 2)
    whole = (tmp_path / "testing.h5").read_bytes()
    (tmp_path / "testing.h5").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match="testing.h5' cannot be read as HDF5 .* fetch it again"):
        next(make(tmp_path).entries())
