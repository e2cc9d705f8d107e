"""The state of a training run."""

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
      average: {'params', 'batch_stats'}, moving averages of these two; {} if the run keeps none.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    average: Any

    @property
    def model(self) -> dict[str, Any]:
        """Returns {'params', 'batch_stats'} for use outside training: the averages if the run keeps them."""
        return self.average or {"params": self.params, "batch_stats": self.batch_stats}


