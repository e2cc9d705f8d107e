"""Scores of frozen vectors on labelled images: nearest neighbours and a linear probe."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from dual_encoder.evaluation.classification import (
    average_precision,
    evaluate_classes,
    evaluate_single_class,
    image_values,
)
from dual_encoder.evaluation.embedded import unit_vectors
from dual_encoder.evaluation.knn import knn_probability
from dual_encoder.evaluation.linear_probe import linear_probe
from dual_encoder.evaluation.per_image import Kind, PerImage
from dual_encoder.evaluation.table import Evaluation, Table, join

ProbeName = Literal["knn", "linear"]
_TITLES: dict[str, str] = {"knn": "nearest neighbours", "linear": "linear probe"}
_WHOLE = ("classification", "segmentation")  # the tables of a whole split


@dataclasses.dataclass(frozen=True)
class LabelledVectors:
    """The vectors of a split's images, with their labels.

    Attributes:
      vectors: float32 [n, dim].
      labels: uint8 [n, classes], 1 for each class of an image.
    """

    vectors: np.ndarray
    labels: np.ndarray

    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (vectors, labels)."""
        return self.vectors, self.labels


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns class indices [n] as uint8 [n, classes]."""
    return (labels[:, None] == np.arange(classes)).astype(np.uint8)


def evaluate_probes(train: LabelledVectors, validation: LabelledVectors, test: LabelledVectors, *,
                    class_names: Sequence[str], single: bool, probes: Sequence[ProbeName], neighbours: int,
                    balanced: bool = False,
                    per_image: Callable[[Kind, np.ndarray], PerImage] | None = None) -> Evaluation:
    """Scores probes that learn from `train`, choose on `validation`, and predict `test`.

    Args:
      train, validation, test: labelled vectors of one encoder.
      class_names: one per class.
      single: one class per image: accuracy and macro F1; otherwise mean average precision and micro F1.
      probes: which ones, in the order of the tables.
      neighbours: of 'knn'.
      balanced: of 'linear', as of `linear_probe`.
      per_image: kind and values of the test images -> their table; None: no table.

    Returns:
      The tables of `evaluate_single_class` or `evaluate_classes`, once for each probe.

    Raises:
      UserError: vectors that are not finite.
    """
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        unit_vectors(part.vectors, name)  # raises
    evaluate, truth = ((evaluate_single_class, test.labels.argmax(axis=1)) if single else
                       (evaluate_classes, test.labels))
    parts = []
    for probe in probes:
        note = f"Learnt from {len(train.vectors):,} images"
        if probe == "knn":
            probability = knn_probability(*train.pair(), test.vectors, neighbours)
            note += f", the {min(neighbours, len(train.vectors))} nearest by cosine"
        else:
            score = _accuracy if single else _mean_precision
            fitted = linear_probe(train.pair(), validation.pair(), score, single, balanced=balanced)
            probability = fitted.predict(test.vectors)
            note += f"; C = {fitted.strength:g} was best on {len(validation.vectors):,} others"
        scored = evaluate(truth, probability, class_names)
        if per_image:
            scored = dataclasses.replace(scored, per_image={probe: per_image(*image_values(truth, probability))})
        parts.append(of_probe(scored, probe, f"{note}; scored on {len(test.vectors):,}."))
    return join(parts)


def of_probe(scored: Evaluation, probe: str, note: str) -> Evaluation:
    """Returns an evaluation with the name of a probe in its tables, and a note on how it was learnt."""
    return dataclasses.replace(scored, tables=tuple(_of_probe(table, probe, note) for table in scored.tables))


def _of_probe(table: Table, probe: str, note: str) -> Table:
    headlines = tuple(dataclasses.replace(line, title=f"{line.title}, {_TITLES[probe]}") for line in table.headlines)
    return dataclasses.replace(
        table, name=f"{probe}_{table.name}", title=_TITLES[probe].capitalize(), headlines=headlines,
        keys=(probe, *table.keys), note=f"{note} {table.note}" if table.name in _WHOLE else table.note)


def _accuracy(labels: np.ndarray, probability: np.ndarray) -> float:
    return float((probability.argmax(axis=1) == labels.argmax(axis=1)).mean())


def _mean_precision(labels: np.ndarray, probability: np.ndarray) -> float:
    found = [average_precision(labels[:, i], probability[:, i]) for i in range(labels.shape[1])]
    present = [value for value in found if value is not None]
    return float(np.mean(present)) if present else 0.0
