"""The sizes of a run with config.sizing=auto: encoder, crop, batch and steps, by the records and the device.

The aim is a first result, not the best one: some minutes on the cores of a CPU, an hour on a GPU or TPU. The speeds are
rough; docs/sizes.md has measured ones.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

_MINUTES = 5  # of training on a CPU
_CPU_RATE = 125  # images of 64 px per second and core through an encoder of width 16
_CPU_CROP, _CPU_WIDTH = 96, 16
_CROP, _WIDTH = 224, 64  # of a GPU or TPU
_MANY = 20_000  # records that are worth a ResNet-50
_LOGS, _CHOICES = 40, 5  # rows of the log, and states to choose from, of a whole run
_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Facts:
    """What sizes depend on.

    Attributes:
      records: of each split that has any.
      size: least side of the images, in pixels.
      platform: 'cpu', 'gpu', 'tpu', ...
      devices: their number.
      cores: of the CPU that this process may use.
      encoders: encoders that see each record, and decoders.
    """

    records: Mapping[str, int]
    size: int
    platform: str
    devices: int
    cores: int
    encoders: int


def sizes(facts: Facts, learnt: Mapping[str, str]) -> dict[str, Any]:
    """Returns key path -> value of a configuration.

    Args:
      facts: of the data and the device.
      learnt: the keys data.split and data.eval_split of the configuration.
    """
    values = _splits(facts.records, learnt)
    count = sum(facts.records.get(split, 0) for split in values["data.split"].split("+"))
    if values.get("data.subset.folds"):
        count -= count // _FOLDS
    cpu = facts.platform == "cpu"
    width, crop = (_CPU_WIDTH, _crop(facts.size, _CPU_CROP, 16)) if cpu else (_WIDTH, _crop(facts.size, _CROP, 32))
    batch = _batch(count, 64 if cpu else 256, facts.devices)
    if cpu:
        rate = _CPU_RATE * facts.cores * (64 / (crop or facts.size)) ** 2 * 2 / facts.encoders
        epochs = min(max(round(60 * _MINUTES * rate / max(count, 1)), 5), 100)
    else:
        epochs = min(max(2_000_000 // max(count, 1), 20), 200)
    steps = epochs * max(count // batch, 1)
    every = max(1, steps // _CHOICES)
    return values | {
        "batch_size": batch, "encoder.family": "resnet", "encoder.depth": 50 if not cpu and count > _MANY else 18,
        "encoder.width": width, "encoder.dtype": "float32" if cpu else "bfloat16", "augment.crop": crop,
        "data.threads": max(1, min(facts.cores, 16)), "schedule.epochs": epochs,
        "schedule.log_every": max(1, steps // _LOGS), "schedule.eval_every": every,
        "schedule.checkpoint_every": every}


def _splits(records: Mapping[str, int], learnt: Mapping[str, str]) -> dict[str, Any]:
    """Returns the splits to learn from and to score; without a second split a fifth of the places is held out."""
    split, scored = learnt["data.split"], learnt["data.eval_split"]
    if not set(split.split("+")) <= set(records):
        split = next(name for name in ("train", "validation", *records) if name in records)
    if scored not in records or scored in split.split("+"):
        scored = next((name for name in ("test", "validation", *records)
                       if name in records and name not in split.split("+")), "")
    return {"data.split": split, "data.eval_split": scored} if scored else {
        "data.split": split, "data.eval_split": split, "data.subset.folds": _FOLDS}


def _crop(size: int, most: int, step: int) -> int:
    """Returns a crop of at most `most` pixels, a multiple of `step`; 0, whole images, if they are smaller than that."""
    return min(size, most) // step * step


def _batch(count: int, most: int, devices: int) -> int:
    """Returns a power of two with five batches or more in an epoch, at least 8, rounded up to whole devices."""
    batch = 8
    while batch * 2 <= min(most, count // 5):
        batch *= 2
    batch = min(batch, max(count, 2))
    return -(-batch // devices) * devices
