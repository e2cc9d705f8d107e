"""The images of a split with the lowest scores: a table of their ids, and a picture with maps of the errors."""

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dual_encoder.evaluation.segmentation import segmentation_scores
from dual_encoder.evaluation.table import Column, Evaluation, Picture, Row, Table
from dual_encoder.imagery.palette import hatched, label_to_rgb
from dual_encoder.imagery.pictures import class_legend, grid, image_to_rgb
from dual_encoder.imagery.sensors import IGNORED, SensorSpec

_TILE = 160  # pixels
_RIGHT, _WRONG = (222, 226, 230), (150, 20, 60)


class _Scored(NamedTuple):
    """An image; the heap of the worst ones compares their first two values."""

    badness: float  # minus the score: the first of the heap is the best of the worst
    order: int  # minus the number, so that the first of equal ones stays
    accuracy: float
    label: np.ndarray
    prediction: np.ndarray


class WorstImages:
    """Collects the images with the lowest scores while a split is evaluated.

    The score of an image is its mean IoU, over the classes that occur in its label or prediction. An image without a
    labelled pixel has none.

    Args:
      class_names: of the C classes.
      count: number of images to keep.
    """

    def __init__(self, class_names: Sequence[str], count: int):
        self._classes, self._count = class_names, count
        self._heap: list[_Scored] = []

    def add(self, number: int, matrix: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        """Adds an image.

        Args:
          number: of its record.
          matrix: int [C, C], its confusion matrix.
          label, prediction: class indices uint8 [height, width].
        """
        scores = segmentation_scores(matrix, self._classes)
        if scores["miou"] is None or scores["accuracy"] is None:
            return
        entry = _Scored(-scores["miou"], -number, scores["accuracy"], label, prediction)
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, entry)
        elif entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def evaluation(self, read: Callable[[int], tuple[str, Sequence[np.ndarray]]], spec: SensorSpec,
                   shown: Sequence[str], colours: Sequence[str] = ()) -> Evaluation:
        """Returns a table of the images, the worst first, and their picture.

        Args:
          read: number of a record -> its id, and its stored images [height, width, bands] of `spec`.
          spec: of the images.
          shown: what each image of a row is.
          colours: of the classes, as of `palette.class_colours`.
        """
        if not self._heap:
            return Evaluation(())
        rows, pictures, sides = [], [], []
        for one in sorted(self._heap, key=lambda entry: entry[:2], reverse=True):
            name, images = read(-one.order)
            wrong = int(((one.label != one.prediction) & (one.label != IGNORED)).sum())
            rows.append(Row(name, name, (-one.badness, one.accuracy, wrong)))
            sides.append(f"{-one.badness:.3f} {name}")
            pictures.append([*(image_to_rgb(image, spec) for image in images), label_to_rgb(one.label, colours),
                             label_to_rgb(one.prediction, colours), error_map(one.label, one.prediction)])
        legend = class_legend(self._classes, colours) | {"right": _RIGHT, "wrong": _WRONG}
        table = Table(
            name="worst_images", title="Worst images", row_title="image",
            columns=(Column("miou", "mean IoU", "share", in_scores=False),
                     Column("accuracy", "accuracy", "share", in_scores=False),
                     Column("wrong", "wrong pixels", "count", in_scores=False)),
            rows=tuple(rows), note="The lowest mean IoU first, over the classes of each image.",
            pictures=(Picture("worst_images", "Where the errors are",
                              f"Each row: mean IoU and id, {', '.join(shown)}, label, prediction, errors."),))
        picture = grid(pictures, _TILE, (*shown, "label", "prediction", "errors"), sides, legend)
        return Evaluation((table,), {"worst_images": picture})


def error_map(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Returns a picture, uint8 [height, width, 3]: wrong pixels are dark red, right ones pale, ignored ones hatched.

    Args:
      label, prediction: class indices uint8 [height, width]; 255 in a label is ignored.
    """
    picture = np.where((label == prediction)[..., None], np.array(_RIGHT, np.uint8), np.array(_WRONG, np.uint8))
    return hatched(picture, label == IGNORED)
