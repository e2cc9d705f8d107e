"""The training step: one update of the state, compiled for all devices of a mesh."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dual_encoder.optim.optimizer import update_average
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.state import TrainState
from dual_encoder.tasks.task import Task, TaskConfig


def train_step(state: TrainState, batch: Mapping[str, jax.Array], *, task: Task,
               optimizer: optax.GradientTransformation, seed: int, ema: float
               ) -> tuple[TrainState, dict[str, jax.Array]]:
    """Makes one update; a pure function of (state, batch). A non-finite update is not applied.

    Args:
      state: donated by `compile_step`.
      batch: the global batch, raw integers, and `stop` [batch] bool.
      task, optimizer, seed, ema: bound at compile time.

    Returns:
      The next state and metrics, [] float32 each; [] bool are `finite` and `stop`: a process got the signal to stop.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    (loss, (batch_stats, metrics)), grads = jax.value_and_grad(task.loss, has_aux=True)(
        state.params, state.batch_stats, batch, key)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = task.project(optax.apply_updates(state.params, updates))
    grad_norm, param_norm = optax.tree.norm(grads), optax.tree.norm(params)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(param_norm)
    average = update_average(state.average, {"params": params, "batch_stats": batch_stats}, ema, state.step)
    proposed = TrainState(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state,
                          average=average)
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), proposed, state)
    return state, metrics | {"loss": loss, "grad_norm": grad_norm, "param_norm": param_norm, "finite": finite,
                             "stop": jnp.any(batch["stop"])}


def init_state(task: Task, optimizer: optax.GradientTransformation, config: TaskConfig,
               mesh: Mesh) -> TrainState:
    """Returns the state at step 0, replicated over the mesh."""
    params, batch_stats = task.init(jax.random.key(config.seed))
    average = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}) if config.optimizer.ema else {}
    state = TrainState(step=jnp.int32(0), params=params, batch_stats=batch_stats,
                       opt_state=jax.jit(optimizer.init)(params), average=average)
    return jax.device_put(state, mesh_lib.replicated(mesh))


def bind_step(task: Task, optimizer: optax.GradientTransformation, config: TaskConfig):
    """Returns `train_step` of a run: (state, batch) -> (state, metrics)."""
    return functools.partial(train_step, task=task, optimizer=optimizer, seed=config.seed, ema=config.optimizer.ema)


def compile_step(task: Task, optimizer: optax.GradientTransformation, config: TaskConfig,
                 mesh: Mesh):
    """Returns `bind_step` as one program over all devices of the mesh: (state, batch) -> (state, metrics)."""
    replicated = mesh_lib.replicated(mesh)
    return jax.jit(bind_step(task, optimizer, config), donate_argnums=0,
                   in_shardings=(replicated, mesh_lib.by_row(mesh)), out_shardings=(replicated, replicated))
