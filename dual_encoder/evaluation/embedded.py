"""A split as a pre-trained model sees it: the input of every evaluation of embeddings."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

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
    """

    vectors: Mapping[str, np.ndarray]
    sensors: Mapping[str, SensorSpec]
    features: Mapping[str, str]
    places: np.ndarray
    record: Callable[[int], Mapping[str, Any]]

    def image(self, view: str, row: int) -> np.ndarray:
        """Returns the stored image [height, width, bands] of a view; it is not turned."""
        return self.record(row)[self.features[view]]
