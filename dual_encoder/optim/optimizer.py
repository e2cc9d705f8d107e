"""The optimizer: one optax chain from the config."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from dual_encoder.config import AtLeast, Before, require
from dual_encoder.optim.schedules import AnyDecay, Cosine, warmup_and_decay

RateFactor = Callable[[tuple[str, ...]], float]  # path of a parameter -> factor of its learning rate

_SCALAR_PEAK = 1e-3  # rate at which the scalars of a loss are trained under LARS and SGD


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate.

    Attributes:
      name: 'lars', 'lamb', 'adamw' or 'sgd'.
      learning_rate: peak rate before scaling.
      scaling: 'none', 'linear' (x batch / 256) or 'sqrt' (x sqrt(batch)).
      warmup: share of all steps with a linearly rising rate.
      decay: how the rate falls after the warm-up; see `schedules`.
      weight_decay: applied to kernels only, never to biases and norms.
      momentum: of lars and sgd.
      clip_norm: gradients are scaled down to this global norm; 0 is off.
      ema: decay of a moving average of the weights, for example 0.999; evaluation, fine-tuning and export then use the
        average. 0 is off.
    """

    name: Literal["lars", "lamb", "adamw", "sgd"]
    learning_rate: float
    scaling: Literal["none", "linear", "sqrt"]
    warmup: float
    decay: Annotated[AnyDecay, Before(dataclasses.asdict(Cosine()))]
    weight_decay: Annotated[float, AtLeast(0)]
    momentum: Annotated[float, AtLeast(0)]
    clip_norm: Annotated[float, AtLeast(0)]
    ema: Annotated[float, AtLeast(0), Before(0.0)]

    def check(self, path: str) -> None:
        """Raises UserError for a share outside [0, 1), or a rate that is not positive."""
        require(0 <= self.warmup < 1, f"{path}.warmup", self.warmup, "a share in [0, 1)")
        require(self.momentum < 1, f"{path}.momentum", self.momentum, "a share in [0, 1)")
        require(self.ema < 1, f"{path}.ema", self.ema, "a decay in [0, 1)")
        require(self.learning_rate > 0, f"{path}.learning_rate", self.learning_rate, "more than 0")


def learning_rate(config: OptimizerConfig, batch_size: int, steps: int) -> optax.Schedule:
    """Returns the schedule: linear warm-up to the scaled peak, then the configured decay to the end of `steps`.

    Scaling rules: 'linear' peak = rate x batch / 256 (Goyal et al. 2017), 'sqrt' peak = rate x sqrt(batch)
    (SimCLR, Chen et al. 2020, appendix B.1).
    """
    factor = {"none": 1.0, "linear": batch_size / 256, "sqrt": batch_size**0.5}[config.scaling]
    return warmup_and_decay(config.learning_rate * factor, config.warmup, steps, config.decay)


def rate_at(schedule: optax.Schedule, update: int) -> float:
    """Returns the learning rate of update number `update`, counted from 1."""
    with jax.numpy_dtype_promotion("standard"):
        return float(schedule(jnp.int32(update - 1)))


def is_kernel(params: Any) -> Any:
    """Returns a tree of bool: True for kernels; False for biases, norms, positions, class tokens and scalars.

    Only kernels take weight decay and layer-wise adaptation (SimCLR, appendix B.1).
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make_optimizer(config: OptimizerConfig, batch_size: int, steps: int, frozen: tuple[str, ...] = (),
                   factor: RateFactor | None = None) -> optax.GradientTransformation:
    """Returns the optimizer named in the config.

    With LARS and SGD, Adam trains the scalars (log_scale and bias of the loss): at a rate scaled for kernels, such as
    4.8 for LARS at a batch of 4096, and with momentum, they diverge within some steps.

    Args:
      config: the choice.
      batch_size: global batch, for the scaling rule.
      steps: length of the schedule.
      frozen: top-level names of the parameter tree that never change.
      factor: of the learning rate of each parameter, and so of its weight decay; 0: it never changes. None: 1.
    """
    rate = learning_rate(config, batch_size, steps)
    optimizer = {
        "lars": lambda: optax.lars(rate, config.weight_decay, weight_decay_mask=is_kernel, trust_coefficient=0.001,
                                   trust_ratio_mask=is_kernel, momentum=config.momentum),
        "lamb": lambda: optax.chain(  # optax.lamb would adapt biases and scales too
            optax.scale_by_adam(eps=1e-6), optax.add_decayed_weights(config.weight_decay, is_kernel),
            optax.masked(optax.scale_by_trust_ratio(), is_kernel), optax.scale_by_learning_rate(rate)),
        "adamw": lambda: optax.adamw(rate, weight_decay=config.weight_decay, mask=is_kernel),
        "sgd": lambda: optax.chain(optax.add_decayed_weights(config.weight_decay, is_kernel),
                                   optax.sgd(rate, momentum=config.momentum)),
    }[config.name]()
    if config.name in ("lars", "sgd"):
        scalars = optax.adam(warmup_and_decay(_SCALAR_PEAK, config.warmup, steps, config.decay))
        optimizer = optax.partition({"layers": optimizer, "scalars": scalars},
                                    lambda params: jax.tree.map(lambda p: "layers" if p.ndim else "scalars", params))
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    if factor is not None:
        scaled = optax.chain(optimizer, optax.stateless(lambda updates, _: _map_paths(
            lambda path, update: update * factor(path), updates)))
        optimizer = optax.partition({"trained": scaled, "frozen": optax.set_to_zero()}, lambda params: _map_paths(
            lambda path, _: "trained" if factor(path) else "frozen", params))
    if frozen:
        optimizer = optax.partition(
            {"trained": optimizer, "frozen": optax.set_to_zero()},
            lambda params: {name: "frozen" if name in frozen else "trained" for name in params})
    return _under_standard_promotion(optimizer)


def _map_paths(function: Callable[[tuple[str, ...], Any], Any], tree: Any) -> Any:
    """Returns the tree of function(path of a leaf, leaf)."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(tuple(key.key for key in path), leaf), tree)


def update_average(old: Any, new: Any, decay: float, step: jax.Array) -> Any:
    """Returns old + (1 - d) (new - old), d = min(decay, (1 + step) / (10 + step)).

    The smaller decay of the first steps forgets the random weights (as tf.train.ExponentialMovingAverage does).

    Args:
      old: trees of float32, or {} if the run keeps no average.
      new: trees of the same structure.
      decay: in [0, 1).
      step: [] int32, updates before this one.
    """
    if not old:
        return old
    count = step.astype(jnp.float32)
    return optax.incremental_update(new, old, 1.0 - jnp.minimum(decay, (1.0 + count) / (10.0 + count)))


def _under_standard_promotion(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """optax mixes int32 counters with floats, which JAX's strict dtype promotion refuses."""
    def update(grads, state, params):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(grads, state, params)

    return optax.GradientTransformation(optimizer.init, update)
