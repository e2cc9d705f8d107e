"""The pre-training objective that the configuration names."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dual_encoder.config import LossConfig
from dual_encoder.losses import contrastive, correlation
from dual_encoder.losses.contrastive import MAX_SCALE
from dual_encoder.losses.tiles import Tiles

_SCALED = ("info_nce", "nt_xent", "iai_simclr", "sigmoid")
_WITHIN_SENSORS = ("iai_simclr", "decur")


def views(config: LossConfig, sensors: Sequence[str]) -> int:
    """Returns how many augmentations of each image the objective compares, 1 or 2."""
    return 2 if config.name in _WITHIN_SENSORS or len(sensors) == 1 else 1


def scalars(config: LossConfig) -> dict[str, jax.Array]:
    """Returns the objective's own parameters, [] float32 each: `log_scale`, of 1 / temperature, and `bias`."""
    initial = {"log_scale": -jnp.log(jnp.float32(config.temperature))} if config.name in _SCALED else {}
    return initial | ({"bias": jnp.float32(config.bias)} if config.name == "sigmoid" else {})


def clamp(params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Clamps `log_scale` itself, as CLIP does: a clamp inside the loss would end its gradient."""
    clamped = {"log_scale": jnp.minimum(params["log_scale"], jnp.log(MAX_SCALE))} if "log_scale" in params else {}
    return {**params, **clamped}


def objective(config: LossConfig, embeddings: Mapping[str, Sequence[jax.Array]], params: Mapping[str, jax.Array],
              location: jax.Array, mesh: Mesh | None) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss, [] float32, and metrics.

    Args:
      config: the choice.
      embeddings: sensor -> one [batch, dim] float32 per view, as many as `views` says; two sensors, or one.
      params: holds `scalars`.
      location: [batch] int32, the place of each row.
      mesh: that the batch is sharded over; only config.chunk needs it.
    """
    if len(embeddings) == 1:
        (z1, z2), = embeddings.values()
        names, again = ("view1", "view2"), ()
    else:
        names, (z1, z2) = tuple(embeddings), (views[0] for views in embeddings.values())
        again = tuple(views[1] for views in embeddings.values() if len(views) == 2)
    if config.name in _SCALED:
        loss, metrics = _scaled(config, (z1, z2, *again), params, location, mesh)
    elif config.name == "barlow":
        loss, metrics = correlation.barlow(z1, z2, config.off_diagonal)
    elif config.name == "decur":
        loss, metrics = correlation.decur(z1, z2, *again, config.off_diagonal, round(config.common * z1.shape[1]))
    else:
        loss, metrics = correlation.vicreg(z1, z2, config.vicreg)
    return loss, {key.replace("1_to_2", "{}_to_{}".format(*names)).replace("2_to_1", "{1}_to_{0}".format(*names)): value
                  for key, value in metrics.items()}


def _scaled(config: LossConfig, embeddings: Sequence[jax.Array], params: Mapping[str, jax.Array], location: jax.Array,
            mesh: Mesh | None) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The objectives with a temperature."""
    function = {"info_nce": contrastive.info_nce, "nt_xent": contrastive.nt_xent, "iai_simclr": contrastive.iai_simclr,
                "sigmoid": contrastive.sigmoid}[config.name]
    if config.chunk and mesh is None:
        raise ValueError(f"config.loss.chunk={config.chunk} needs the mesh that the batch is sharded over")
    log_scale = params["log_scale"] if config.learnable_temperature else jax.lax.stop_gradient(params["log_scale"])
    scale = jnp.exp(log_scale)
    bias = (params["bias"],) if config.name == "sigmoid" else ()
    loss, metrics = function(*embeddings, scale, *bias,
                             location=None if config.false_negatives == "keep" else location,
                             positives=config.false_negatives == "positive",
                             tiles=Tiles(config.chunk, mesh) if config.chunk else None)
    return loss, metrics | {"temperature": 1.0 / scale} | ({"bias": params["bias"]} if bias else {})
