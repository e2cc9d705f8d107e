"""A linear probe of pixels: logistic regression on frozen feature maps, which are brought to the pixels bilinearly."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dual_encoder.evaluation.linear_probe import linear_probe
from dual_encoder.evaluation.segmentation import confusion_matrix, segmentation_scores
from dual_encoder.imagery.sensors import IGNORED

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of C
_PIXELS = 20_000  # that the regression learns from
_PER_IMAGE = 512  # at most, because pixels of one image are alike


class LabelledMaps(NamedTuple):
    """The frozen feature maps of a split's images, with a class for each pixel.

    Attributes:
      maps: per level float [n, rows, columns, channels], from shallow to deep; rows and columns are those of the image
        or fewer.
      labels: uint8 [n, height, width]; 255 is ignored.
    """

    maps: tuple[np.ndarray, ...]
    labels: np.ndarray

    def where(self, rows: np.ndarray) -> "LabelledMaps":
        """Returns the images of some row numbers, in memory."""
        return LabelledMaps(tuple(level[rows] for level in self.maps), self.labels[rows])

    def at(self, image: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns the features of pixels of an image: all levels side by side, bilinear between the centres of cells.

        Args:
          image: its row.
          rows, columns: of the pixels, [p].

        Returns:
          float32 [p, channels of all levels].
        """
        height, width = self.labels.shape[1:]
        return np.concatenate([_bilinear(level[image].astype(np.float32), rows, columns, height, width)
                               for level in self.maps], axis=1)


class SegmentationProbe(NamedTuple):
    """A fitted probe.

    Attributes:
      predict: maps, row -> classes uint8 [height, width] of that image.
      strength: the C of scikit-learn that was best on validation.
      pixels: how many it has learnt from.
    """

    predict: Callable[[LabelledMaps, int], np.ndarray]
    strength: float
    pixels: int


def segmentation_probe(train: LabelledMaps, validation: LabelledMaps, classes: int, seed: int = 0,
                       strengths: Sequence[float] = STRENGTHS) -> SegmentationProbe:
    """Fits multinomial logistic regression on pixels of `train`; its penalty is the best for mean IoU on `validation`.

    It learns from at most 20,000 labelled pixels, the same number of each image, drawn by `seed`.

    Args:
      train, validation: maps of one encoder.
      classes: number of classes.
      seed: of the draw.
      strengths: values of C to try.

    Raises:
      ValueError: no pixel of a split is labelled.
    """
    learnt, label = _pixels(train, seed)
    chosen_on, truth = _pixels(validation, seed)
    if not len(label) or not len(truth):
        raise ValueError(f"the {'training' if not len(label) else 'validation'} images have no labelled pixel")
    every = np.eye(classes, dtype=np.uint8)

    def score(labels: np.ndarray, probability: np.ndarray) -> float:
        matrix = confusion_matrix(labels.argmax(axis=1), probability.argmax(axis=1), classes)
        return segmentation_scores(matrix, [str(name) for name in range(classes)])["miou"] or 0.0

    fitted = linear_probe((learnt, every[label]), (chosen_on, every[truth]), score, True, strengths)

    def predict(maps: LabelledMaps, image: int) -> np.ndarray:
        height, width = maps.labels.shape[1:]
        rows, columns = (index.ravel() for index in np.indices((height, width)))
        found = fitted.predict(maps.at(image, rows, columns)).argmax(axis=1)
        return found.reshape(height, width).astype(np.uint8)

    return SegmentationProbe(predict, fitted.strength, len(label))


def _pixels(maps: LabelledMaps, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws labelled pixels, about equally many of each image: (features [p, channels], classes [p])."""
    count = min(_PER_IMAGE, max(1, _PIXELS // len(maps.labels)))
    features, classes = [], []
    for image, rows, columns in _drawn(maps.labels, count, seed):
        features.append(maps.at(image, rows, columns))
        classes.append(maps.labels[image, rows, columns])
    if not classes:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.uint8)
    return np.concatenate(features), np.concatenate(classes)


def _drawn(labels: np.ndarray, count: int, seed: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields image, rows and columns of `count` labelled pixels of each image that has some."""
    random = np.random.default_rng(seed)
    for image, label in enumerate(labels):
        labelled = np.flatnonzero(label != IGNORED)
        if len(labelled):
            chosen = random.choice(labelled, min(count, len(labelled)), replace=False)
            yield image, *np.divmod(chosen, labels.shape[2])


def _bilinear(level: np.ndarray, rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the values of a map [r, c, channels] at pixels of an image of `height` x `width`, [p, channels]."""
    top, below, down = _between(rows, level.shape[0], height)
    left, right, across = _between(columns, level.shape[1], width)
    upper = level[top, left] * (1 - across) + level[top, right] * across
    lower = level[below, left] * (1 - across) + level[below, right] * across
    return upper * (1 - down) + lower * down


def _between(at: np.ndarray, cells: int, pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two cells whose centres enclose each pixel's, and the weight of the second, float32 [p, 1]."""
    position = np.clip((at + 0.5) * (cells / pixels) - 0.5, 0, cells - 1)
    first = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    return first, np.minimum(first + 1, cells - 1), (position - first).astype(np.float32)[:, None]
