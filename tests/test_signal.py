"""No signal, no score: a run that can learn nothing, or measure nothing, is told before its first step."""

import contextlib
import types

import jax.numpy as jnp
import pytest
from jaxlib import utils

from data_prep.build.summary import Content, warnings
from dual_encoder.errors import UserError
from dual_encoder.runtime.compiling import compiling
from dual_encoder.tasks.build import build, build_evaluation
from dual_encoder.training import hooks
from dual_encoder.training.hooks import TrainLog
from dual_encoder.training.loop import open_run
from tests import runs
from tests.test_evaluate import configure as to_evaluate

pytestmark = pytest.mark.quick


def start(config, workdir):
    """Opens a run as training does, up to its first step."""
    with open_run(build(config, runs.one_device()), runs.one_device(), workdir):
        pass


@pytest.mark.parametrize("loss, message", [
    ({}, "the 16 pairs of split 'train' of .* are of a single place: none is a negative of another"),
    ({"false_negatives": "keep"}, "split 'test' of .* has a single place: a gallery of 1 gives a perfect score"),
    ({"name": "barlow"}, "a gallery of 1"),
])
def test_pairs_of_one_place_are_refused_before_the_first_step(write_dataset, tmp_path, loss, message):
    config = runs.configure(write_dataset(places=1), loss=loss)
    with pytest.raises(UserError, match=message):
        start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gallery_of_one_is_not_scored(write_dataset, tmp_path):
    data, small = write_dataset(), write_dataset(places=1)
    runs.fit(runs.configure(data), tmp_path, devices=runs.one_device().devices.flatten().tolist())
    with pytest.raises(UserError, match="a gallery of 1 gives a perfect score"):
        build_evaluation(to_evaluate(tmp_path, data_dir=str(small)))


def test_a_build_warns_of_a_split_of_one_place():
    def content(*places):
        found = Content(None)
        for place in places:
            found.add(types.SimpleNamespace(location_id=place))
        return found

    lines = [line for line in warnings({"train": content("a", "b"), "validation": content("c", "d"),
                                        "test": content("e", "e")}, None)]
    assert len(lines) == 1 and lines[0].startswith("warning: split 'test' has a single place")


@pytest.mark.parametrize("norms, told", [((0.0, 0.0), True), ((0.0, 1e-9), False)])
def test_a_gradient_of_exactly_zero_is_told(capsys, norms, told):
    written = []
    writer = types.SimpleNamespace(write=lambda step, kind, values: written.append((step, kind)))
    log = TrainLog(writer, 0, 2, 2, 8, lambda step: [])
    for step, norm in enumerate(norms, start=1):
        log(step, {name: jnp.float32(value) for name, value in {
            "loss": 0, "grad_norm": norm, "param_norm": 1, "finite": True, "stop": False}.items()})
    log.close()
    assert ("the gradient norm was exactly 0 in the last 2 steps" in capsys.readouterr().out) == told
    assert ((2, "event") in written) == told


def test_the_time_that_is_left_is_told_without_the_compilation(capsys, monkeypatch):
    seconds = iter([0, 0, 90, 100, 100])  # begin; compiling from 0 to 90; the row of two steps at 100
    monkeypatch.setattr(hooks, "time", types.SimpleNamespace(perf_counter=lambda: next(seconds)))
    log = TrainLog(types.SimpleNamespace(write=lambda *_: None), 0, 12, 2, 8, lambda step: [])
    with log.compiling():
        pass
    for step in (1, 2):
        log(step, {"loss": jnp.float32(1), "finite": jnp.array(True), "stop": jnp.array(False)})
    log.close()
    assert "step 2/12  loss 1.0000  0.2 pairs/s  data wait 0%  ETA 0:50\n" in capsys.readouterr().out


def test_compiling_says_so_and_keeps_the_alarm_of_xla_quiet(monkeypatch):
    levels, lines = [], []
    monkeypatch.setattr(utils, "absl_set_min_log_level", levels.append)
    with contextlib.suppress(ValueError), compiling("the step", lines.append):
        assert levels == [3] and lines[0].startswith("compiling the step")
        raise ValueError
    assert levels == [3, 1] and len(lines) == 1
