"""Segmentation scores from one confusion matrix over a whole split.

IoU averaged over batches, as some published code does, is another number: a batch without a class distorts it. Sum the
matrices, then score once.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from dual_encoder.errors import UserError
from dual_encoder.imagery.pictures import grid, image_to_rgb, label_to_rgb
from dual_encoder.imagery.sensors import IGNORED, SensorSpec

_TILE = 192  # pixels of a panel


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts pixels by label (rows) and prediction (columns).

    Args:
      label: class indices, integers of any shape; pixels of value 255 are left out.
      prediction: class indices, the same shape.
      classes: number of classes C.

    Returns:
      int64 [C, C]; matrices of parts of a split add up to that of the split.

    Raises:
      UserError: other shapes, or a value that is no class.
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


def segmentation_scores(matrix: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Scores one confusion matrix; intersection over union (Jaccard), F1 (Dice), accuracy.

    Args:
      matrix: int [C, C], rows = label, columns = prediction.
      class_names: C names.

    Returns:
      'miou': mean IoU of the classes that occur in labels or predictions; 'accuracy': share of right pixels;
      'iou' and 'f1': class name -> [0, 1], None for a class that occurs in neither; 'support': class name -> labelled
      pixels. 'miou' and 'accuracy' are None when there is no pixel at all.
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
        "support": {name: int(count) for name, count in zip(class_names, labelled, strict=True)},
    }


def segmentation_panels(images: Sequence[np.ndarray], labels: Sequence[np.ndarray], predictions: Sequence[np.ndarray],
                        spec: SensorSpec) -> Image.Image:
    """Draws rows of input, label (ignored pixels white) and prediction.

    Args:
      images: stored images [height, width, bands] of `spec`.
      labels, predictions: class indices uint8 [height, width].
    """
    return grid([[image_to_rgb(image, spec), label_to_rgb(label), label_to_rgb(prediction)]
                 for image, label, prediction in zip(images, labels, predictions, strict=True)], _TILE)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
