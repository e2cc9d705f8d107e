"""What each image of a split adds to the scores. Intervals over places and comparisons of models are made of it."""

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

Kind = Literal["counts", "probabilities"]
# values [images, k] of `PerImage`, weights [draws, images] -> score of each draw [draws]; NaN: it cannot be computed
ImageScore = Callable[[np.ndarray, np.ndarray], np.ndarray]
_COLUMNS = ("id", "location_id")


@dataclasses.dataclass(frozen=True)
class PerImage:
    """The images of a split with their labels and predictions, as far as scores need them.

    Attributes:
      kind: 'counts': the confusion matrix of each image, label by prediction, row by row; of pixels, or of the one
        class of the image. 'probabilities': for each class 1 or 0, then for each class its probability.
      classes: names of the C classes.
      ids, places: id and location_id of each image.
      values: float64 [images, C x C] or [images, 2 C].
      predictions: the predicted classes of the pixels, uint8 [images, height, width], for pictures; None if they were
        not kept.
    """

    kind: Kind
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    places: tuple[str, ...]
    values: np.ndarray
    predictions: np.ndarray | None = None

    def to_csv(self) -> str:
        """Returns a table with a row per image; its head names the values."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*_COLUMNS, *_heads(self.kind, self.classes)])
        for name, place, row in zip(self.ids, self.places, self.values.tolist(), strict=True):
            writer.writerow([name, place, *(f"{value:.9g}" for value in row)])
        return text.getvalue()

    @classmethod
    def from_csv(cls, text: str, kind: Kind, classes: Sequence[str]) -> "PerImage":
        """Returns the table that `to_csv` wrote.

        Raises:
          ValueError: its head is not that of these classes, or a value is no number.
        """
        head, *rows = csv.reader(io.StringIO(text))
        expected = [*_COLUMNS, *_heads(kind, classes)]
        if head != expected:
            raise ValueError(f"the head of the table is {head[:4]}..., expected {expected[:4]}...")
        values = np.array([[float(value) for value in row[2:]] for row in rows]).reshape(-1, len(expected) - 2)
        return cls(kind, tuple(classes), tuple(row[0] for row in rows), tuple(row[1] for row in rows), values)

    def score(self, metric: str) -> ImageScore:
        """Returns the function that computes a metric.

        Args:
          metric: 'miou', 'accuracy', 'macro_f1', 'iou/CLASS' or 'f1/CLASS' of counts; 'map' or 'micro_f1' of
            probabilities. Definitions: `segmentation.segmentation_scores`, `classification`.

        Raises:
          ValueError: there is no such metric.
        """
        return image_score(self.kind, self.classes, metric)


def image_score(kind: Kind, classes: Sequence[str], metric: str) -> ImageScore:
    """Returns the function that computes a metric; see `PerImage.score`."""
    count = len(classes)
    if kind == "probabilities" and metric == "map":
        return lambda values, weights: _mean_average_precision(values[:, :count] > 0, values[:, count:], weights)
    if kind == "probabilities" and metric == "micro_f1":
        return _micro_f1
    name, _, of = metric.partition("/")
    if kind == "counts" and name in ("iou", "f1") and of in classes:
        at = list(classes).index(of)
        share = _iou if name == "iou" else _f1
        return lambda values, weights: share(_matrix(values, weights, count))[:, at]
    whole = {"miou": lambda matrix: np.nanmean(_iou(matrix), axis=1),
             "macro_f1": lambda matrix: np.nanmean(_f1(matrix), axis=1),
             "accuracy": lambda matrix: _share(np.trace(matrix, axis1=1, axis2=2), matrix.sum(axis=(1, 2)))}
    if kind == "counts" and metric in whole:
        return lambda values, weights: whole[metric](_matrix(values, weights, count))
    valid = [*whole, *(f"{share}/{name}" for share in ("iou", "f1") for name in classes)] if kind == "counts" else [
        "map", "micro_f1"]
    raise ValueError(f"there is no metric '{metric}'; valid: {', '.join(valid)}")


def _heads(kind: Kind, classes: Sequence[str]) -> list[str]:
    if kind == "counts":
        return [f"{label} as {prediction}" for label in classes for prediction in classes]
    return [f"{what} {name}" for what in ("label", "probability") for name in classes]


def _matrix(values: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """Returns the weighted sums of confusion matrices, [draws, classes, classes]."""
    return (weights @ values).reshape(-1, classes, classes)


def _iou(matrix: np.ndarray) -> np.ndarray:
    right = np.diagonal(matrix, axis1=1, axis2=2)
    return _share(right, matrix.sum(axis=1) + matrix.sum(axis=2) - right)


def _f1(matrix: np.ndarray) -> np.ndarray:
    return _share(2 * np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=1) + matrix.sum(axis=2))


def _micro_f1(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    label, probability = np.split(values, 2, axis=1)
    found = probability >= 0.5
    both = weights @ ((label > 0) & found).sum(axis=1)
    return _share(2 * both, weights @ ((label > 0).sum(axis=1) + found.sum(axis=1)))


def _mean_average_precision(label: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the mean over classes of `classification.average_precision`, with weights of images, [draws]."""
    precision = []
    for truth, score in zip(label.T, probability.T, strict=True):
        order = np.argsort(-score, kind="stable")
        taken = np.cumsum(weights[:, order], axis=1)
        found = np.cumsum(weights[:, order] * truth[order], axis=1)
        last = np.append(np.diff(score[order]) != 0, True)  # images of equal score enter together
        taken, found = taken[:, last], found[:, last]
        gained = np.diff(found, axis=1, prepend=0)
        precision.append(_share((gained * _share(found, taken, 0.0)).sum(axis=1), found[:, -1]))
    return np.nanmean(np.stack(precision), axis=0)


def _share(part: np.ndarray, whole: np.ndarray, empty: float = np.nan) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), empty), where=np.asarray(whole) > 0)
