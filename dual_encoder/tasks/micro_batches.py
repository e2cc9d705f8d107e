"""The gradient of a loss over the whole batch, with the activations of a micro-batch at a time (GradCache).

Gao et al. 2021, arXiv 2101.06983: embed all rows without keeping activations, take the gradient of the loss with
respect to the embeddings, then run each micro-batch again to carry that gradient to the parameters. A loop whose body
is rematerialised does exactly this. So only the embedding differs from the plain step, and the gradient is that of the
whole batch. It costs one more forward pass. Over many TPU chips the gradients of all micro-batches are summed once per
step; XLA's CPU compiler sums the gradient of each micro-batch over its simulated devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from dual_encoder.config import AtLeast


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a step is computed.

    Attributes:
      micro_batch: rows, over all devices, whose activations are held at one time. The gradient stays that of the whole
        batch; it costs one more forward pass. BatchNorm takes its statistics over a micro-batch. 0 is off.
    """

    micro_batch: Annotated[int, AtLeast(0)]


def in_micro_batches(function: Callable[..., tuple[Any, Any]], parts: int, *rows: Any) -> tuple[Any, Any]:
    """Calls `function` on `parts` micro-batches, one after the other.

    Every parts-th row makes a micro-batch, so that each device works on its own rows all the time.

    Args:
      function: rows of a micro-batch -> (outputs per row, statistics of the micro-batch).
      parts: number of micro-batches; the number of rows is a multiple.
      rows: trees of arrays [batch, ...].

    Returns:
      The outputs of all rows, in order, and the mean of the statistics.
    """
    def split(x):
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:])

    def join(x):
        return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

    @jax.checkpoint
    def one(part, apart):
        return function(*jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, part, 1, keepdims=False), apart))

    apart = jax.tree.map(split, rows)
    _, (outputs, statistics) = jax.lax.scan(lambda _, part: (None, one(part, apart)), None, jnp.arange(parts))
    return jax.tree.map(join, outputs), jax.tree.map(lambda x: x.mean(axis=0), statistics)
