"""What a step carries on, and what a task is."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import flax.struct
import jax
import numpy as np
import optax

from dual_encoder.input import Records
from dual_encoder.sensors import SensorSpec


@flax.struct.dataclass
class TrainState:
    """State of a run; a checkpoint holds all of it.

    Attributes:
      step: [] int32, number of updates done; the next batch is that of step `step`.
      params: parameters, float32.
      batch_stats: running mean and variance of the BatchNorms, float32.
      opt_state: optimizer state.
      average: {'params', 'batch_stats'}, moving averages of these two; {} where none are kept.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    average: Any

    @property
    def model(self) -> dict[str, Any]:
        """Returns {'params', 'batch_stats'} for use outside training: the averages where they are kept."""
        return self.average or {"params": self.params, "batch_stats": self.batch_stats}


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

    def evaluate(self, outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], records: Records
                 ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Turns (record numbers [rows], outputs per row) of a whole split into scores and pictures.

        Returns:
          scores: nested dictionaries of numbers; pictures: file stem -> PIL image.
        """
