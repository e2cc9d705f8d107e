"""What a task is."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from dual_encoder.data.records import Records
from dual_encoder.evaluation.table import Evaluation
from dual_encoder.imagery.sensors import SensorSpec


class Task(Protocol):
    """What the trainer needs to know of a task. Tasks are written for the global batch."""

    features: tuple[str, ...]  # tensors of a record that a batch holds
    sensors: Mapping[str, SensorSpec]  # of the images among them
    frozen: tuple[str, ...]  # top-level names of parameters that never change

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        """Returns (params, batch_stats)."""

    def loss(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array], key: jax.Array
             ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Returns (loss [] float32, (new batch_stats, metrics)); pure."""

    def project(self, params: Any) -> Any:
        """Returns the parameters moved into their allowed range, after an update; pure."""

    def predict(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns outputs per row, in evaluation mode; pure."""

    def evaluate(self, outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], records: Records) -> Evaluation:
        """Scores the outputs of a whole split.

        Args:
          outputs: yields (record numbers int32 [rows], outputs per row, as `predict` returns them), in order.
          records: the split.

        Returns:
          The scores as tables, and pictures.

        Raises:
          UserError: outputs that cannot be scored, as embeddings that are not finite.
        """
