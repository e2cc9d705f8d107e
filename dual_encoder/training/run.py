"""Runs a configuration of any task in a workdir: what main.py does for one, and an experiment for many."""

from collections.abc import Callable
from typing import Any

from etils import epath
from jax.sharding import Mesh

from dual_encoder.tasks.build import AnyConfig, EvaluateConfig, build
from dual_encoder.tasks.probe import ProbeConfig
from dual_encoder.training.evaluate import evaluate
from dual_encoder.training.loop import fit
from dual_encoder.training.probe import probe


def run(config: AnyConfig, mesh: Mesh, workdir: epath.Path, *, profile_steps: int = 0,
        after_evaluation: Callable[[epath.Path], Any] = lambda workdir: None) -> None:
    """Trains, evaluates or probes, as the configuration says.

    Args:
      config: of one task.
      mesh: the devices.
      workdir: folder of the run.
      profile_steps, after_evaluation: of a training run; see `fit`.

    Raises:
      UserError: data, checkpoint, workdir and configuration do not fit together.
      SystemExit: with code 75 after a signal to stop, when a training run is saved.
    """
    if isinstance(config, EvaluateConfig):
        evaluate(config, mesh, workdir)
    elif isinstance(config, ProbeConfig):
        probe(config, mesh, workdir)
    else:
        fit(build(config, mesh), mesh, workdir, profile_steps=profile_steps, after_evaluation=after_evaluation)
