"""Writes imported encoders as the workdir of a pre-training run of no step: config.json, run.json, a checkpoint.

Evaluation, probes, fine-tuning, experiments and export read it as any other run. Its projection head is the identity,
so evaluations of a pre-trained run compare the vectors of the encoders themselves.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from dual_encoder.config import parse, to_dict
from dual_encoder.data.config import IMPORTED
from dual_encoder.data.manifest import DatasetInfo, TensorInfo
from dual_encoder.errors import UserError
from dual_encoder.import_weights.source import Encoder
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.state import TrainState
from dual_encoder.tasks.pretrain import PretrainConfig
from dual_encoder.workdir import folder as workdir_lib
from dual_encoder.workdir.checkpoint import Checkpoints

_SIZES = {"resnet": 224, "croma": 120}  # pixels; these take any size, and published ones were made for these


def write(encoders: Mapping[str, Encoder], workdir: epath.Path) -> int:
    """Writes the workdir.

    Args:
      encoders: feature -> encoder; all of one architecture.
      workdir: to write; the same weights may be there already.

    Returns:
      the number of parameters of the encoders.

    Raises:
      UserError: the encoders differ in architecture, or the folder holds another run.
    """
    first = next(iter(encoders.values()))
    for name, one in encoders.items():
        if one.config != first.config:
            raise UserError(f"the encoders differ: {first.config} and, of '{name}', {one.config}; import them to "
                            "workdirs of their own")
    params: dict[str, Any] = {}
    batch_stats: dict[str, Any] = {}
    for name, one in encoders.items():
        params[f"{name}_encoder"] = one.variables["params"]
        if "batch_stats" in one.variables:
            batch_stats[f"{name}_encoder"] = one.variables["batch_stats"]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    dim = _dim(first.config, first.variables)
    # A ResNet's vectors are not negative, so a ReLU leaves them as they are.
    hidden = dim if first.config.family == "resnet" else 2 * dim
    params |= {f"{name}_head": _identity(dim, hidden) for name in encoders}
    config = to_dict(_config(encoders, first.config, dim, hidden))
    facts = workdir_lib.facts(config, _info(encoders, _size(first.config)),
                              {name: one.sensor for name, one in encoders.items()})
    workdir_lib.check(workdir, facts)
    with workdir_lib.claim(workdir):
        checkpoints = Checkpoints(workdir, 1, facts)
        try:
            checkpoints.save(0, jax.tree.map(jnp.asarray, TrainState(
                step=jnp.int32(0), params=params, batch_stats=batch_stats, opt_state=(), average={})))
        finally:
            checkpoints.close()
        workdir_lib.record_run(workdir, facts, parameters)
    return parameters


def _dim(config: AnyEncoder, variables: Mapping[str, Any]) -> int:
    """Returns the length of the encoder's vectors."""
    bands = variables["params"][config.first_layer]["kernel"].shape[2]
    image = jnp.zeros((1, _size(config), _size(config), bands))
    vectors: Any = jax.eval_shape(lambda: config.make().apply(variables, image, False).pooled)  # type: ignore[union-attr]
    return vectors.shape[-1]


def _size(config: AnyEncoder) -> int:
    return config.image_size if config.family == "vit" else _SIZES[config.family]


def _identity(dim: int, hidden: int) -> dict[str, Any]:
    """Returns a projection head that gives back its input x: relu(x), or relu(x) - relu(-x) with twice the width."""
    one = np.eye(dim, dtype=np.float32)
    both = one if hidden == dim else np.concatenate([one, -one], axis=1)
    return {"hidden": {"kernel": both, "bias": np.zeros(hidden, np.float32)},
            "out": {"kernel": both.T.copy(), "bias": np.zeros(dim, np.float32)}}


def _config(encoders: Mapping[str, Encoder], encoder: AnyEncoder, dim: int, hidden: int) -> PretrainConfig:
    """Returns the configuration of a pre-training run of these encoders; keys about its training mean nothing."""
    return parse(PretrainConfig, {
        "task": "pretrain", "seed": 0, "batch_size": 2, "inputs": "+".join(encoders), "encoder": to_dict(encoder),
        "data": {"dir": IMPORTED, "split": "train", "eval_split": "test", "statistics": "", "threads": 1},
        "projection": {"hidden": hidden, "dim": dim},
        "loss": {"name": "info_nce" if len(encoders) > 1 else "nt_xent", "temperature": 0.1,
                 "learnable_temperature": False, "false_negatives": "mask", "chunk": 0},
        "augment": {"crop": _size(encoder), "flips": False, "turns": False, "sar_gain_db": 0.0, "sar_looks": 0,
                    "optical_brightness": 0.0, "optical_contrast": 0.0},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "scaling": "none", "warmup": 0.0, "weight_decay": 0.0,
                      "momentum": 0.9, "clip_norm": 0.0},
        "schedule": {"epochs": 0, "steps": 1, "log_every": 0, "eval_every": 0, "checkpoint_every": 0, "keep": 1},
    }, stored=True)


def _info(encoders: Mapping[str, Encoder], size: int) -> DatasetInfo:
    """Returns the description of the data that the encoders were trained with, as far as it is known."""
    sensors = {name: one.sensor for name, one in encoders.items()}
    many = len(encoders) > 1
    source = {f"{name}: {key}" if many else key: value for name, one in encoders.items()
              for key, value in one.facts.items()}
    source |= {"importer": "import_weights", "licence": "not in the file; it is that of the published weights",
               "notes": "what the encoder was trained with is not in its file"}
    first = next(iter(encoders.values()))
    return DatasetInfo(
        name="published_weights", config=first.facts["layout"], version="-", sensors=sensors,
        tensors={name: TensorInfo(spec.dtype, (size, size, len(spec.bands))) for name, spec in sensors.items()},
        label=None, source=source, shards={},
        fingerprint=hashlib.sha256("\n".join(one.sha256 for one in encoders.values()).encode()).hexdigest())
