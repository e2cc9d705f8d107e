"""Segmentation scores from one confusion matrix over a whole split.

The mean of the IoU of batches, which some published code reports, is another number: a batch without a class distorts
it. So add up the matrices first, then score once.
"""

from collections.abc import Sequence
from typing import Any, TypedDict, cast

import numpy as np
from PIL import Image

from dual_encoder.errors import UserError
from dual_encoder.evaluation.table import COLUMN, ROW, Column, Evaluation, Headline, Picture, Row, Table
from dual_encoder.imagery.palette import label_to_rgb
from dual_encoder.imagery.pictures import class_legend, grid, image_to_rgb
from dual_encoder.imagery.sensors import IGNORED, SensorSpec

_TILE = 192  # pixels of a panel
_OF_CLASSES = {"iou": "IoU", "f1": "F1", "precision": "precision", "recall": "recall"}
_SHOWN_CLASSES = 25  # of a confusion matrix


class SegmentationScores(TypedDict):
    """What `segmentation_scores` returns: figures of the split, and per class name."""

    miou: float | None
    accuracy: float | None
    iou: dict[str, float | None]
    f1: dict[str, float | None]
    precision: dict[str, float | None]
    recall: dict[str, float | None]
    support: dict[str, int]


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts pixels by label (rows) and prediction (columns).

    Args:
      label: class indices, integers of any shape; pixels of value 255 are not counted.
      prediction: class indices, the same shape.
      classes: number of classes C.

    Returns:
      int64 [C, C]. The matrices of the parts of a split add up to the matrix of the split.

    Raises:
      UserError: the shapes differ, or a value is not a class.
    """
    if label.shape != prediction.shape:
        raise UserError(f"label has shape {list(label.shape)}, prediction {list(prediction.shape)}; give one "
                        "prediction per labelled pixel")
    counted = label != IGNORED
    label, prediction = label[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for name, values in (("label", label), ("prediction", prediction)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            worst = values.max() if values.max() >= classes else values.min()
            raise UserError(f"{name} holds the value {worst}; expected classes 0 to {classes - 1}, or {IGNORED} in "
                            "labels for pixels to leave out")
    return np.bincount(classes * label + prediction, minlength=classes * classes).reshape(classes, classes)


def evaluate_segmentation(matrix: np.ndarray, class_names: Sequence[str], images: Sequence[Sequence[np.ndarray]],
                          labels: Sequence[np.ndarray], predictions: Sequence[np.ndarray], spec: SensorSpec,
                          shown: Sequence[str] = ("input",), colours: Sequence[str] = ()) -> Evaluation:
    """Scores the confusion matrix of a split, and draws examples.

    Args:
      matrix, class_names: as for `segmentation_scores`.
      images, labels, predictions, spec: as for `segmentation_panels`.
      shown: what each image of a row is.
      colours: of the classes, as of `palette.class_colours`.

    Returns:
      A table of the whole split, a table of its classes, the confusion matrix, and a picture.
    """
    tables = (*segmentation_tables(segmentation_scores(matrix, class_names), shown, colours),
              *confusion_tables("segmentation", "Segmentation", matrix, class_names))
    panels = segmentation_panels(images, labels, predictions, spec, class_names, shown, colours)
    return Evaluation(tables, {"segmentation_panels": panels})


def segmentation_scores(matrix: np.ndarray, class_names: Sequence[str]) -> SegmentationScores:
    """Scores one confusion matrix: intersection over union (Jaccard), F1 (Dice), accuracy.

    Args:
      matrix: int [C, C], rows = label, columns = prediction.
      class_names: C names.

    Returns:
      'miou': mean IoU of the classes that occur in labels or predictions; 'accuracy': share of right pixels;
      'iou' and 'f1': class name -> [0, 1], None for a class that occurs in neither; 'precision' and 'recall': the same,
      None for a class that is not predicted, or not labelled; 'support': class name -> labelled pixels. 'miou' and
      'accuracy' are None if there is no pixel at all.
    """
    assert matrix.shape == (len(class_names),) * 2, f"{matrix.shape} matrix, {len(class_names)} class names"
    right, labelled, predicted = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    union = labelled + predicted - right
    iou = [_share(r, u) for r, u in zip(right, union, strict=True)]
    f1 = [_share(2 * r, p) for r, p in zip(right, labelled + predicted, strict=True)]
    present = [value for value in iou if value is not None]
    return {
        "miou": float(np.mean(present)) if present else None,
        "accuracy": _share(right.sum(), matrix.sum()),
        "iou": dict(zip(class_names, iou, strict=True)),
        "f1": dict(zip(class_names, f1, strict=True)),
        "precision": {name: _share(r, p) for name, r, p in zip(class_names, right, predicted, strict=True)},
        "recall": {name: _share(r, n) for name, r, n in zip(class_names, right, labelled, strict=True)},
        "support": {name: int(count) for name, count in zip(class_names, labelled, strict=True)},
    }


def segmentation_tables(scores: SegmentationScores, shown: Sequence[str] = ("input",), colours: Sequence[str] = ()
                        ) -> tuple[Table, Table]:
    """Returns the scores as two tables of one section: of the whole split, and of each class.

    Args:
      scores: as `segmentation_scores` returns them. A figure of a class that is absent becomes None.
      shown, colours: as for `evaluate_segmentation`.
    """
    support = scores["support"]
    pixels = sum(support.values()) or 1
    figures = cast(dict[str, Any], scores)
    kinds = {kind: title for kind, title in _OF_CLASSES.items() if kind in scores}  # old scores lack some
    whole = Table(
        name="segmentation", title="Segmentation", row_title="", keys=(COLUMN,),
        columns=(Column("miou", "mean IoU", "share", "higher"), Column("accuracy", "accuracy", "share", "higher")),
        rows=(Row("split", "whole split", (scores.get("miou"), scores.get("accuracy"))),),
        references=_by_chance(list(support.values())),
        headlines=(Headline("split", "miou", f"mean IoU of {len(support)} classes"),))
    classes = Table(
        name="segmentation_classes", title="Segmentation", row_title="class", keys=(COLUMN, ROW),
        columns=(*(Column(kind, title, "share", "higher") for kind, title in kinds.items()),
                 Column("support", "labelled pixels", "count"), Column("share", "share", "percent", in_scores=False)),
        rows=tuple(Row(name, name, (*(figures[kind].get(name) for kind in kinds), count, count / pixels))
                   for name, count in support.items()),
        note="From one confusion matrix over the whole split; a dash: the class does not occur.", class_colours=True,
        colours=tuple(colours),
        pictures=(Picture("segmentation_panels", "Examples",
                          f"Each row: {', '.join(shown)}, label, prediction. Hatched: no data, or no label."),))
    return whole, classes


def segmentation_panels(images: Sequence[Sequence[np.ndarray]], labels: Sequence[np.ndarray],
                        predictions: Sequence[np.ndarray], spec: SensorSpec, class_names: Sequence[str],
                        shown: Sequence[str] = ("input",), colours: Sequence[str] = ()) -> Image.Image:
    """Draws rows of input images, label and prediction, with titles and a legend.

    Args:
      images: of each row, one or more stored images [height, width, bands] of `spec`.
      labels, predictions: class indices uint8 [height, width].
      class_names: of the classes.
      shown, colours: as for `evaluate_segmentation`.
    """
    rows = [[*(image_to_rgb(image, spec) for image in row),
             *(label_to_rgb(classes, colours) for classes in (label, prediction))]
            for row, label, prediction in zip(images, labels, predictions, strict=True)]
    return grid(rows, _TILE, (*shown, "label", "prediction"), legend=class_legend(class_names, colours))


def _by_chance(support: Sequence[int]) -> tuple[Row, ...]:
    """Returns the scores of a prediction of the most frequent class alone; nothing if there is no pixel."""
    if not any(support):
        return ()
    share = max(support) / sum(support)  # its IoU, and the accuracy; the IoU of each other class is 0
    present = sum(count > 0 for count in support)
    return (Row("chance", "most frequent class everywhere", (share / present, share)),)


def confusion_tables(name: str, title: str, matrix: np.ndarray, class_names: Sequence[str]) -> tuple[Table, ...]:
    """Returns a confusion matrix as a table; () if it has too many classes to be read.

    Args:
      name: of the results; the table is called <name>_confusion.
      title: of their section.
      matrix: int [C, C], rows = label, columns = prediction.
      class_names: C names.
    """
    if len(class_names) > _SHOWN_CLASSES:
        return ()
    return (Table(
        name=f"{name}_confusion", title=title, row_title="label, below predictions of",
        columns=tuple(Column(of, of, "count", in_scores=False) for of in class_names),
        rows=tuple(Row(of, of, tuple(map(int, row))) for of, row in zip(class_names, matrix, strict=True)),
        note="Confusion matrix: each row counts what the label of that class was taken for."),)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
