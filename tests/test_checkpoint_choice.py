"""The checkpoint is chosen on one split and scored on another; a run that was cut off chooses the same one."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.evaluation.table import Column, Goal, Headline, Row, Table, goal
from dual_encoder.report.page import write_report
from dual_encoder.state import TrainState
from dual_encoder.tasks.build import build
from dual_encoder.training import loop
from dual_encoder.training.evaluate import evaluator
from dual_encoder.training.selection import best_row
from dual_encoder.workdir import checkpoint, metrics
from dual_encoder.workdir.checkpoint import Checkpoints
from dual_encoder.workdir.metrics import MetricWriter
from tests import runs

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 4


@pytest.fixture(scope="module")
def labelled(write_dataset):
    return write_dataset(labels=True)


def configure(folder, **changes):
    """A linear probe of a narrow encoder, at a rate at which scores go up and down."""
    return runs.configure(folder, "water_weak", **{
        "decoder": "linear", "data__select_split": "held_out", "schedule__steps": STEPS, "schedule__eval_every": 1,
        "optimizer__learning_rate": 0.1, "optimizer__warmup": 0.0} | changes)


def fit(config, workdir):
    devices = runs.one_device()
    loop.fit(build(config, devices), devices, epath.Path(workdir), after_evaluation=write_report)
    write_report(workdir)


@pytest.fixture(scope="module")
def undisturbed(labelled, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    fit(configure(labelled), workdir)
    return workdir


def rows(workdir, kind):
    return [{name: value for name, value in row.items() if name != "kind"} for row in metrics.read(workdir)
            if row["kind"] == kind]


def assert_equal_runs(one, other):
    for kind in ("select", "eval"):
        assert rows(one, kind) == rows(other, kind)
    chosen = [checkpoint.load_model(workdir / "best") for workdir in (one, other)]
    assert chosen[0].step == chosen[1].step
    jax.tree.map(np.testing.assert_array_equal, chosen[0].variables, chosen[1].variables)
    assert (one / "evaluation" / "scores.json").read_text() == (other / "evaluation" / "scores.json").read_text()


def test_the_best_state_is_scored_once_on_the_other_split(labelled, undisturbed):
    seen = rows(undisturbed, "select")
    assert [row["step"] for row in seen] == [1, 2, 3, 4]
    best = max(row["miou"] for row in seen)
    chosen = next(row["step"] for row in seen if row["miou"] == best)
    assert os.listdir(undisturbed / "best" / "checkpoints") == [str(chosen)] and chosen != STEPS
    model = checkpoint.load_model(undisturbed)  # as maps, exports, vectors and later runs do
    assert model.step == chosen and checkpoint.load_model(undisturbed, STEPS).step == STEPS
    shutil.copytree(undisturbed, undisturbed.with_name("pruned"))
    shutil.rmtree(undisturbed.with_name("pruned") / "checkpoints" / str(chosen), ignore_errors=True)
    assert checkpoint.load_model(undisturbed.with_name("pruned"), chosen).digest == model.digest
    assert [row["step"] for row in rows(undisturbed, "eval")] == [STEPS], "the test split is scored once"
    config = configure(labelled)
    task, _ = runs.open_run(config)
    state = TrainState(step=jnp.int32(chosen), opt_state=(), average={}, **model.variables)
    again = evaluator(task, Records(config.data.dir, "test", config.features), 8, runs.one_device())(state)
    scores = json.loads((undisturbed / "evaluation" / "scores.json").read_text())
    assert scores == {"step": chosen, **again.scores()}
    page = (undisturbed / "report.html").read_text()
    assert f"state of step {chosen} is the best of 4 on" in page and "the checkpoint was chosen by" in page


@pytest.mark.parametrize("where", ["checkpoint", "best", "row", "evaluation"])
def test_a_run_that_was_cut_off_chooses_the_same(labelled, undisturbed, tmp_path, monkeypatch, where):
    """It ends behind a checkpoint, before the best state is saved, before its row, or before the last scores."""
    chosen = checkpoint.load_model(undisturbed / "best").step

    class CutOffError(Exception):
        pass

    def cut(*arguments):
        raise CutOffError

    step = STEPS if where == "evaluation" else chosen
    with monkeypatch.context() as patch:
        if where == "checkpoint":
            patch.setattr("dual_encoder.training.selection.best_row", cut)
        elif where == "best":
            save = Checkpoints.save
            patch.setattr(Checkpoints, "save", lambda self, at, state: (
                cut() if "best" in str(self._workdir) and at == step else save(self, at, state)))
        else:
            write, kind = MetricWriter.write, {"row": "select", "evaluation": "eval"}[where]
            patch.setattr(MetricWriter, "write", lambda self, at, of, values: (
                cut() if (at, of) == (step, kind) else write(self, at, of, values)))
        with pytest.raises(CutOffError):
            fit(configure(labelled), tmp_path / "run")
    fit(configure(labelled), tmp_path / "run")
    assert_equal_runs(tmp_path / "run", undisturbed)


def test_a_run_that_lost_its_checkpoints_chooses_the_same(labelled, undisturbed, tmp_path):
    """It starts from step 0, and the best state is one of lost work, to which it does not come again."""
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    kept, = (tmp_path / "run" / "best" / "checkpoints").iterdir()
    kept.rename(kept.with_name("99"))
    fit(configure(labelled), tmp_path / "run")
    assert_equal_runs(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_run_that_was_killed_chooses_the_same(labelled, tmp_path):
    config = configure(labelled).data
    command = [sys.executable, "main.py", "--config=configs/finetune.py:water_weak", f"--config.data.dir={config.dir}",
               "--config.data.split=train", *runs.VIT_FLAGS, "--config.augment.crop=32",
               "--config.decoder=linear", "--config.data.select_split=held_out", "--config.schedule.steps=12",
               "--config.schedule.eval_every=2", "--config.optimizer.learning_rate=0.1",
               "--config.schedule.checkpoint_every=5"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}

    def start(name):
        return subprocess.Popen([*command, f"--workdir={tmp_path / name}"], cwd=ROOT, env=environment,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    for count in (1, 3, 5):
        process, deadline = start("killed"), time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if (tmp_path / "killed" / "metrics.jsonl").exists() and len(rows(tmp_path / "killed", "select")) >= count:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, output
    for name in ("killed", "whole"):
        process = start(name)
        output = process.communicate(timeout=400)[0]
        assert process.returncode == 0, output
    assert_equal_runs(tmp_path / "killed", tmp_path / "whole")


def test_the_interval_of_evaluations_may_not_change(labelled, undisturbed):
    with pytest.raises(UserError, match="config.schedule.eval_every=1, this run has 2"):
        fit(configure(labelled, schedule__eval_every=2), undisturbed)


def test_places_that_choose_are_not_learnt_from(write_dataset):
    config = configure(write_dataset(labels=True, train=40, places=20), data__subset__folds=2)
    built = build(config, runs.one_device())
    parts = [{records.record(number)["location_id"] for number in range(len(records))}
             for records in (built.records, built.select_records, built.eval_records)]
    assert [len(part) for part in parts] == [8, 2, 10] and len(set.union(*parts)) == 20
    assert len(built.select_records) == 4 and len(built.records) == 16


@pytest.mark.parametrize("changes, message", [
    ({"data__select_split": "test"}, "select_split is 'test'; expected a split that is not in config.data.eval_split"),
    ({"data__select_split": "train"}, "select_split is 'train'; expected a split that is not in config.data.split"),
    ({"schedule__eval_every": 0}, "eval_every is 0; expected more than 0 with config.data.select_split")])
def test_a_choice_that_means_nothing_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        configure("unread", **changes)


def test_the_best_row_is_the_first_of_the_best():
    seen = [{"step": 1}, {"step": 2, "a/b": 0.5}, {"step": 3, "a/b": 0.7}, {"step": 4, "a/b": 0.7},
            {"step": 5, "a/b": float("nan")}]
    assert best_row(seen, Goal(("a", "b"), 1, ""))["step"] == 3
    assert best_row(seen, Goal(("a", "b"), -1, ""))["step"] == 2
    assert best_row(seen[:1], Goal(("a", "b"), 1, ""))["step"] == 1


def test_the_goal_is_the_first_headline_with_a_direction():
    columns = (Column("size", "size", "count"), Column("error", "error", "number", "lower"))
    table = Table("t", "T", "", columns, (Row("x", "x", (3, 0.5)),),
                  headlines=(Headline("x", "size", "images"), Headline("x", "error", "mean error")))
    assert goal([table]) == Goal(("t", "x", "error"), -1, "mean error")
    with pytest.raises(ValueError, match="no table has a headline"):
        goal([])
