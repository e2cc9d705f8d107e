"""Metrics for Weights & Biases and MLflow, against stand-ins that take the calls of the real packages and no others."""

import importlib
import sys

import pytest

from dual_encoder.errors import UserError
from dual_encoder.workdir import metrics
from dual_encoder.workdir.metrics import MetricWriter
from dual_encoder.workdir.sinks import open_sink

pytestmark = pytest.mark.quick

CONFIG = {"seed": 3, "augment": {"crop": 32}}
WANDB = """
calls = []
class Run:
    def __init__(self, id): self.id = id or "new1"
    def define_metric(self, name, step_metric=None): calls.append(("define", name, step_metric))
    def log(self, data, step=None, commit=None):
        if data["step"] == 99: raise OSError("no network")
        calls.append(("log", data))
    def finish(self, exit_code=None): calls.append(("finish",))
def init(entity=None, project=None, dir=None, id=None, name=None, config=None, mode=None, resume=None):
    calls.append(("init", project, id, name, config, mode, resume))
    return Run(id)
"""
MLFLOW = """
import types
calls = []
def set_tracking_uri(uri): calls.append(("uri", uri))
def set_experiment(experiment_name=None): calls.append(("experiment", experiment_name))
def start_run(run_id=None, experiment_id=None, run_name=None):
    calls.append(("start", run_id, run_name))
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "new1"))
def log_params(params): calls.append(("params", params)); assert len(params) <= 100
def log_metrics(metrics, step=None, synchronous=None): calls.append(("metrics", metrics, step))
def end_run(status="FINISHED"): calls.append(("end",))
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A function that installs a stand-in and returns its list of calls."""
    def install(name, source):
        (tmp_path / "packages").mkdir(exist_ok=True)
        (tmp_path / "packages" / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path / "packages")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name).calls

    for variable in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    return install


def write(workdir, name, step=1):
    writer = MetricWriter(workdir, 0, open_sink(name, workdir, CONFIG))
    writer.write(0, "event", {"event": "started"})
    writer.write(step, "eval", {"s1/recall@1": 0.5})
    writer.close()
    return metrics.read(workdir)


def test_wandb_gets_the_rows_offline_and_a_resumed_run_goes_on(package, tmp_path, monkeypatch):
    calls, workdir = package("wandb", WANDB), tmp_path / "run"
    workdir.mkdir()
    write(workdir, "wandb")
    assert calls == [("init", "dual_encoder", None, "run", CONFIG, "offline", "allow"), ("define", "*", "step"),
                     ("log", {"eval/s1/recall@1": 0.5, "step": 1}), ("finish",)]
    monkeypatch.setenv("WANDB_MODE", "online")
    write(workdir, "wandb")
    assert calls[4] == ("init", "dual_encoder", "new1", "run", CONFIG, "online", "allow")


def test_mlflow_gets_the_rows_in_the_workdir_and_a_resumed_run_goes_on(package, tmp_path, monkeypatch):
    calls, workdir = package("mlflow", MLFLOW), tmp_path / "run"
    workdir.mkdir()
    write(workdir, "mlflow")
    assert calls == [("uri", f"sqlite:///{workdir}/mlflow.db"), ("experiment", "dual_encoder"), ("start", None, "run"),
                     ("params", {"seed": "3", "augment.crop": "32"}), ("metrics", {"eval/s1/recall_1": 0.5}, 1),
                     ("end",)]  # MLflow takes no '@' in a name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    write(workdir, "mlflow")
    assert calls[6:8] == [("experiment", "dual_encoder"), ("start", "new1", None)], "the server of the variable"


def test_a_failing_sink_does_not_end_the_run(package, tmp_path, capsys):
    package("wandb", WANDB)
    rows = write(tmp_path, "wandb", step=99)
    assert rows[1]["s1/recall@1"] == 0.5 and "wandb took no metrics of step 99: no network" in capsys.readouterr().out
    package("mlflow", MLFLOW.replace('calls.append(("experiment", experiment_name))', 'raise ValueError("bad uri")'))
    with pytest.raises(UserError, match=r"mlflow did not start: ValueError: bad uri; .* --config.schedule.log_to="):
        open_sink("mlflow", tmp_path, CONFIG)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # `import` then fails
    with pytest.raises(UserError, match=rf"log_to is '{name}', which is not installed; .* dual_encoder\[{name}\]"):
        open_sink(name, tmp_path, CONFIG)
    assert open_sink("", tmp_path, CONFIG) is None
