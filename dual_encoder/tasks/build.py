"""From a configuration to a task and its records: the one place that makes them.

A new task is a file of its own with a dataclass and a class like `Task`, and two lines here: in `AnyTask` and in
`make_task`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from etils import epath
from jax.sharding import Mesh

from dual_encoder.config import AtLeast, Before, IsPath, parse, require
from dual_encoder.data.config import IMPORTED
from dual_encoder.data.manifest import load_sensors
from dual_encoder.data.records import Records
from dual_encoder.data.selection import hold_out, select, select_rows
from dual_encoder.data.shapes import Shapes
from dual_encoder.data.subsets import GROUPS, PLACE, SubsetConfig
from dual_encoder.errors import UserError, nearest
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.fusion import Fusion
from dual_encoder.tasks.bands import selected
from dual_encoder.tasks.checks import check_batch, check_crop, check_gallery
from dual_encoder.tasks.classify import Classify, ClassifyConfig
from dual_encoder.tasks.downstream import DownstreamConfig
from dual_encoder.tasks.pretrain import EVALUATIONS, Pretrain, PretrainConfig
from dual_encoder.tasks.probe import FrozenEncoder, ProbeConfig, check_probes, frozen_encoders
from dual_encoder.tasks.resolve import resolve
from dual_encoder.tasks.segment import Segment, SegmentConfig
from dual_encoder.tasks.sources import (
    check_pretraining,
    checked,
    load,
    load_start,
    notes_of_start,
    open_knn,
    open_splits,
)
from dual_encoder.tasks.task import Task
from dual_encoder.workdir.checkpoint import LoadedModel


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluations of a finished run: of pre-training, segmentation or classification.

    With one encoder, the partner of an image is the same image turned upside down.

    Attributes:
      init_from: workdir of the run.
      init_step: checkpoint step of it; -1 takes the state that it chose, or else the newest.
      data_dir: data set folder; '' takes the one of the run.
      split: split to evaluate on; '' takes what the run evaluates itself on: the fold that it holds out, or its
        eval_split.
      folds, fold: when folds is not 0, only one fold of `split` is evaluated, as in `SubsetConfig`.
      groups: as in `SubsetConfig`, for `folds` and for retrieval among other groups; '' takes those of the run.
      evaluations: of a pre-training run, names of `pretrain.EVALUATIONS`; () is all of them.
      batch_size: images per forward pass, 64 at most; it changes no figure.
    """

    task: Literal["evaluate"]
    init_from: Annotated[str, IsPath()]
    init_step: int
    data_dir: Annotated[str, IsPath()]
    split: str
    folds: Annotated[int, AtLeast(0), Before(0)]
    fold: Annotated[int, AtLeast(0), Before(0)]
    groups: Annotated[str, IsPath(GROUPS), Before("")]
    evaluations: Annotated[tuple[str, ...], Before(())]
    batch_size: Annotated[int, AtLeast(1)]

    def check(self, path: str) -> None:
        """Raises UserError without a run, and for folds and evaluations that do not exist."""
        require(self.init_from != "", f"{path}.init_from", self.init_from, "the workdir of a run")
        SubsetConfig(1.0, self.folds, self.fold, groups=PLACE, validate=False, seed=0).check(path)
        require(not self.folds or self.split != "", f"{path}.split", self.split,
                f"the split that {path}.folds divides, such as train")
        for number, name in enumerate(self.evaluations):
            if name not in EVALUATIONS:
                raise UserError(f"{path}.evaluations[{number}] is {name!r}; {nearest(name, EVALUATIONS)}")
        require(len(set(self.evaluations)) == len(self.evaluations), f"{path}.evaluations", self.evaluations,
                "each name once")


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
        return Pretrain(config, sensors, mesh, pretrained)
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
      notes: lines to print about the start.
      select_records: to choose the checkpoint on; None takes the last one.
      knn: the labelled images of config.knn, to learn from and to score; None if it is off.
      start: digest of the weights to start from; '' = none.
    """

    config: AnyTask
    task: Task
    records: Records
    eval_records: Records
    notes: tuple[str, ...] = ()
    select_records: Records | None = None
    knn: tuple[Records, Records] | None = None
    start: str = ""


def build(config: AnyTask, mesh: Mesh, overridden: Sequence[str] = (), workdir: epath.Path | None = None) -> Built:
    """Opens the data and, if the configuration names one, the checkpoint to start from; makes the task.

    Args:
      config, mesh, overridden, workdir: as of `resolve`, which fills in what the configuration leaves open.

    Raises:
      UserError: data, checkpoint and configuration do not fit together.
    """
    config, notes = resolve(config, mesh, overridden, workdir)
    records, eval_records, select_records = open_splits(config.data, config.features)
    sensors, start = dict(load_sensors(records.info, config.data.statistics)), ""
    variables: Mapping[str, Any] | None = None
    if isinstance(config, DownstreamConfig) and config.init_from:
        model, start = load_start(config.init_from, config.init_step, workdir)
        sensors = {name: checked(model, name, records, config.adapt_bands) for name in config.sensors}
        variables = selected(model, sensors, config.fusion, config.encoder.first_layer)
        notes += tuple(f"{name}: {spec.provenance}" for name, spec in sensors.items()
                       if len(spec.bands) < len(model.sensors[name].bands))
    if isinstance(config, PretrainConfig) and config.init_from:
        model, start = load_start(config.init_from, config.init_step, workdir)
        check_pretraining(model, config.init_from)
        sensors |= {name: checked(model, name, records) for name in config.sensors if name in model.sensors}
        variables, notes = model.variables, (*notes, *notes_of_start(config, model))
    task = make_task(config, sensors, records, mesh, variables)
    knn = open_knn(config, task) if isinstance(config, PretrainConfig) and config.knn.every else None
    return Built(config, task, records, eval_records, notes, select_records, knn, start)


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
      title: of these records, such as "split 'test'".
      held_out: True for the fold that the run holds out.
      own: True when the run gives itself the same scores.
    """

    model: LoadedModel
    task: Task
    records: Records
    title: str
    held_out: bool
    own: bool


