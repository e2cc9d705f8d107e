"""A split as a pre-trained model sees it: the input of every evaluation of embeddings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec


@dataclasses.dataclass(frozen=True)
class EmbeddedSplit:
    """The embeddings of the n records of a split.

    Attributes:
      vectors: view -> float32 [n, dim]. A view is a sensor, or one sensor turned upside down. The views of a record
        are each other's partners.
      sensors: view -> spec of its images.
      features: view -> name of its images in a record.
      places: int32 [n], equal for records of one place.
      record: row -> the whole record: tensors as arrays, ids and places as text, times as int.
      groups: int [n], equal for records of one group, such as a scene or a flood event; each place is in one group.
        None: each place is a group of its own.
    """

    vectors: Mapping[str, np.ndarray]
    sensors: Mapping[str, SensorSpec]
    features: Mapping[str, str]
    places: np.ndarray
    record: Callable[[int], Mapping[str, Any]]
    groups: np.ndarray | None = None

    def image(self, view: str, row: int) -> np.ndarray:
        """Returns the stored image [height, width, bands] of a view; it is not turned."""
        return self.record(row)[self.features[view]]


def unit_vectors(embeddings: np.ndarray, name: str) -> np.ndarray:
    """Returns embeddings [n, dim] divided by their lengths, float32; a vector of zeros stays one.

    Raises:
      UserError: no embeddings, another number of dimensions, or values that are not finite; `name` names them.
    """
    if embeddings.ndim != 2 or not len(embeddings):
        raise UserError(f"{name} embeddings have shape {list(embeddings.shape)}; expected [n, dim] with n >= 1")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise UserError(f"{len(bad)} of {len(embeddings)} {name} embeddings are not finite (first: row {bad[0]}); "
                        "evaluate an older checkpoint, or look at that record's pixels")
    embeddings = embeddings.astype(np.float32)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
