"""A toy objective: the mean squared distance between the vectors of a pair."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dual_encoder.config import AtLeast
from dual_encoder.losses.objective import Objective, Result, Views


@dataclasses.dataclass(frozen=True)
class Toy(Objective):
    """The mean squared distance between the vectors of a pair.

    Attributes:
      stretch: factor of the loss.
    """

    name: Literal["toy"] = "toy"
    stretch: Annotated[float, AtLeast(0)] = 2.0

    def compare(self, first: Views, second: Views, params: Mapping[str, jax.Array],
                location: jax.Array, mesh: Mesh | None) -> Result:
        """See `Objective.compare`."""
        distance = jnp.square(first[0] - second[0]).mean()
        return self.stretch * distance, {"toy_distance": distance}
