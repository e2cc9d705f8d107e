"""Configuration as frozen dataclasses. The values stand in configs/*.py; nothing here has a default.

Unknown, missing and mistyped keys are errors that name the nearest valid key.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from dual_encoder.errors import UserError, nearest

T = TypeVar("T")

WITHOUT_NEGATIVES = ("barlow", "decur", "vicreg")  # objectives that compare no pair with others


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Attributes:
      dir: data set folder made by `python -m data_prep build` (it holds manifest.json), local or in a bucket; several
        folders joined by ',' are mixed.
      split: split to train on; 'train+validation' joins two.
      weights: share of each folder of `dir` in the batches, in any unit; () mixes them in proportion to their records.
      eval_split: split to evaluate on, of all folders that have it.
      statistics: JSON file of `python -m data_prep stats`; '' takes the statistics of the data set's sensors.
      threads: reading threads per process; from a bucket, the range requests under way at once.
      processes: reading processes per host; 0 reads in the training process. They hand batches over in /dev/shm.
      max_bad_records: how many damaged records of a split may be replaced by the next sound one before a process stops;
        0 stops at the first.
    """

    dir: str
    split: str
    weights: tuple[float, ...]
    eval_split: str
    statistics: str
    threads: int
    processes: int
    max_bad_records: int


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Attributes:
      family: 'resnet' or 'vit'.
      depth: of a ResNet 18, 34, 50 or 101; of a ViT its number of blocks (Ti, S and B: 12, L: 24).
      width: channels of a ResNet's stem, 64 in the standard ones; of a ViT's tokens, a multiple of 64 (Ti: 192, S: 384,
        B: 768, L: 1024).
      norm: of a ResNet: 'batch', or 'group', which treats every image for itself.
      patch: side of a ViT's patches in pixels, 4, 8, 16 or 32.
      image_size: side of the images that a ViT keeps positions for; those of other sizes are interpolated.
      pool: of a ViT: 'token', or 'mean' of the tokens without a class token.
      positions: of a ViT: 'learned', or 'sincos', which are fixed.
      remat: recompute the inside of each block in the backward pass: less memory, more time.
      dtype: compute dtype, 'float32' or 'bfloat16'; parameters, norms and loss are float32.
    """

    family: Literal["resnet", "vit"]
    depth: int
    width: int
    norm: Literal["batch", "group"]
    patch: int
    image_size: int
    pool: Literal["token", "mean"]
    positions: Literal["learned", "sincos"]
    remat: bool
    dtype: Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class ProjectionConfig:
    """Attributes:
      hidden: width of the hidden layer of the projection head.
      dim: width of the embeddings that the loss compares.
    """

    hidden: int
    dim: int


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The pre-training objective; dual_encoder/losses has the formulas.

    Attributes:
      name: with negatives: 'info_nce' (of the other sensor), 'nt_xent' (of both sensors), 'iai_simclr' (nt_xent between
        and within sensors), 'sigmoid' (SigLIP); without: 'barlow', 'decur', 'vicreg'.
      temperature: (initial) temperature; similarities are divided by it. Only with negatives.
      learnable_temperature: learn the log of 1 / temperature, clamped at 100. Only with negatives.
      bias: initial bias of the logits, which is learned. Only 'sigmoid'.
      false_negatives: what pairs of one location in a batch are to each other: negatives ('keep'), nothing ('mask') or
        further positives ('positive'). Objectives without negatives take 'keep'.
      chunk: side of the tiles in which pairs are compared, so that no [batch, batch] matrix is held; 0 holds it.
        Changes no value. Only with negatives.
      off_diagonal: weight of the correlations between different dimensions. Only 'barlow' and 'decur'.
      common: share of the dimensions that the sensors have in common. Only 'decur'.
      vicreg: weights of invariance, variance and covariance. Only 'vicreg'.
    """

    name: Literal["info_nce", "nt_xent", "iai_simclr", "sigmoid", "barlow", "decur", "vicreg"]
    temperature: float
    learnable_temperature: bool
    bias: float
    false_negatives: Literal["keep", "mask", "positive"]
    chunk: int
    off_diagonal: float
    common: float
    vicreg: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Paired geometry (equal for all images of a record) and photometric options.

    Attributes:
      crop: side of the random crop in pixels; 0 keeps the whole image.
      flips: random horizontal and vertical flips.
      turns: random turns by 90 degrees.
      sar_gain_db: standard deviation of a gain per image, in dB; 0 is off.
      sar_looks: speckle of a multi-look image with this number of looks, multiplied in; 0 is off.
      optical_brightness: reflectance is multiplied by 1 + u, u uniform in +-this, per image; 0 is off.
      optical_contrast: the same about the image's mean per band; 0 is off.
    """

    crop: int
    flips: bool
    turns: bool
    sar_gain_db: float
    sar_looks: int
    optical_brightness: float
    optical_contrast: float


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Attributes:
      name: 'lars', 'lamb', 'adamw' or 'sgd'.
      learning_rate: peak rate before scaling.
      scaling: 'none', 'linear' (x batch / 256) or 'sqrt' (x sqrt(batch)).
      warmup: share of all steps with a linearly rising rate; cosine decay to zero follows.
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
    weight_decay: float
    momentum: float
    clip_norm: float
    ema: float


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Attributes:
      epochs: passes over the data; the last incomplete batch of a pass is left out.
      steps: number of steps; when not 0 it counts instead of epochs.
      log_every, eval_every, checkpoint_every: in steps; 0 leaves only the end of the run.
      keep: checkpoints kept, newest first.
    """

    epochs: int
    steps: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    keep: int


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Attributes:
      micro_batch: rows, over all devices, whose activations are held at one time; the gradient stays that of the whole
        batch, at the price of one more forward pass. BatchNorm takes its statistics over a micro-batch. 0 is off.
    """

    micro_batch: int


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """Pre-training of one encoder per sensor. batch_size is global, over all devices of all hosts.

    Attributes:
      inputs: 's1+s2', the sensors of a pair; or 's1' or 's2', two augmentations of each image of one sensor (SimCLR).
    """

    task: Literal["pretrain"]
    seed: int
    batch_size: int
    inputs: Literal["s1+s2", "s1", "s2"]
    data: DataConfig
    encoder: EncoderConfig
    projection: ProjectionConfig
    loss: LossConfig
    augment: AugmentConfig
    train: TrainConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """Segmentation on labelled tiles.

    Attributes:
      init_from: workdir of a pre-training run; '' starts from random weights.
      init_step: checkpoint step of it; -1 takes the newest.
      inputs: 's1', 's2' or 's1+s2' (features of both, concatenated per level).
      frozen: keep the encoder and its BatchNorm statistics as they are.
      decoder_width: channels of the decoder's last level; each level below has twice as many.
      class_weights: 'none', or 'inverse' (one over the class's pixel share in 2,000 random training tiles, mean 1).
    """

    task: Literal["finetune"]
    seed: int
    batch_size: int
    init_from: str
    init_step: int
    inputs: Literal["s1", "s2", "s1+s2"]
    frozen: bool
    decoder_width: int
    class_weights: Literal["none", "inverse"]
    data: DataConfig
    encoder: EncoderConfig
    augment: AugmentConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Cross-modal retrieval with a pre-trained checkpoint; with one sensor, of each image by itself turned upside down.

    Attributes:
      init_from: workdir of the pre-training run.
      init_step: checkpoint step; -1 takes the newest.
      data_dir: data set folder; '' takes the one of the pre-training run.
      split: split to evaluate on; '' takes the eval_split of the pre-training run.
      batch_size: images per forward pass, 64 at most; it changes no figure.
    """

    task: Literal["evaluate"]
    init_from: str
    init_step: int
    data_dir: str
    split: str
    batch_size: int


_TASKS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "evaluate": EvaluateConfig}
Config = PretrainConfig | FinetuneConfig | EvaluateConfig


