"""Nearest neighbours during pre-training: a curve of the scores that the probe command gives, and nothing else."""

import json

import pytest
from etils import epath

from configs import probe as probe_file
from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.tasks.build import AnyConfig, build
from dual_encoder.training.loop import fit
from dual_encoder.training.probe import probe
from dual_encoder.workdir import metrics
from tests import runs


def configure(folder, labelled, **changes):
    """Two steps with one score each."""
    return runs.configure(folder, **{"knn__every": 1, "knn__dir": str(labelled), "knn__neighbours": 5} | changes)


@pytest.mark.parametrize("fusion, kind, names", [
    ("early", "image_class", {"accuracy", "macro_f1"}), ("late", "image_classes", {"map", "micro_f1"})])
def test_the_curve_holds_the_scores_of_the_probe_command(write_dataset, tmp_path, fusion, kind, names):
    labelled = write_dataset(train=40, test=24, labels=kind)
    config = configure(write_dataset(), labelled, fusion=fusion, loss__name="nt_xent")
    fit(build(config, runs.one_device()), runs.one_device(), epath.Path(tmp_path / "run"))
    rows = [row for row in metrics.read(tmp_path / "run") if row["kind"] == "quick_eval"]
    assert [row["step"] for row in rows] == [1, 2]
    values = probe_file.get_config().to_dict()
    values |= {"init_from": str(tmp_path / "run"), "probes": ("knn",), "neighbours": 5}
    values["data"] |= {"dir": str(labelled), "validation_split": "train"}  # so that no place of train is held out
    probe(parse(AnyConfig, values), runs.one_device(), epath.Path(tmp_path / "probe"))
    expected = json.loads((tmp_path / "probe" / "evaluation" / "scores.json").read_text())["knn"]
    # One of 24 images may change its class by the rounding of another program.
    assert {name: rows[-1][f"knn/{name}"] for name in names} == pytest.approx({n: expected[n] for n in names}, abs=0.05)
    assert set(rows[-1]) == {"step", "kind", *(f"knn/{name}" for name in names)}
    assert "knn" not in json.loads((tmp_path / "run" / "evaluation" / "scores.json").read_text())


def test_the_number_of_images_is_that_of_the_configuration(write_dataset):
    labelled = write_dataset(train=40, test=24, labels="image_class")
    built = build(configure(write_dataset(), labelled, knn__records=10), runs.one_device())
    assert [len(records) for records in built.knn] == [10, 10] and built.knn[0].location_ids[-1] == "train39"
    assert build(configure(write_dataset(), labelled, knn__every=0), runs.one_device()).knn is None


@pytest.mark.parametrize("data, changes, message", [
    ({"labels": "image_class"}, {"knn__eval_split": "train"}, "24 places, first 'train0', are in split 'train' and in"),
    ({"labels": "image_class", "test": 0}, {}, "split 'test' of '.*' has no records; choose another split of config.k"),
    ({"labels": True}, {}, "of kind 'pixel_classes', config.knn needs one class per image"),
    ({"labels": "image_class", "sensors": ("s1_rtc", "s2_l2a")}, {}, "sensor unit differ"),
    ({}, {}, "no feature 'label'"),
])
def test_data_that_do_not_fit_are_one_line(write_dataset, data, changes, message):
    labelled = write_dataset(**{"train": 24} | data)
    with pytest.raises(UserError, match=message):
        build(configure(write_dataset(), labelled, **changes), runs.one_device())


def test_a_folder_is_needed():
    with pytest.raises(UserError, match="config.knn.dir is ''; expected a labelled data set folder"):
        configure("data/x", "")
