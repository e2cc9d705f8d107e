"""Probes of a finished run: vectors of labelled images, then nearest neighbours and a linear probe."""

from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from dual_encoder.config import to_dict
from dual_encoder.console import say
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.evaluation.probes import LabelledVectors, evaluate_probes, hold_out, one_hot
from dual_encoder.evaluation.table import Evaluation
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.state import TrainState
from dual_encoder.tasks.build import Built, build_probe
from dual_encoder.tasks.pretrain import Pretrain, PretrainConfig
from dual_encoder.tasks.probe import ProbeConfig
from dual_encoder.training.evaluate import predictor
from dual_encoder.workdir import folder as workdir_lib
from dual_encoder.workdir.scores import save_evaluation, summary


def probe(config: ProbeConfig, mesh: Mesh, workdir: epath.Path) -> None:
    """Scores frozen vectors as the configuration says; writes tables and scores to the workdir and prints the scores.

    Args:
      config: which vectors, on which data.
      mesh: the devices.
      workdir: of these scores, not that of the run; it is made if needed.

    Raises:
      UserError: run and data do not fit, a split is too small, or a place is learnt from and scored.
    """
    if workdir == epath.Path(config.init_from):
        raise UserError(f"--workdir is '{workdir}', the run that is probed; give another folder for these scores")
    built = build_probe(config)
    label = built.train.info.label
    assert label is not None  # build_probe has looked
    variables = jax.device_put(built.vectors.variables, mesh_lib.replicated(mesh))
    predict = predictor(built.vectors.predict, config.batch_size, mesh)
    single, classes = label.kind == "image_class", len(label.classes)

    def vectors(records: Records) -> LabelledVectors:
        return _labelled(predict(variables, records), single, classes)

    train, test = vectors(built.train), vectors(built.test)
    validation = None if built.validation is None else vectors(built.validation)
    for name, part in (("train", train), ("validation", validation)):
        if part is not None:
            _refuse_shared_places(part, test, built.test, name)
    if validation is None:
        train, validation = hold_out(train)
    if not len(train.vectors) or not len(validation.vectors):
        raise UserError(f"split '{config.data.split}' has {len(train.vectors) + len(validation.vectors)} images of one "
                        "place; probes need images of two places or more to learn and to choose")
    if not mesh_lib.is_main_process():
        return
    facts = workdir_lib.facts(to_dict(config), built.train.info, built.vectors.sensors)
    workdir_lib.check(workdir, facts)
    workdir_lib.record_run(workdir, facts, sum(leaf.size for leaf in jax.tree.leaves(variables)))
    evaluation = evaluate_probes(train, validation, test, class_names=label.classes, single=single,
                                 probes=config.probes, neighbours=config.neighbours)
    save_evaluation(workdir, built.model.step, evaluation)
    say(f"{config.representation} of '{config.init_from}' at step {built.model.step}, {train.vectors.shape[1]} numbers "
        f"per image; split '{config.data.eval_split}' of '{built.train.info.config}'")
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

    def evaluate(state: TrainState) -> Evaluation:
        train, test = (_labelled(predict(state.model, records), single, len(classes)) for records in (learnt, scored))
        # Neighbours choose nothing, so no image is held out for validation.
        found = evaluate_probes(train, train, test, class_names=classes, single=single, probes=("knn",),
                                neighbours=neighbours)
        return Evaluation(found.tables[:1])  # of the whole split; curves of each class would be many

    return evaluate


def _labelled(outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], single: bool, classes: int
              ) -> LabelledVectors:
    parts = [output for _, output in outputs]
    vector, label, place = (np.concatenate([part[name] for part in parts]) for name in ("vector", "label", "location"))
    return LabelledVectors(vector, one_hot(label, classes) if single else label, place)


def _refuse_shared_places(learnt: LabelledVectors, test: LabelledVectors, records: Records, name: str) -> None:
    """Raises UserError if a place of the test split is learnt from."""
    shared = np.flatnonzero(np.isin(test.places, learnt.places))
    if len(shared):
        first = records.record(int(shared[0]))
        raise UserError(f"{len(shared)} of {len(test.places)} test images are of places that the {name} split holds "
                        f"too, first '{first['id']}' of place '{first['location_id']}'; build the data set with "
                        "--split-by=area, or choose splits without common places")
