"""Fills in what a configuration leaves to the data, the device, and the run that it starts from.

The result is stored with the run, and a run that goes on takes it from there.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from etils import epath
from jax.sharding import Mesh

from dual_encoder.config import flatten, parse
from dual_encoder.data.config import AUTO
from dual_encoder.data.manifest import DatasetInfo, load_info
from dual_encoder.errors import UserError
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.runtime import cores
from dual_encoder.tasks.downstream import DownstreamConfig
from dual_encoder.tasks.sizing import Facts, sizes
from dual_encoder.tasks.sources import load_start
from dual_encoder.tasks.task import TaskConfig
from dual_encoder.workdir.checkpoint import LoadedModel
from dual_encoder.workdir.folder import read_json

T = TypeVar("T", bound=TaskConfig)

_COMPUTE = ("dtype", "remat")  # keys of an encoder that change none of its parameters
_VALIDATION = "validation"


def resolve(config: T, mesh: Mesh, overridden: Sequence[str] = (), workdir: epath.Path | None = None
            ) -> tuple[T, tuple[str, ...]]:
    """Returns the configuration with all values, and lines that say what was chosen.

    Args:
      config: of a run.
      mesh: the devices.
      overridden: key paths that the user gave; they stay as they are.
      workdir: folder of the run, which may have begun: its values are kept.

    Raises:
      UserError: a value that the user gave contradicts the run to start from; the data cannot be opened.
    """
    stored = _stored(workdir)
    notes: list[str] = []
    if config.sizing == AUTO:
        config = _sized(config, mesh, overridden, stored, notes)
    if isinstance(config, DownstreamConfig) and config.init_from:
        config = _with_encoder(config, load_start(config.init_from, config.init_step, workdir)[0], overridden)
    if config.data.select_split == AUTO:
        config = _with_choice(config, overridden, stored, notes)
    if hasattr(config, "check"):
        config.check("config")
    return config, tuple(notes)


def replaced(config: Any, path: str, value: Any) -> Any:
    """Returns a copy of a nested dataclass with another value at 'a.b.c'."""
    name, _, rest = path.partition(".")
    return dataclasses.replace(config, **{name: replaced(getattr(config, name), rest, value) if rest else value})


def _stored(workdir: epath.Path | None) -> dict[str, Any]:
    """Returns the configuration of a run that has begun, by key paths; {} if there is none."""
    if workdir is None or not (workdir / "config.json").exists():
        return {}
    return flatten(read_json(workdir / "config.json"))


def _sized(config: T, mesh: Mesh, overridden: Sequence[str], stored: Mapping[str, Any], notes: list[str]) -> T:
    """Returns the configuration with the sizes of `sizing.sizes`, except those that the user gave."""
    infos = [load_info(folder.strip()) for folder in config.data.dir.split(",")]
    facts = Facts(records=_records(infos), size=min(side for info in infos for name in config.sensors
                                                    if name in info.tensors for side in info.tensors[name].shape[:2]),
                  platform=mesh.devices.flat[0].platform, devices=mesh.size, cores=cores.usable(),
                  encoders=len(config.sensors) + isinstance(config, DownstreamConfig))
    values = {key: stored.get(key, value) for key, value in sizes(facts, {
        "data.split": config.data.split, "data.eval_split": config.data.eval_split}).items() if key not in overridden}
    for key, value in values.items():
        config = replaced(config, key, value)
    config = dataclasses.replace(config, sizing="fixed")
    notes.append("sizes for this data and device: " + " ".join(f"--config.{key}={value}" for key, value in
                                                               values.items()))
    return config


def _records(infos: Sequence[DatasetInfo]) -> dict[str, int]:
    """Returns the number of records of each split that has any, over all data sets."""
    counts: dict[str, int] = {}
    for info in infos:
        for split, shards in info.shards.items():
            counts[split] = counts.get(split, 0) + sum(shard["records"] for shard in shards)
    return {split: count for split, count in counts.items() if count}


def _with_encoder(config: DownstreamConfig, model: LoadedModel, overridden: Sequence[str]) -> Any:
    """Returns the configuration with the encoder of a checkpoint, whose weights fit no other.

    Raises:
      UserError: the user gave a key of the encoder another value.
    """
    encoder: AnyEncoder = parse(AnyEncoder, model.config["encoder"], stored=True, name="config.encoder")
    for key in overridden:
        group, _, name = key.partition(".")
        given, theirs = getattr(config.encoder, name, None), getattr(encoder, name, None)
        if group == "encoder" and name not in _COMPUTE and given != theirs:
            raise UserError(f"--config.{key}={given} contradicts the run '{config.init_from}', whose encoder "
                            f"has {name}={theirs}; leave it out, or train from random weights with --config.init_from=")
    kept = {name: getattr(config.encoder, name) for name in _COMPUTE}
    return dataclasses.replace(config, encoder=dataclasses.replace(encoder, **kept))


def _with_choice(config: T, overridden: Sequence[str], stored: Mapping[str, Any], notes: list[str]) -> T:
    """Returns the configuration with data.select_split='validation' if that split can choose the checkpoint, else ''.

    Without a choice the evaluation split is scored once, at the end, unless the user wants it more often.
    """
    data = config.data
    if stored:  # of an earlier version, perhaps
        for key in ("data.select_split", *(["schedule.eval_every"] if "schedule.eval_every" not in overridden else [])):
            config = replaced(config, key, stored.get(key, "" if key == "data.select_split" else 0))
        return config
    infos = [load_info(folder.strip()) for folder in data.dir.split(",")]
    used = {*data.split.split("+"), *data.eval_split.split("+")}
    can = _VALIDATION in _records(infos) and _VALIDATION not in used and not data.subset.folds
    if can and config.schedule.eval_every:
        notes.append(f"the state with the best score on '{_VALIDATION}' is kept in WORKDIR/best and scored on "
                     f"'{data.eval_split}', once, at the end")
        return replaced(config, "data.select_split", _VALIDATION)
    config = replaced(config, "data.select_split", "")
    if config.schedule.eval_every and "schedule.eval_every" not in overridden:
        notes.append(f"no split '{_VALIDATION}' is left to choose the state on: the last one is scored, once, at the "
                     "end (--config.data.select_split=held_out chooses on a fifth of the places)")
        config = replaced(config, "schedule.eval_every", 0)
    return config
