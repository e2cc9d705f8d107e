"""Continual pre-training: encoders, heads and statistics of a finished run are the start of another one."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from dual_encoder.errors import UserError
from dual_encoder.tasks.build import build
from dual_encoder.training.loop import fit
from dual_encoder.workdir.checkpoint import load_model
from tests import runs


@pytest.fixture(scope="module")
def finished(write_dataset, tmp_path_factory):
    """Workdirs of a run of both sensors, whose statistics are other ones than those of the data, and of s2 alone."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_dataset()
    manifest = json.loads((data / "manifest.json").read_text())
    statistics = {name: spec | {"std": [2 * value for value in spec["std"]], "provenance": "doubled"}
                  for name, spec in manifest["sensors"].items()}
    (folder / "statistics.json").write_text(json.dumps({"sensors": statistics}))
    start(runs.configure(data, data__statistics=str(folder / "statistics.json")), folder / "both")
    start(runs.configure(data, inputs="s2", loss__name="nt_xent"), folder / "s2")
    return folder


def start(config, workdir):
    """Trains a run as main.py does; returns what it was made of."""
    devices = runs.one_device()
    built = build(config, devices)
    fit(built, devices, epath.Path(workdir))
    return built


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_start_is_the_model_of_the_checkpoint_with_its_statistics(finished, write_dataset):
    config = runs.configure(write_dataset(seed=3), init_from=str(finished / "both"), loss__temperature=0.5, seed=9)
    task = build(config, runs.one_device()).task
    params, batch_stats = task.init(jax.random.key(9))
    model = load_model(finished / "both")
    learnt = {name: tree for name, tree in model.variables["params"].items() if name != "log_scale"}
    assert set(learnt) == {"s1_encoder", "s1_head", "s2_encoder", "s2_head"}
    assert_equal({name: params[name] for name in learnt}, learnt)
    assert_equal(batch_stats, model.variables["batch_stats"])
    np.testing.assert_allclose(params["log_scale"], np.log(2), rtol=1e-6, err_msg="of this run's configuration")
    assert task.sensors == model.sensors and task.sensors["s1"].provenance == "doubled"


def test_a_sensor_that_the_run_does_not_have_starts_fresh_and_a_line_says_so(finished, write_dataset, tmp_path, capfd):
    config = runs.configure(write_dataset(), init_from=str(finished / "s2"), schedule__steps=1)
    built = start(config, tmp_path / "run")
    out = capfd.readouterr().out
    assert f"start: s2_encoder of '{finished / 's2'}' at step 2" in out
    assert f"start: s1_encoder from random weights, '{finished / 's2'}' has none" in out
    params, _ = built.task.init(jax.random.key(0))
    fresh, _ = build(runs.configure(config.data.dir), runs.one_device()).task.init(jax.random.key(0))
    learnt = load_model(finished / "s2").variables["params"]
    for part in ("encoder", "head"):
        assert_equal(params[f"s2_{part}"], learnt[f"s2_{part}"])
        assert_equal(params[f"s1_{part}"], fresh[f"s1_{part}"])
    assert load_model(tmp_path / "run").config["init_from"] == str(finished / "s2")


@pytest.mark.parametrize("changes, message", [
    ({"encoder__width": 128}, r"s1_encoder differs from the configured one: .*; set the keys of config.encoder"),
    ({"projection__dim": 4}, r"s1_head differs from the configured one: .* the keys of config.projection"),
    ({"inputs": "s1+s2", "fusion": "early", "loss__name": "nt_xent"},
     r"the checkpoint has the encoders \['s1_encoder', 's2_encoder'\], this run has \['s1_s2_encoder'\]; choose"),
    ({"init_step": 7}, "has no checkpoint of step 7"),
])
def test_a_checkpoint_that_does_not_fit_is_one_line(finished, write_dataset, changes, message):
    config = runs.configure(write_dataset(), init_from=str(finished / "both"), **changes)
    with pytest.raises(UserError, match=message):
        build(config, runs.one_device()).task.init(jax.random.key(0))


def test_other_sensors_other_statistics_and_other_tasks_are_one_line(finished, write_dataset, tmp_path):
    other = runs.configure(write_dataset(sensors=("s1_rtc", "s2_l2a")), init_from=str(finished / "both"))
    with pytest.raises(UserError, match="sensor unit differ"):
        build(other, runs.one_device())
    with pytest.raises(UserError, match="x.json'; expected '' with config.init_from"):
        runs.configure("data/x", init_from=str(finished / "both"), data__statistics="x.json")
    tuned = runs.configure(write_dataset(labels=True), "water_weak", init_from=str(finished / "both"))
    start(tuned, tmp_path / "tuned")
    with pytest.raises(UserError, match="is a finetune run; give a pre-training run"):
        build(runs.configure(write_dataset(), init_from=str(tmp_path / "tuned")), runs.one_device())
