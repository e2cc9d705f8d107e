"""A run with random weights, as a workdir with one checkpoint: quick to make, and as real as a trained one."""

import jax
import jax.numpy as jnp
from etils import epath

from dual_encoder.config import to_dict
from dual_encoder.state import TrainState
from dual_encoder.workdir import folder as workdir_lib
from dual_encoder.workdir.checkpoint import Checkpoints
from tests import runs


def save_run(config, workdir, sensors=None):
    """Writes the checkpoint of step 1 of an untrained run; returns its task, parameters and batch statistics."""
    task, records = runs.open_run(config, devices=runs.one_device(), sensors=sensors)
    params, batch_stats = task.init(jax.random.key(0))
    # Statistics as after training: those of a fresh BatchNorm hide whether they are used.
    batch_stats = jax.tree.map(lambda leaf: leaf + 0.1, batch_stats)
    epath.Path(workdir).mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir, 1, workdir_lib.facts(to_dict(config), records.info, task.sensors))
    checkpoints.save(1, TrainState(step=jnp.int32(1), params=params, batch_stats=batch_stats, opt_state=(), average={}))
    checkpoints.close()
    return task, params, batch_stats