def parse(values: Mapping[str, Any]) -> Config:
    """Turns the nested mapping of a config file into the dataclass of its `task`.

    Raises:
      UserError: an unknown, missing or mistyped key, or a value that cannot be right.
    """
    task = values.get("task")
    if task not in _TASKS:
        raise UserError(f"config.task is {task!r}; {nearest(str(task), _TASKS)}")
    config = _build(_TASKS[task], values, "config")
    _validate(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Returns nested plain dictionaries, as config.json and checkpoints hold them."""
    return dataclasses.asdict(config)


def key_paths(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns 'a', 'a.b', ... of every key of a nested mapping."""
    paths = []
    for key, value in values.items():
        paths.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            paths += key_paths(value, f"{prefix}{key}.")
    return paths


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns key path -> (old value, new value) of the leaves that differ between two nested mappings.

    A tuple and the list that JSON makes of it are equal.
    """
    flat_old, flat_new = _flatten(old), _flatten(new)
    pairs = {key: (flat_old.get(key), flat_new.get(key)) for key in sorted(flat_old | flat_new)}
    return {key: pair for key, pair in pairs.items() if len({json.dumps(value) for value in pair}) > 1}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _build(cls: type[T], values: Mapping[str, Any], path: str) -> T:
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UserError(f"unknown config key '{path}.{key}'; {nearest(key, hints)}")
    for key in hints:
        if key not in values:
            raise UserError(f"config key '{path}.{key}' is missing; add it to the config file")
    return cls(**{key: _convert(hint, values[key], f"{path}.{key}") for key, hint in hints.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"{path} is {value!r}; expected a group of keys")
        return _build(hint, value, path)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise UserError(f"{path} is {value!r}; {nearest(str(value), choices)}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{path} is {value!r}; expected values in parentheses, or ()")
        return tuple(_convert(typing.get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    assert not isinstance(hint, types.UnionType), f"{path}: unions are not used in configs"
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{path} is {value!r} ({type(value).__name__}); expected {hint.__name__}")
    _require(hint is not float or math.isfinite(value), path, value, "a finite number")
    return value


_MINIMA = {
    "batch_size": 1, "data.threads": 1, "data.processes": 0, "data.max_bad_records": 0, "encoder.width": 1,
    "projection.hidden": 1, "projection.dim": 1, "decoder_width": 1, "augment.crop": 0, "augment.sar_looks": 0,
    "augment.sar_gain_db": 0, "augment.optical_brightness": 0, "augment.optical_contrast": 0,
    "optimizer.weight_decay": 0, "optimizer.momentum": 0, "optimizer.clip_norm": 0, "schedule.epochs": 0,
    "schedule.steps": 0, "schedule.log_every": 0, "schedule.eval_every": 0, "schedule.checkpoint_every": 0,
    "schedule.keep": 1, "loss.temperature": 0.01, "loss.chunk": 0, "loss.off_diagonal": 0, "seed": 0,
    "optimizer.ema": 0, "train.micro_batch": 0,
}
# JAX's keys and step counters have 32 bits; a reflectance is multiplied by 1 - brightness at least.
_MAXIMA = {"seed": 2**32 - 1, "schedule.steps": 2**31 - 1, "augment.optical_brightness": 1,
           "augment.optical_contrast": 1}


def _validate(config: Config) -> None:
    values = _flatten(to_dict(config))
    for key in values:
        if key in _MINIMA:
            _require(values[key] >= _MINIMA[key], f"config.{key}", values[key], f"at least {_MINIMA[key]}")
        if key in _MAXIMA:
            _require(values[key] <= _MAXIMA[key], f"config.{key}", values[key], f"at most {_MAXIMA[key]}")
    if isinstance(config, EvaluateConfig):
        _require(config.init_from != "", "config.init_from", config.init_from, "the workdir of a pre-training run")
        return
    _require(config.data.dir != "", "config.data.dir", config.data.dir,
             "a data set folder made by `python -m data_prep build`")
    _validate_encoder(config.encoder, config.augment.crop)
    _require(config.schedule.steps + config.schedule.epochs >= 1, "config.schedule.epochs", config.schedule.epochs,
             "at least 1 (or schedule.steps)")
    _require(0 <= config.optimizer.warmup < 1, "config.optimizer.warmup", config.optimizer.warmup, "a share in [0, 1)")
    _require(config.optimizer.momentum < 1, "config.optimizer.momentum", config.optimizer.momentum, "a share in [0, 1)")
    _require(config.optimizer.ema < 1, "config.optimizer.ema", config.optimizer.ema, "a decay in [0, 1)")
    _require(config.optimizer.learning_rate > 0, "config.optimizer.learning_rate", config.optimizer.learning_rate,
             "more than 0")
    if isinstance(config, PretrainConfig):
        _require(config.batch_size >= 2, "config.batch_size", config.batch_size,
                 "at least 2: one pair has no negatives")
        micro_batch = config.train.micro_batch
        _require(micro_batch == 0 or config.batch_size % micro_batch == 0, "config.train.micro_batch", micro_batch,
                 f"0, or a divisor of config.batch_size, {config.batch_size}")
        _validate_loss(config)
    elif config.init_from:
        _require(config.data.statistics == "", "config.data.statistics", config.data.statistics,
                 "'' with config.init_from: an encoder keeps the statistics that it was trained with")


def _validate_loss(config: PretrainConfig) -> None:
    loss, common = config.loss, round(config.loss.common * config.projection.dim)
    if loss.name in WITHOUT_NEGATIVES:
        _require(loss.false_negatives == "keep", "config.loss.false_negatives", loss.false_negatives,
                 f"'keep': '{loss.name}' has no negatives")
    if loss.name in ("iai_simclr", "decur"):
        _require(config.inputs == "s1+s2", "config.inputs", config.inputs,
                 f"'s1+s2': '{loss.name}' compares two sensors")
    if loss.name == "decur":
        _require(0 < common < config.projection.dim, "config.loss.common", loss.common,
                 f"a share that leaves common and other ones of the {config.projection.dim} dimensions")
    _require(len(loss.vicreg) == 3 and min(loss.vicreg) >= 0 and max(loss.vicreg) > 0, "config.loss.vicreg",
             loss.vicreg, "three weights of at least 0, not all 0")


def _validate_encoder(encoder: EncoderConfig, crop: int) -> None:
    if encoder.family == "resnet":
        _require(encoder.depth in (18, 34, 50, 101), "config.encoder.depth", encoder.depth, "18, 34, 50 or 101")
        return
    _require(encoder.depth >= 1, "config.encoder.depth", encoder.depth, "at least 1 block")
    _require(encoder.width % 64 == 0, "config.encoder.width", encoder.width, "a multiple of 64, the width of a head")
    _require(encoder.patch in (4, 8, 16, 32), "config.encoder.patch", encoder.patch, "4, 8, 16 or 32")
    _require(encoder.image_size >= encoder.patch and encoder.image_size % encoder.patch == 0,
             "config.encoder.image_size", encoder.image_size, f"a multiple of config.encoder.patch, {encoder.patch}")
    _require(crop % encoder.patch == 0, "config.augment.crop", crop,
             f"a multiple of config.encoder.patch, {encoder.patch}, or 0 for whole images")


def _require(holds: bool, path: str, seen: Any, expected: str) -> None:
    if not holds:
        raise UserError(f"{path} is {seen!r}; expected {expected}")
