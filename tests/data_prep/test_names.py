"""Names that raw data give: splits are folded, and no text of raw data leads anywhere else."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep.names import fault, leaves, split_name
from dual_encoder.data.manifest import load_info
from dual_encoder.imagery.sensors import SENSORS

BAD = ["a/b", "../../x", "/tmp/x", "train+x", "train[0]", "train[:10%]", "nan", "NaN", "all", "10.5", "1", "hold-out",
       "é", "fold 1", "x" * 300, "a\0b", "a\nb", "[]", "\ud800", "."]


@pytest.mark.parametrize("written, stored", [
    ("train", "train"), ("Train", "train"), (" TRAINING ", "train"), ("val", "validation"), ("VAL", "validation"),
    ("valid", "validation"), ("dev", "validation"), ("Validation", "validation"), ("testing", "test"), ("Test", "test"),
    ("bolivia", "bolivia"), ("fold_1", "fold_1")])
def test_the_usual_names_of_splits(written, stored):
    assert split_name(written) == stored


@pytest.mark.parametrize("name", BAD)
def test_names_that_mean_nothing_are_refused(name):
    with pytest.raises(ValueError, match="expected at most 64 letters") as told:
        split_name(name)
    assert str(told.value).isprintable() and len(str(told.value)) < 200


def test_every_name_that_passes_can_be_loaded_by_tfds():
    for name in ("train", "validation", "test", "bolivia", "fold_1", "A" * 64):
        instruction = tfds.core.ReadInstruction.from_spec(name)
        assert name in str(instruction)


@pytest.mark.parametrize("text", ["", "a\nb", "a\0b", "\ud800x", "x" * 501, "\x1b[31m"])
def test_ids_that_cannot_be_stored(text):
    assert fault(text) and fault(text).isprintable()


def test_ids_that_can():
    assert not any(map(fault, ("a", "S2A_MSIL2A_20170613T101031", "Öl Ü/β", "x" * 500)))


@pytest.mark.parametrize("where", [{"s1": "../x.tif"}, {"s1": "/etc/passwd"}, {"s1": {"file": "a/../../b"}},
                                   {"s1": ["ok", "..\\b"]}, {"s1": "a\0b"}])
def test_paths_that_lead_out(where):
    assert leaves(where)
    assert not leaves({"s1": "a/b..c/d.tif", "row": 3, "more": ["x", {"y": "z"}]})


def build(cli, tmp_path, splits, ids=None, places=None):
    raw, data = tmp_path / "raw", tmp_path / "data"
    raw.mkdir()
    rng, count = np.random.default_rng(0), len(splits)
    db = rng.normal(0, 1.5, (count, 2, 16, 16)) + np.array([-10, -17])[:, None, None]
    dn = np.array([300, 350, 600, 450, 900, 2200, 2700, 2900, 3000, 3100, 1700, 900])[:, None, None]
    s2 = rng.normal(0, 60, (count, 12, 16, 16)) + dn
    np.savez(raw / "x.npz", id=np.array(ids or [f"r{i}" for i in range(count)]), split=np.array(splits),
             s1=db.astype(np.float32), s1_bands=np.array(["VV", "VH"]), s2=s2.astype(np.uint16),
             s2_bands=np.array(SENSORS["s2_l2a"].bands),
             location_id=np.array(places or [f"p{i}" for i in range(count)]))
    return cli("build", "--importer=npz", f"--raw={raw}", f"--data_dir={data}", "--workers=1", "--name=x")


def test_a_build_folds_the_names_says_so_and_sets_the_others_aside(cli, tmp_path):
    outside = tmp_path / "outside.npy"
    outside.write_text("mine")
    done = build(cli, tmp_path, ["train", "Train", "VAL", "test", f"{tmp_path}/outside", "../../outside", "nan"])
    assert done.returncode == 0, done.stderr
    assert "split 'VAL' of the raw data is stored as 'validation'" in done.stdout
    assert "split 'Train' of the raw data is stored as 'train'" in done.stdout
    info = load_info(tmp_path / "data/s1s2_pairs/x/1.0.0")
    counts = {split: sum(entry["records"] for entry in entries) for split, entries in info.shards.items()}
    assert counts == {"train": 2, "validation": 1, "test": 1}
    rows = [json.loads(line) for line in (tmp_path / "data/s1s2_pairs/x/1.0.0/rejected.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all("expected at most 64 letters" in row["reason"] for row in rows)
    assert outside.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "outside.npy", "raw"]


def test_ids_that_cannot_be_stored_are_set_aside(cli, tmp_path):
    done = build(cli, tmp_path, ["train"] * 3, ids=["a", "b\nc", "d" * 600])
    assert done.returncode == 0, done.stderr
    assert "2 unusable" in done.stdout
