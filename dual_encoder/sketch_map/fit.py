"""Fits the classifier of a sketch: linear discriminant analysis of frozen features, which has a closed form."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from dual_encoder.errors import UserError
from dual_encoder.evaluation.segmentation_probe import bilinear
from dual_encoder.inference.frozen_maps import FrozenMaps, MapClassifier
from dual_encoder.predict.scene import OnGrid, Scene, holds_data
from dual_encoder.predict.windows import Windows
from dual_encoder.sketch_map.labels import Labels, Pixels

_FOLDS = 5


class Sketch(NamedTuple):
    """A fitted classifier.

    Attributes:
      classifier: of all pixels.
      pixels: number of pixels of each class that it has learnt from.
      right: share of the pixels of each class that are right when their polygons are left out; None if a class has one
        polygon only.
    """

    classifier: MapClassifier
    pixels: tuple[int, ...]
    right: tuple[float, ...] | None


def fit(frozen: FrozenMaps, scenes: Mapping[str, Scene | OnGrid], labels: Labels, blocks: Sequence[Pixels],
        windows: Windows) -> Sketch:
    """Fits linear discriminant analysis on the features of labelled pixels.

    All classes are taken to be equally frequent. The covariance is shrunk (Ledoit and Wolf 2004), so that few pixels
    are enough.

    Args:
      frozen: the encoders.
      scenes: name of an image -> scene, all on one grid.
      labels: names of the classes.
      blocks: labelled pixels, as of `draw_pixels`.
      windows: of the map.

    Raises:
      UserError: a class has no pixel with data.
    """
    parts = [_features(frozen, scenes, block, windows) for block in blocks]
    features, classes, polygons = (np.concatenate(part) for part in zip(*parts, strict=True))
    counts = np.bincount(classes, minlength=len(labels.classes))
    if not counts.all():
        raise UserError(f"the polygons of class '{labels.classes[int(np.argmin(counts))]}' hold no data in the scene; "
                        "draw some elsewhere")
    analysis = _analysis(len(labels.classes)).fit(features, classes)
    weights, bias = analysis.coef_.T, analysis.intercept_
    if len(labels.classes) == 2:  # the one function is that of the second class
        weights, bias = np.concatenate([0 * weights, weights], axis=1), np.concatenate([0 * bias, bias])
    classifier = MapClassifier(frozen, labels.classes, weights, bias)
    return Sketch(classifier, tuple(counts.tolist()), _left_out(features, classes, polygons, len(labels.classes)))


def _analysis(classes: int) -> LinearDiscriminantAnalysis:
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(classes, 1 / classes))


def _features(frozen: FrozenMaps, scenes: Mapping[str, Scene | OnGrid], block: Pixels, windows: Windows
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features float64 [n, channels], classes and polygons of the pixels of a block that hold data."""
    side = windows.window
    top, left = windows.start(block.row), windows.start(block.column)
    images = {name: scene.read(top, left, side, side) for name, scene in scenes.items()}
    shown = holds_data(images, {name: scene.spec for name, scene in scenes.items()})[block.rows, block.columns]
    rows, columns = block.rows[shown], block.columns[shown]
    levels = frozen.maps({name: image[None] for name, image in images.items()})
    features = [bilinear(np.asarray(level[0], np.float32), rows, columns, (side, side)) for level in levels]
    return np.concatenate(features, axis=1).astype(np.float64), block.classes[shown], block.polygons[shown]


def _left_out(features: np.ndarray, classes: np.ndarray, polygons: np.ndarray, count: int) -> tuple[float, ...] | None:
    """Returns the share of right pixels of each class when their polygons are left out."""
    of_class = [len(np.unique(polygons[classes == number])) for number in range(count)]
    if min(of_class) < 2:
        return None
    folds = StratifiedGroupKFold(min(_FOLDS, *of_class), shuffle=True, random_state=0)
    splits = [(learnt, tested) for learnt, tested in folds.split(features, classes, polygons)]
    if any(len(np.unique(classes[learnt])) < count for learnt, _ in splits):
        return None
    found = cross_val_predict(_analysis(count), features, classes, cv=splits)
    return tuple(float((found[classes == number] == number).mean()) for number in range(count))