def build_evaluation(config: EvaluateConfig) -> BuiltEvaluation:
    """Opens the checkpoint and the data of an evaluation.

    Raises:
      UserError: the checkpoint does not fit the data, or evaluations and data cannot measure anything.
    """
    model = load(config.init_from, config.init_step)
    trained: AnyTask = parse(AnyTask, model.config, stored=True)
    if trained.data.dir == IMPORTED and not config.data_dir:
        raise UserError(f"'{config.init_from}' holds imported weights, which have no data set of their own; give "
                        "--config.data_dir and --config.split")
    records, title, held_out = _to_evaluate(config, trained, model.dataset["fingerprint"])
    if not len(records):
        raise UserError(f"{title} of '{config.data_dir or trained.data.dir}' has no records; choose another "
                        "--config.split")
    if isinstance(trained, PretrainConfig):
        check_gallery(records)
    else:
        _check_labels(config, model, records)
    sensors = {name: checked(model, name, records) for name in trained.sensors}
    subset = trained.data.subset
    usual = not subset.folds and not config.folds and config.split in ("", trained.data.eval_split)
    own = ((held_out or (usual and records.info.fingerprint == model.dataset["fingerprint"]))
           and config.groups in ("", subset.groups) and config.evaluations in ((), tuple(EVALUATIONS)))
    subset = dataclasses.replace(subset, groups=config.groups or subset.groups)
    scored = dataclasses.replace(trained, data=dataclasses.replace(trained.data, subset=subset))
    task = (Pretrain(scored, sensors, evaluations=config.evaluations) if isinstance(scored, PretrainConfig) else
            make_task(_without_weights(scored), sensors, records, None))
    return BuiltEvaluation(model, task, records, title, held_out, own)


def _check_labels(config: EvaluateConfig, model: LoadedModel, records: Records) -> None:
    """Raises UserError unless the labels of the records are those that a downstream run has learnt."""
    if config.evaluations:
        raise UserError(f"config.evaluations is {config.evaluations!r}; expected () for '{config.init_from}', a "
                        f"{model.config['task']} run: its names are those of pre-training")
    learnt, given = list(model.dataset.get("classes", ())), list(records.info.classes)
    if learnt != given:
        raise UserError(f"'{config.init_from}' tells the classes {', '.join(learnt)}, data set "
                        f"'{records.parts[0].folder}' has {', '.join(given) or 'none'}; evaluate on data with the same "
                        "classes")


