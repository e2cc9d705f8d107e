"""Opens what a configuration names: the records of its splits, and the checkpoint to start from."""

import os

from etils import epath

from dual_encoder.data.config import HELD_OUT, DataConfig
from dual_encoder.data.records import Records
from dual_encoder.data.selection import hold_out, select
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.tasks.bands import AdaptBands, fitted
from dual_encoder.tasks.pretrain import PretrainConfig, known_encoders
from dual_encoder.tasks.task import Task
from dual_encoder.workdir.checkpoint import LoadedModel, load_model
from dual_encoder.workdir.folder import read_json


def load(workdir: str, step: int) -> LoadedModel:
    """Returns a checkpoint of a run; step -1 is the state that the run chose, or else the newest sound one."""
    return load_model(workdir, None if step < 0 else step)


def load_start(init_from: str, step: int, workdir: epath.Path | None) -> tuple[LoadedModel, str]:
    """Returns the checkpoint that a run starts from, and the digest of its weights.

    If `init_from` is gone, a run that has begun goes on: its own newest checkpoint has the same encoders and sensors.

    Args:
      init_from, step: as of `load`.
      workdir: folder of the run, if it has one.

    Raises:
      UserError: there is no such checkpoint.
    """
    if workdir is not None and not os.path.exists(init_from) and (workdir / "checkpoints").exists():
        return load_model(workdir), read_json(workdir / "run.json").get("loaded", {}).get("init_from", "")
    model = load(init_from, step)
    return model, model.digest


def check_pretraining(model: LoadedModel, workdir: str) -> None:
    """Raises UserError if a checkpoint is of another task than pre-training."""
    if (task := model.config["task"]) != "pretrain":
        raise UserError(f"config.init_from '{workdir}' is a {task} run; give a pre-training run")


def checked(model: LoadedModel, name: str, records: Records, adapt: AdaptBands | None = None) -> SensorSpec:
    """Returns the checkpoint's spec of a sensor; UserError unless the data set stores the same bands and unit.

    `adapt`: as of `bands.fitted`.
    """
    if name not in model.sensors:
        raise UserError(f"the checkpoint has no sensor '{name}', it has {sorted(model.sensors)}; choose other inputs")
    return fitted(model.sensors[name], records.info.sensors[name], adapt, str(records.parts[0].folder))


def notes_of_start(config: PretrainConfig, model: LoadedModel) -> tuple[str, ...]:
    """Returns lines that say which encoders the checkpoint has; UserError if it has none of the configured ones."""
    known = known_encoders(config, model.variables)
    if not known:
        theirs = sorted(key for key in model.variables["params"] if key.endswith("_encoder"))
        raise UserError(f"the checkpoint has the encoders {theirs}, this run has "
                        f"{[f'{name}_encoder' for name in config.encoders]}; choose other config.inputs or "
                        "config.fusion")
    return (f"start: {', '.join(f'{name}_encoder' for name in known)} of '{config.init_from}' at step {model.step}",
            *(f"start: {name}_encoder from random weights, '{config.init_from}' has none"
              for name in config.encoders if name not in known))


def open_splits(data: DataConfig, features: tuple[str, ...]) -> tuple[Records, Records, Records | None]:
    """Returns the records for training, for evaluation, and to choose the checkpoint on, if one is chosen."""
    records, held = select(Records(data.dir, data.split, features, weights=data.weights,
                                   max_bad_records=data.max_bad_records), data.subset)
    eval_records = _open_scored(data, "eval_split", features) if held is None else held
    if data.select_split == HELD_OUT:
        rest, chosen_on = hold_out(records, data.subset.groups)
        return records.only(rest), eval_records, records.only(chosen_on)
    return records, eval_records, _open_scored(data, "select_split", features) if data.select_split else None


def _open_scored(data: DataConfig, key: str, features: tuple[str, ...]) -> Records:
    """Returns the records of the split that a key names; UserError if there are none."""
    records = Records(data.dir, getattr(data, key), features, max_bad_records=data.max_bad_records, partial=True)
    if not len(records):
        raise UserError(f"split '{getattr(data, key)}' of '{data.dir}' has no records; choose another "
                        f"--config.data.{key}")
    return records


def open_knn(config: PretrainConfig, task: Task) -> tuple[Records, Records]:
    """Returns the labelled images to learn from, and those to score.

    Raises:
      UserError: there are none, without labels of images, with other bands than the run, or with a place in common.
    """
    knn = config.knn
    learnt, scored = (Records(knn.dir, split, (*config.features, "label")).evenly_spaced(knn.records)
                      for split in (knn.split, knn.eval_split))
    label = learnt.info.label
    if label is None or label.kind not in ("image_class", "image_classes"):
        raise UserError(f"the labels of '{knn.dir}' are of kind '{label.kind if label else 'none'}', config.knn needs "
                        "one class per image (image_class) or several (image_classes)")
    for split, records in ((knn.split, learnt), (knn.eval_split, scored)):
        if not len(records):
            raise UserError(f"split '{split}' of '{knn.dir}' has no records; choose another split of config.knn")
    for name, spec in task.sensors.items():
        spec.check_matches(learnt.info.sensors[name], f"data set '{knn.dir}'", "the run")
    if shared := sorted(set(learnt.location_ids) & set(scored.location_ids)):
        raise UserError(f"{len(shared)} places, first '{shared[0]}', are in split '{knn.split}' and in split "
                        f"'{knn.eval_split}' of '{knn.dir}'; choose other config.knn.split and config.knn.eval_split")
    return learnt, scored
