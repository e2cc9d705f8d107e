"""Metrics of a run for Weights & Biases or MLflow, in addition to those of the workdir.

Both work offline unless their own environment variables name a server: with WANDB_MODE=online, W&B sends the rows; else
they lie in WORKDIR/wandb, for `wandb sync`. MLflow writes to the server of MLFLOW_TRACKING_URI, else to
WORKDIR/mlflow.db, for `mlflow ui --backend-store-uri sqlite:///WORKDIR/mlflow.db`.
"""

import contextlib
import importlib
import os
import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from etils import epath

from dual_encoder.config import flatten
from dual_encoder.console import say
from dual_encoder.errors import UserError, one_line
from dual_encoder.workdir.folder import read_json, write_json

SinkName = Literal["", "wandb", "mlflow"]
_PROJECT = "dual_encoder"
_FILE = "sinks.json"  # name of a sink -> its id of this run, so that a resumed run goes on there
_MOST = 100  # parameters in one call of MLflow
_LONGEST = 500  # characters of a parameter of MLflow


class Sink(Protocol):
    """A place that gets the rows of metrics."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds values of a step."""

    def close(self) -> None:
        """Ends the run there."""


def open_sink(name: SinkName, workdir: epath.PathLike, config: Mapping[str, Any]) -> Sink | None:
    """Returns the sink of a run; None for ''.

    Args:
      name: of the package.
      workdir: of the run; a run that is resumed goes on in the sink, too.
      config: of the run, nested.

    Raises:
      UserError: the package is not installed, or refuses to start.
    """
    if not name:
        return None
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"config.schedule.log_to is '{name}', which is not installed; install the extra "
                        f"dual_encoder[{name}] (pip install {name}), or set --config.schedule.log_to=") from error
    folder = epath.Path(workdir)
    ids = read_json(folder / _FILE) if (folder / _FILE).exists() else {}
    try:
        sink = (_Wandb if name == "wandb" else _Mlflow)(package, folder, config, ids.get(name))
    except Exception as error:
        raise UserError(f"{name} did not start: {type(error).__name__}: {one_line(error)}; look at its settings, or "
                        "set --config.schedule.log_to=") from error
    write_json(folder, _FILE, ids | {name: sink.id})
    return _Tolerant(name, sink)


class _Wandb:
    def __init__(self, package: Any, workdir: epath.Path, config: Mapping[str, Any], known: str | None):
        self._run = package.init(project=_PROJECT, name=workdir.name, dir=os.fspath(workdir), config=dict(config),
                                 id=known, resume="allow", mode=os.environ.get("WANDB_MODE", "offline"))
        self._run.define_metric("*", step_metric="step")  # W&B's own counter refuses the steps of lost work
        self.id = str(self._run.id)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, package: Any, workdir: epath.Path, config: Mapping[str, Any], known: str | None):
        self._package = package
        if "MLFLOW_TRACKING_URI" not in os.environ:
            package.set_tracking_uri(f"sqlite:///{os.path.abspath(workdir / 'mlflow.db')}")
        package.set_experiment(_PROJECT)
        self.id = str(package.start_run(run_id=known, run_name=None if known else workdir.name).info.run_id)
        if known is None:
            values = [(key, str(value)[:_LONGEST]) for key, value in flatten(config).items()]
            for start in range(0, len(values), _MOST):
                package.log_params(dict(values[start:start + _MOST]))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._package.log_metrics({re.sub(r"[^\w./ -]", "_", name): value for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._package.end_run()


class _Tolerant:
    """A sink whose failure does not end the run: it is said once, and the rows stay in the workdir."""

    def __init__(self, name: str, sink: Sink):
        self._name, self._sink, self._works = name, sink, True

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if not self._works:
            return
        try:
            self._sink.write(step, values)
        except Exception as error:
            self._works = False
            say(f"{self._name} took no metrics of step {step}: {one_line(error)}; the run goes on without it, and "
                "metrics.jsonl has all rows")

    def close(self) -> None:
        with contextlib.suppress(Exception):  # the run is over, and its rows are in metrics.jsonl
            self._sink.close()