def _without_weights(config: SegmentConfig | ClassifyConfig) -> SegmentConfig | ClassifyConfig:
    """Returns the configuration without weights of classes, which only a loss needs."""
    return dataclasses.replace(config, class_weights="none") if isinstance(config, SegmentConfig) else config


def _to_evaluate(config: EvaluateConfig, trained: AnyTask, fingerprint: str) -> tuple[Records, str, bool]:
    """Returns the records to evaluate on, their title, and True if they are the fold that the run holds out.

    Args:
      config: of the evaluation.
      trained: configuration of the run.
      fingerprint: of the data set that the run was trained on.
    """
    folders = [folder.strip() for folder in trained.data.dir.split(",")]
    if gone := [folder for folder in folders if not config.data_dir and not epath.Path(folder).exists()]:
        raise UserError(f"data set '{gone[0]}', on which '{config.init_from}' was trained, is not here; give the "
                        "folder where it is now as --config.data_dir")

    def whole(split: str) -> Records:
        return Records(config.data_dir or trained.data.dir, split, trained.features,
                       max_bad_records=trained.data.max_bad_records, partial=True)

    of_run = fold = trained.data.subset
    if config.folds:
        fold = dataclasses.replace(of_run, folds=config.folds, fold=config.fold, groups=config.groups or of_run.groups)
    if config.folds or (of_run.folds and not config.split):
        split = config.split or trained.data.split
        records = whole(split)
        held_out = records.info.fingerprint == fingerprint and split == trained.data.split and fold == of_run
        if config.folds or held_out:
            _, held = select(records, dataclasses.replace(fold, fraction=1.0))
            assert held is not None  # there are folds
            return held, f"fold {fold.fold} of {fold.folds} of split '{split}'", held_out
    split = config.split or trained.data.eval_split
    return whole(split), f"split '{split}'", False


@dataclasses.dataclass(frozen=True)
class Part:
    """Some records of a split.

    Attributes:
      records: of the whole split.
      rows: numbers of the part's records, int64.
    """

    records: Records
    rows: np.ndarray

    def selected(self) -> Records:
        """Returns the records of the part, numbered from 0."""
        return self.records.only(self.rows)


@dataclasses.dataclass(frozen=True)
class BuiltProbe:
    """Frozen vectors and the labelled parts that they are made of.

    Attributes:
      model: the checkpoint.
      sensors: spec of each of config.inputs, with the statistics of the run.
      encoders: of each encoder, the functions of the image after a change and, if it is read, of that before.
      train, validation, test: to learn from, to choose the regularisation on, to score.
    """

    model: LoadedModel
    sensors: Mapping[str, SensorSpec]
    encoders: list[list[FrozenEncoder]]
    train: Part
    validation: Part
    test: Part


def build_probe(config: ProbeConfig) -> BuiltProbe:
    """Opens the checkpoint and the labelled splits of a probe.

    Raises:
      UserError: the data have no labels that can be probed, or the checkpoint does not fit them.
    """
    model = load(config.init_from, config.init_step)
    trained: AnyTask = parse(AnyTask, model.config, stored=True)
    data = config.data

    def whole(split: str) -> Part:
        records = Records(data.dir, split, config.features)
        return Part(records, np.arange(len(records)))

    train = whole(data.split)
    label = train.records.info.label
    check_probes(label.kind if label else None, config.probes)
    rows, held = select_rows(train.records, data.subset)
    test = whole(data.eval_split) if held is None else Part(train.records, held)
    if data.validation_split:
        validation = whole(data.validation_split)
    else:
        rest, chosen_on = hold_out(train.records.only(rows), data.subset.groups)
        rows, validation = rows[rest], Part(train.records, rows[chosen_on])
    sensors = {name: checked(model, name, train.records, config.adapt_bands) for name in config.sensors}
    fusion: Fusion = trained.fusion if isinstance(trained, PretrainConfig | DownstreamConfig) else "late"
    variables = selected(model, sensors, fusion, trained.encoder.first_layer)
    encoders = frozen_encoders(config, trained.encoder, sensors, variables, fusion,
                               maps=label is not None and label.per_pixel)
    return BuiltProbe(model, sensors, encoders, Part(train.records, rows), validation, test)
