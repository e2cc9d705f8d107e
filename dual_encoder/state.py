"""What a step carries on, and what a task is."""

from typing import Any

import flax.struct
import jax
import optax


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


