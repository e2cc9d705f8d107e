"""Probes of a finished run: frozen vectors or maps of labelled images, then nearest neighbours and a linear probe."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from dual_encoder.config import to_dict
from dual_encoder.console import say
from dual_encoder.errors import UserError
from dual_encoder.evaluation.probes import LabelledVectors, evaluate_probes, of_probe, one_hot
from dual_encoder.evaluation.segmentation import confusion_matrix, evaluate_segmentation
from dual_encoder.evaluation.segmentation_probe import Difference, LabelledMaps, segmentation_probe
from dual_encoder.evaluation.table import Evaluation
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.state import TrainState
from dual_encoder.storage import paths
from dual_encoder.tasks.build import Built, BuiltProbe, Part, build_probe
from dual_encoder.tasks.downstream import keeps_predictions, per_image
from dual_encoder.tasks.pretrain import Pretrain, PretrainConfig
from dual_encoder.tasks.probe import FrozenEncoder, ProbeConfig
from dual_encoder.training.evaluate import predictor
from dual_encoder.training.frozen import frozen_outputs
from dual_encoder.workdir import folder as workdir_lib
from dual_encoder.workdir.scores import save_evaluation, summary

_PANEL_ROWS = 8


def probe(config: ProbeConfig, mesh: Mesh, workdir: epath.Path) -> None:
    """Scores frozen vectors or maps as the configuration says; writes tables and scores to the workdir and prints them.

    Args:
      config: what to probe, on which data.
      mesh: the devices.
      workdir: of these scores, not that of the run; it is made if needed.

    Raises:
      UserError: run and data do not fit, a split is too small, or a place is learnt from and scored.
    """
    if paths.same(workdir, config.init_from):
        raise UserError(f"--workdir is '{workdir}', the run that is probed; give another folder for these scores")
    built = build_probe(config)
    _refuse_shared_places(built)
    evaluation = _evaluate(config, built, mesh)
    if not mesh_lib.is_main_process():
        return
    info = built.train.records.info
    size = sum(leaf.size for dates in built.encoders for leaf in jax.tree.leaves(dates[0].variables))
    facts = workdir_lib.facts(to_dict(config), info, built.sensors, built.model.digest)
    workdir_lib.check(workdir, facts)
    workdir_lib.record_run(workdir, facts, size)
    save_evaluation(workdir, built.model.step, evaluation)
    say(f"{config.representation} of '{config.init_from}' at step {built.model.step}; learnt from "
        f"{len(built.train.rows)} images of '{info.config}', scored on {len(built.test.rows)}")
    say(summary({name: {key: value for key, value in values.items() if not isinstance(value, Mapping)}
                 for name, values in evaluation.scores().items() if isinstance(values, Mapping)}))


def knn_evaluator(built: Built, mesh: Mesh) -> Callable[[TrainState], Evaluation]:
    """Returns state -> scores of nearest neighbours on the labelled images of a pre-training run (`built.knn`)."""
    assert isinstance(built.config, PretrainConfig) and isinstance(built.task, Pretrain) and built.knn
    learnt, scored = built.knn
    label, neighbours = learnt.info.label, built.config.knn.neighbours
    assert label is not None  # build has looked
    predict = predictor(built.task.vectors, built.config.batch_size, mesh)
    single, classes = label.kind == "image_class", label.classes

    def labelled(outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]) -> LabelledVectors:
        parts = [output for _, output in outputs]
        vector, found = (np.concatenate([part[name] for part in parts]) for name in ("vector", "label"))
        return LabelledVectors(vector, one_hot(found, len(classes)) if single else found)

    def evaluate(state: TrainState) -> Evaluation:
        train, test = (labelled(predict(state.model, records)) for records in (learnt, scored))
        # Neighbours choose nothing, so no image is held out for validation.
        found = evaluate_probes(train, train, test, class_names=classes, single=single, probes=("knn",),
                                neighbours=neighbours)
        return Evaluation(found.tables[:1])  # of the whole split; curves of each class would be many

    return evaluate


def _evaluate(config: ProbeConfig, built: BuiltProbe, mesh: Mesh) -> Evaluation:
    """Returns the scores of the test images."""
    label = built.train.records.info.label
    assert label is not None  # build_probe has looked
    if label.per_pixel:
        train, validation, test = (labelled_maps(config, built, part, mesh)
                                   for part in (built.train, built.validation, built.test))
        return _evaluate_maps(config, built, train, validation, test)
    parts = [labelled_vectors(config, built, part, mesh) for part in (built.train, built.validation, built.test)]
    scored = built.test.selected()
    return evaluate_probes(
        *parts, class_names=label.classes, single=label.kind == "image_class", probes=config.probes,
        neighbours=config.neighbours, balanced=config.balanced,
        per_image=lambda kind, values: per_image(scored, range(len(scored)), kind, label.classes, values))


def labelled_vectors(config: ProbeConfig, built: BuiltProbe, part: Part, mesh: Mesh) -> LabelledVectors:
    """Returns the frozen vectors of some images: those of all encoders side by side, with both dates of a change."""
    label = part.records.info.label
    assert label is not None  # build_probe has looked
    vectors = []
    for dates in built.encoders:
        after, *earlier = (_outputs(config, one, part, mesh)["vector"][part.rows] for one in dates)
        vectors += [after - earlier[0]] if config.change == "difference" else [after, *earlier]
    labels = part.records.labels[part.rows]
    return LabelledVectors(np.concatenate(vectors, axis=1),
                           one_hot(labels, len(label.classes)) if label.kind == "image_class" else labels)


def labelled_maps(config: ProbeConfig, built: BuiltProbe, part: Part, mesh: Mesh) -> LabelledMaps:
    """Returns the frozen maps of some images: those of all encoders, with both dates of a change."""
    levels: list[np.ndarray | Difference] = []
    for dates in built.encoders:
        after, *earlier = (_levels(_outputs(config, one, part, mesh)) for one in dates)
        if config.change == "difference":
            levels += [Difference(*both) for both in zip(after, earlier[0], strict=True)]
        else:
            levels += [level for maps in (after, *earlier) for level in maps]
    return LabelledMaps(tuple(levels), part.records.labels, part.rows)


def _outputs(config: ProbeConfig, encoder: FrozenEncoder, part: Part, mesh: Mesh) -> Mapping[str, np.ndarray]:
    """Returns what an encoder gives for the whole split of a part."""
    return frozen_outputs(encoder, part.records, config.batch_size, mesh, config.cache)


def _levels(outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [outputs[f"map{number}"] for number in range(len(outputs))]


def _evaluate_maps(config: ProbeConfig, built: BuiltProbe, train: LabelledMaps, validation: LabelledMaps,
                   test: LabelledMaps) -> Evaluation:
    label = built.train.records.info.label
    classes = label.classes if label else ()
    try:
        fitted = segmentation_probe(train, validation, len(classes), config.seed, balanced=config.balanced)
    except ValueError as error:
        raise UserError(f"{error}; take a larger --config.data.subset.fraction, or other data") from error
    predictions = [fitted.predict(test, image) for image in range(len(test.images))]
    matrices = [confusion_matrix(test.label(image), found, len(classes)) for image, found in enumerate(predictions)]
    records = built.test.selected()
    shown = np.unique(np.linspace(0, len(records) - 1, min(_PANEL_ROWS, len(records))).astype(int))
    dates = config.dates
    evaluation = evaluate_segmentation(
        np.sum(matrices, axis=0), classes, [[records[int(at)][name] for name in dates.values()] for at in shown],
        [test.label(at) for at in shown], [predictions[at] for at in shown], built.sensors[config.sensors[0]],
        tuple(dates), label.colours if label else ())
    table = per_image(records, range(len(records)), "counts", classes, np.reshape(matrices, (len(matrices), -1)),
                      predictions if keeps_predictions(records) else ())
    return of_probe(dataclasses.replace(evaluation, per_image={"linear": table}), "linear",
                    f"Learnt from {fitted.pixels:,} pixels of {len(train.images):,} images; C = "
                    f"{fitted.probe.strength:g} was best on {len(validation.images):,} others; scored on "
                    f"{len(test.images):,}.")


def _refuse_shared_places(built: BuiltProbe) -> None:
    """Raises UserError if a place of the test part is learnt from."""
    def places(part: Part) -> list[int]:
        chosen = part.selected()
        return [chosen.location(number, place.encode()) for number, place in enumerate(chosen.location_ids)]

    test = places(built.test)
    for name, part in (("train", built.train), ("validation", built.validation)):
        shared = np.flatnonzero(np.isin(test, places(part)))
        if len(shared):
            first = built.test.selected().record(int(shared[0]))
            raise UserError(f"{len(shared)} of {len(test)} test images are of places that the {name} split holds "
                            f"too, first '{first['id']}' of place '{first['location_id']}'; build the data set with "
                            "--split-by=area, or choose splits without common places")
