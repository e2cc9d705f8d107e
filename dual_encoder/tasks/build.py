"""From a configuration to a task and its records: the one place that makes them.

A new task is a file of its own with a dataclass and a class like `Task`, and two lines here: in `AnyTask` and in
`make_task`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from jax.sharding import Mesh

from dual_encoder.config import AtLeast, parse, require
from dual_encoder.data.config import HELD_OUT, DataConfig
from dual_encoder.data.manifest import load_sensors
from dual_encoder.data.records import Records
from dual_encoder.data.selection import hold_out, select
from dual_encoder.data.shapes import Shapes
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.tasks.checks import check_batch, check_crop
from dual_encoder.tasks.classify import Classify, ClassifyConfig
from dual_encoder.tasks.downstream import DownstreamConfig
from dual_encoder.tasks.pretrain import Pretrain, PretrainConfig
from dual_encoder.tasks.probe import ProbeConfig, Vectors, check_kind
from dual_encoder.tasks.segment import Segment, SegmentConfig
from dual_encoder.tasks.task import Task
from dual_encoder.workdir.checkpoint import LoadedModel, load_model


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation of a pre-trained checkpoint: retrieval between the sensors.

    With one sensor, the partner of an image is the same image turned upside down.

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
    batch_size: Annotated[int, AtLeast(1)]

    def check(self, path: str) -> None:
        """Raises UserError without a run."""
        require(self.init_from != "", f"{path}.init_from", self.init_from, "the workdir of a pre-training run")


AnyTask = PretrainConfig | SegmentConfig | ClassifyConfig
AnyConfig = AnyTask | EvaluateConfig | ProbeConfig


def make_task(config: AnyTask, sensors: Mapping[str, SensorSpec], records: Records | Shapes, mesh: Mesh | None,
              pretrained: Mapping[str, Any] | None = None) -> Task:
    """Returns the task of a configuration.

    Args:
      config: its dataclass.
      sensors: specs of the inputs, with the statistics to normalise with.
      records: of the training split, or their shapes, if no value is read.
      mesh: batches are sharded over it; None if nothing is trained.
      pretrained: variables of a checkpoint to start from.

    Raises:
      UserError: data or checkpoint do not fit the configuration.
    """
    if isinstance(config, PretrainConfig):
        return Pretrain(config, sensors, mesh)
    if isinstance(config, ClassifyConfig):
        return Classify(config, sensors, records, pretrained)
    return Segment(config, sensors, records, pretrained)


@dataclasses.dataclass(frozen=True)
class Built:
    """A configuration with the task and the records that were made from it.

    Attributes:
      config: the configuration.
      task: the trainer runs it.
      records, eval_records: to train on and to evaluate on.
      select_records: to choose the checkpoint on; None takes the last one.
    """

    config: AnyTask
    task: Task
    records: Records
    eval_records: Records
    select_records: Records | None = None


def build(config: AnyTask, mesh: Mesh) -> Built:
    """Opens the data and, if the configuration names one, the checkpoint to start from; makes the task.

    Raises:
      UserError: data, checkpoint and configuration do not fit together.
    """
    records, eval_records, select_records = _open(config.data, config.features)
    sensors, pretrained = load_sensors(records.info, config.data.statistics), None
    if isinstance(config, DownstreamConfig) and config.init_from:
        model = _load(config.init_from, config.init_step)
        sensors = {name: _checked(model, name, records) for name in config.sensors}
        pretrained = model.variables
    return Built(config, make_task(config, sensors, records, mesh, pretrained), records, eval_records, select_records)


def build_without_weights(config: AnyTask, records: Records | Shapes, mesh: Mesh) -> Task:
    """Returns the task with random weights, for its shapes only; values that change no shape are left out.

    Raises:
      UserError: the records lack what the task needs, or batch or crop do not fit the devices or the images.
    """
    missing = [name for name in config.features if name not in records.info.tensors]
    if missing:
        raise UserError(f"the task needs '{missing[0]}', the records have {sorted(records.info.tensors)}; give another "
                        "data set, or --sensors=s1_grd,s2_l2a, and --classes=N for segmentation")
    task = make_task(config, records.info.sensors, Shapes(records.info), mesh)
    check_batch(config, mesh)
    check_crop(config.augment, task, records.info)
    return task


@dataclasses.dataclass(frozen=True)
class BuiltEvaluation:
    """A finished run and the records of its evaluation.

    Attributes:
      model: the checkpoint.
      task: of the run.
      records: to evaluate on.
      split: their split.
      own: True when the run evaluates itself on the same records.
    """

    model: LoadedModel
    task: Task
    records: Records
    split: str
    own: bool


def build_evaluation(config: EvaluateConfig) -> BuiltEvaluation:
    """Opens the checkpoint and the data of an evaluation.

    Raises:
      UserError: the checkpoint is not of a pre-training run, or does not fit the data.
    """
    model = _load(config.init_from, config.init_step)
    trained: AnyTask = parse(AnyTask, model.config, stored=True)
    if not isinstance(trained, PretrainConfig):
        raise UserError(f"config.init_from '{config.init_from}' is a {trained.task} run; give a pre-training run")
    split = config.split or trained.data.eval_split
    records = Records(config.data_dir or trained.data.dir, split, trained.features,
                      max_bad_records=trained.data.max_bad_records, partial=True)
    sensors = {name: _checked(model, name, records) for name in trained.sensors}
    own = records.info.fingerprint == model.dataset["fingerprint"] and split == trained.data.eval_split
    return BuiltEvaluation(model, make_task(trained, sensors, records, None), records, split, own)


@dataclasses.dataclass(frozen=True)
class BuiltProbe:
    """Frozen vectors and the labelled splits that they are made of.

    Attributes:
      model: the checkpoint.
      vectors: raw images -> vectors.
      train, validation, test: the splits; validation is None if it is held out of train.
    """

    model: LoadedModel
    vectors: Vectors
    train: Records
    validation: Records | None
    test: Records


def build_probe(config: ProbeConfig) -> BuiltProbe:
    """Opens the checkpoint and the labelled splits of a probe.

    Raises:
      UserError: the data have no labels for whole images, or the checkpoint does not fit them.
    """
    model = _load(config.init_from, config.init_step)
    trained: AnyTask = parse(AnyTask, model.config, stored=True)
    data = config.data
    train, held = select(Records(data.dir, data.split, config.features), data.subset)
    validation = Records(data.dir, data.validation_split, config.features) if data.validation_split else None
    test = Records(data.dir, data.eval_split, config.features) if held is None else held
    check_kind(train.info.label.kind if train.info.label else None)
    sensors = {name: _checked(model, name, train) for name in config.sensors}
    return BuiltProbe(model, Vectors(config, trained.encoder, sensors, model.variables), train, validation, test)


def _load(workdir: str, step: int) -> LoadedModel:
    """Returns a checkpoint of a run; step -1 is the newest sound one."""
    return load_model(workdir, None if step < 0 else step)


def _open(data: DataConfig, features: tuple[str, ...]) -> tuple[Records, Records, Records | None]:
    """Returns the records for training, for evaluation, and to choose the checkpoint on, if one is chosen."""
    records, held = select(Records(data.dir, data.split, features, weights=data.weights,
                                   max_bad_records=data.max_bad_records), data.subset)
    eval_records = _open_scored(data, "eval_split", features) if held is None else held
    if data.select_split == HELD_OUT:
        records, select_records = hold_out(records, data.subset)
        return records, eval_records, select_records
    return records, eval_records, _open_scored(data, "select_split", features) if data.select_split else None


def _open_scored(data: DataConfig, key: str, features: tuple[str, ...]) -> Records:
    """Returns the records of the split that a key names; UserError if there are none."""
    records = Records(data.dir, getattr(data, key), features, max_bad_records=data.max_bad_records, partial=True)
    if not len(records):
        raise UserError(f"split '{getattr(data, key)}' of '{data.dir}' has no records; choose another "
                        f"--config.data.{key}")
    return records


def _checked(model: LoadedModel, name: str, records: Records) -> SensorSpec:
    """Returns the checkpoint's spec of a sensor; UserError unless the data set stores the same bands and unit."""
    if name not in model.sensors:
        raise UserError(f"the checkpoint has no sensor '{name}', it has {sorted(model.sensors)}; choose other inputs")
    model.sensors[name].check_matches(records.info.sensors[name], f"data set '{records.parts[0].folder}'",
                                      "the checkpoint")
    return model.sensors[name]
