"""A linear probe of pixels: logistic regression on frozen feature maps, which are brought to the pixels bilinearly."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dual_encoder.evaluation.linear_probe import LinearProbe, linear_probe
from dual_encoder.evaluation.segmentation import confusion_matrix, segmentation_scores
from dual_encoder.imagery.sensors import IGNORED

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)  # of C, which multiplies a sum over pixels
_PIXELS = 10_000  # that the regression learns from
_PER_IMAGE = 512  # at most, because pixels of one image are alike


class Difference:
    """The map of one date minus that of another, image by image, so that both may stay on the disk.

    Args:
      after, before: float [n, rows, columns, channels].
    """

    def __init__(self, after: np.ndarray, before: np.ndarray):
        self._after, self._before, self.shape = after, before, after.shape

    def __getitem__(self, image: int) -> np.ndarray:
        return self._after[image].astype(np.float32) - self._before[image]


class LabelledMaps(NamedTuple):
    """The frozen feature maps of a split's images, with a class for each pixel.

    Attributes:
      maps: per level float [n, rows, columns, channels], from shallow to deep; rows and columns are those of the image
        or fewer. They may be memory maps.
      labels: uint8 [n, height, width]; 255 is ignored.
      images: which of the n count, in this order.
    """

    maps: tuple[np.ndarray | Difference, ...]
    labels: np.ndarray
    images: np.ndarray

    def at(self, image: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns the features of pixels of an image: all levels side by side, bilinear between the centres of cells.

        Args:
          image: which of `images`.
          rows, columns: of the pixels, [p].

        Returns:
          float32 [p, channels of all levels].
        """
        return np.concatenate([bilinear(level[self.images[image]].astype(np.float32), rows, columns,
                                         self.labels.shape[1:]) for level in self.maps], axis=1)

    def label(self, image: int) -> np.ndarray:
        """Returns the label of an image, uint8 [height, width]."""
        return np.asarray(self.labels[self.images[image]])

    def logits(self, image: int, probe: LinearProbe) -> np.ndarray:
        """Returns the logits of all pixels of an image, float32 [height, width, classes].

        The classes are computed in the cells of each level and brought to the pixels afterwards, since both are linear.
        """
        height, width = self.labels.shape[1:]
        total, start = np.zeros((height, width, len(probe.bias)), np.float32) + probe.bias.astype(np.float32), 0
        for level in self.maps:
            weights = probe.weights[start:start + level.shape[-1]].astype(np.float32)
            start += level.shape[-1]
            cells = level[self.images[image]].astype(np.float32) @ weights
            across = np.tensordot(_enlargement(cells.shape[0], height), cells, axes=1)
            total += np.tensordot(across, _enlargement(cells.shape[1], width), axes=(1, 1)).swapaxes(1, 2)
        return total


class SegmentationProbe(NamedTuple):
    """A fitted probe of pixels.

    Attributes:
      probe: of the features of a pixel.
      pixels: how many it has learnt from.
    """

    probe: LinearProbe
    pixels: int

    def predict(self, maps: LabelledMaps, image: int) -> np.ndarray:
        """Returns the classes of the pixels of an image, uint8 [height, width]; `image`: which of maps.images."""
        return maps.logits(image, self.probe).argmax(axis=-1).astype(np.uint8)


def segmentation_probe(train: LabelledMaps, validation: LabelledMaps, classes: int, seed: int = 0,
                       strengths: Sequence[float] = STRENGTHS, balanced: bool = False) -> SegmentationProbe:
    """Fits multinomial logistic regression on pixels of `train`; its penalty is the best for mean IoU on `validation`.

    It learns from at most 10,000 labelled pixels, the same number of each image, drawn by `seed`.

    Args:
      train, validation: maps of one encoder.
      classes: number of classes.
      seed: of the draw.
      strengths: values of C to try.
      balanced: as of `linear_probe`.

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

    fitted = linear_probe((learnt, every[label]), (chosen_on, every[truth]), score, True, strengths,
                          balanced)
    return SegmentationProbe(fitted, len(label))


def _pixels(maps: LabelledMaps, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws labelled pixels, about equally many of each image: (features [p, channels], classes [p])."""
    count, random = min(_PER_IMAGE, max(1, _PIXELS // len(maps.images))), np.random.default_rng(seed)
    features, classes = [], []
    for image in range(len(maps.images)):
        label = maps.label(image)
        labelled = np.flatnonzero(label != IGNORED)
        if len(labelled):
            chosen = random.choice(labelled, min(count, len(labelled)), replace=False)
            rows, columns = np.divmod(chosen, label.shape[1])
            features.append(maps.at(image, rows, columns))
            classes.append(label[rows, columns])
    if not classes:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.uint8)
    return np.concatenate(features), np.concatenate(classes)


def bilinear(level: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Returns the values of a map at pixels of an image, float32 [p, channels], bilinear between the centres of cells.

    Args:
      level: float32 [r, c, channels].
      rows, columns: of the pixels, int [p].
      size: (height, width) of the image.
    """
    top, below, down = _between(rows, level.shape[0], size[0])
    left, right, across = _between(columns, level.shape[1], size[1])
    upper = level[top, left] * (1 - across) + level[top, right] * across
    lower = level[below, left] * (1 - across) + level[below, right] * across
    return upper * (1 - down) + lower * down


def _enlargement(cells: int, pixels: int) -> np.ndarray:
    """Returns the weight of each cell at each pixel of a row, float32 [pixels, cells]."""
    first, second, share = _between(np.arange(pixels), cells, pixels)
    weights = np.zeros((pixels, cells), np.float32)
    np.add.at(weights, (np.arange(pixels), first), 1 - share[:, 0])
    np.add.at(weights, (np.arange(pixels), second), share[:, 0])
    return weights


def _between(at: np.ndarray, cells: int, pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the two cells whose centres enclose each pixel's, and the weight of the second, float32 [p, 1]."""
    position = np.clip((at + 0.5) * (cells / pixels) - 0.5, 0, cells - 1)
    first = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    return first, np.minimum(first + 1, cells - 1), (position - first).astype(np.float32)[:, None]
