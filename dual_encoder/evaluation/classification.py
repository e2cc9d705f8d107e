"""Scores of classified images: one class per image, or several."""

from collections.abc import Sequence

import numpy as np

from dual_encoder.evaluation.per_image import Kind
from dual_encoder.evaluation.segmentation import confusion_matrix, confusion_tables
from dual_encoder.evaluation.table import COLUMN, ROW, Column, Evaluation, Headline, Row, Table


def average_precision(label: np.ndarray, score: np.ndarray) -> float | None:
    """Returns the average precision: the sum over thresholds t of precision(t) x the recall gained at t.

    Images of equal score enter together, so their order does not matter. (Manning et al. 2008, section 8.4; the
    definition of scikit-learn's `average_precision_score`.)

    Args:
      label: bool or 0/1, [images].
      score: float [images].

    Returns:
      a value in [0, 1]; None without a positive image.
    """
    positives = int(np.count_nonzero(label))
    if not positives:
        return None
    order = np.argsort(-score, kind="stable")
    found, taken = np.cumsum(label[order] > 0), np.arange(1, len(label) + 1)
    last = np.append(np.diff(score[order]) != 0, True)  # the last image of each score
    found, taken = found[last], taken[last]
    return float((np.diff(found, prepend=0) / positives * (found / taken)).sum())


def evaluate_classes(label: np.ndarray, probability: np.ndarray, class_names: Sequence[str]) -> Evaluation:
    """Scores images that each may hold several classes.

    Args:
      label: 0 or 1, [images, classes].
      probability: in [0, 1], [images, classes]; a class counts as found from 0.5 on.
      class_names: one per class.

    Returns:
      'map', the mean of the average precisions of the classes that occur; 'micro_f1' over all images and classes; and
      a table of the classes with 'average_precision', 'f1' and 'support'.
    """
    found, truth = probability >= 0.5, label > 0
    precision = [average_precision(truth[:, i], probability[:, i]) for i in range(len(class_names))]
    present = [value for value in precision if value is not None]
    shares = truth.mean(axis=0)
    chance = float(shares[shares > 0].mean()) if present else None  # of the same classes
    whole = Table(
        name="classification", title="Classification", row_title="", keys=(COLUMN,),
        columns=(Column("map", "mean average precision", "share", "higher"),
                 Column("micro_f1", "micro F1", "share", "higher")),
        rows=(Row("split", "whole split", (float(np.mean(present)) if present else None, _f1(truth, found))),),
        references=(Row("chance", "by chance", (chance, None)),),
        headlines=(Headline("split", "map", f"mean average precision of {len(class_names)} classes"),),
        note="Random scores have an average precision of about the share of images that hold the class.")
    classes = _class_table(
        (Column("average_precision", "average precision", "share", "higher"), Column("f1", "F1", "share", "higher")),
        class_names, [(precision[i], _f1(truth[:, i], found[:, i])) for i in range(len(class_names))],
        truth.sum(axis=0))
    return Evaluation((whole, classes))


def evaluate_single_class(label: np.ndarray, probability: np.ndarray, class_names: Sequence[str]) -> Evaluation:
    """Scores images of one class each.

    Args:
      label: class indices, [images].
      probability: in [0, 1], [images, classes]; the largest one is the prediction.
      class_names: one per class.

    Returns:
      'accuracy'; 'macro_f1', the mean F1 of the classes that occur in labels or predictions; and a table of the classes
      with 'f1', 'precision' (None for a class that is not predicted), 'recall' and 'support'; the confusion matrix.
    """
    predicted = probability.argmax(axis=1)
    f1 = [_f1(label == i, predicted == i) for i in range(len(class_names))]
    present = [value for value in f1 if value is not None]
    support = np.bincount(label, minlength=len(class_names))
    whole = Table(
        name="classification", title="Classification", row_title="", keys=(COLUMN,),
        columns=(Column("accuracy", "accuracy", "share", "higher"), Column("macro_f1", "macro F1", "share", "higher")),
        rows=(Row("split", "whole split", (float((predicted == label).mean()),
                                           float(np.mean(present)) if present else None)),),
        references=(Row("chance", "always the most frequent class", (float(support.max() / support.sum()), None)),),
        headlines=(Headline("split", "accuracy", f"accuracy of {len(class_names)} classes"),))
    matrix = confusion_matrix(label, predicted, len(class_names))
    right, guessed = np.diagonal(matrix), matrix.sum(axis=0)
    classes = _class_table(
        (Column("f1", "F1", "share", "higher"), Column("precision", "precision", "share", "higher"),
         Column("recall", "recall", "share", "higher")), class_names,
        [(value, _share(r, p), _share(r, n)) for value, r, p, n in zip(f1, right, guessed, support, strict=True)],
        support)
    return Evaluation((whole, classes, *confusion_tables("classification", "Classification", matrix, class_names)))


def image_values(label: np.ndarray, probability: np.ndarray) -> tuple[Kind, np.ndarray]:
    """Returns kind and values of `PerImage` for classified images.

    Args:
      label: class indices [images], or 0 and 1, [images, classes].
      probability: in [0, 1], [images, classes].
    """
    if label.ndim == 2:
        return "probabilities", np.concatenate([label > 0, probability], axis=1).astype(np.float64)
    count = probability.shape[1]
    matrix = np.zeros((len(label), count * count))
    matrix[np.arange(len(label)), label.astype(np.int64) * count + probability.argmax(axis=1)] = 1
    return "counts", matrix


def _class_table(columns: tuple[Column, ...], class_names: Sequence[str], values: Sequence[tuple[float | None, ...]],
                 support: np.ndarray) -> Table:
    return Table(
        name="classification_classes", title="Classification", row_title="class", keys=(COLUMN, ROW),
        columns=(*columns, Column("support", "images", "count")),
        rows=tuple(Row(name, name, (*figures, int(count)))
                   for name, figures, count in zip(class_names, values, support, strict=True)),
        note="A dash: the class does not occur.")


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _f1(truth: np.ndarray, found: np.ndarray) -> float | None:
    """Returns 2 TP / (2 TP + FP + FN) of two arrays of bool; None if the class is in neither."""
    size = int(truth.sum() + found.sum())
    return float(2 * (truth & found).sum() / size) if size else None
