"""A mistake of this project stops a build at the first record; damaged data does not."""

import json
import os
import pathlib

import numpy as np
import pytest

from data_prep import importers
from data_prep.build import shards
from data_prep.build.plan import Task
from data_prep.build.selection import Filters
from data_prep.importers import Entry
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick


class Broken:
    """An importer whose every entry raises an error."""

    def __init__(self, error):
        self._error = error

    def read(self, entry):
        raise self._error


class Plan:
    """Two entries."""

    def read(self, task):
        return iter([Entry("a", "a", "train", {}), Entry("b", "b", "train", {})])


class Meter:
    """Counts nothing."""

    def add(self, entries, size, faults):
        pass

    def faults(self):
        return 0


@pytest.fixture
def job(tmp_path):
    for name in ("data", "notes"):
        (tmp_path / name).mkdir()
    return shards.Job(importer="npz", raw="", kind="pairs", sensors={"s1": "s1_grd", "s2": "s2_l2a"}, size=8,
                      raw_size=8, label=None, labels="", filters=Filters(), name="x", folder=str(tmp_path / "data"),
                      max_rejected=10)


def write(job, error):
    shards.write(job, Broken(error), Plan(), Task("train", 0, 1, 0, 2), Meter())


@pytest.mark.parametrize("error", [
    TypeError("'NoneType' object\nis not subscriptable"), AttributeError("x"), NameError("x"), UnboundLocalError("x"),
    AssertionError(), NotImplementedError("x"), ModuleNotFoundError("x")])
def test_a_mistake_of_ours_stops_at_the_first_record(job, error):
    with pytest.raises(UserError) as told:
        write(job, error)
    text = str(told.value)
    assert text.startswith("a bug of this project stopped the build at 'a' of importer npz (" + type(error).__name__)
    assert "please report" in text and str(job.log) in text and "\n" not in text
    (row,) = map(json.loads, job.log.read_text().splitlines())
    assert row["kind"] == "bug" and row["id"] == "a" and "test_own_mistakes.py" in row["traceback"]
    assert not list(job.log.parent.glob("data/x-*")) and not list(job.log.parent.glob("notes/*"))


@pytest.mark.parametrize("error", [
    UserError("'x' is damaged"), ValueError("x"), KeyError("x"), IndexError("x"), OSError("x"), EOFError("x"),
    MemoryError(), OverflowError("x"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), ZeroDivisionError("x")])
def test_errors_of_damaged_data_reject_a_record(job, error):
    write(job, error)
    note = shards.finished(job, Task("train", 0, 1, 0, 2))
    assert [row["id"] for row in note.rejected] == ["a", "b"] and note.records == 0


def test_a_build_ends_with_one_line(cli, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    np.savez(raw / "a.npz", id=["a"], s1=np.zeros((1, 2, 8, 8), np.float32), s1_bands=["VV", "VH"],
             s2=np.ones((1, 12, 8, 8), np.uint16), s2_bands=list(SENSORS["s2_l2a"].bands))
    (tmp_path / "sitecustomize.py").write_text(
        "import data_prep.importers.npz as npz\n"
        "def read(self, entry):\n"
        "    return None + 1\n"
        "npz.Importer.read = read\n")
    path = os.pathsep.join([str(tmp_path), str(pathlib.Path(importers.__path__[0]).parents[1])])
    process = cli("build", "--importer=npz", f"--raw={raw}", f"--data_dir={tmp_path / 'data'}", PYTHONPATH=path)
    assert process.returncode == 2, process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: a bug of this project stopped the build at 'a'")
    assert "Traceback" not in process.stderr
