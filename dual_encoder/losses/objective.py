"""An objective of pre-training on the embeddings of any number of sensors."""

import abc
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dual_encoder.losses.contrastive import MAX_SCALE

Views = Sequence[jax.Array]  # [batch, dim] float32 each
Result = tuple[jax.Array, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """Compares the embeddings of two sensors, or of two augmentations of one; the fields are its settings.

    A subclass is one choice of config.loss: its field `name` is the Literal that the configuration gives.

    Attributes:
      two_views: it also compares two augmentations of each image, so it needs two sensors with two views each.
      negatives: it compares each pair with the other pairs of the batch.
    """

    two_views: ClassVar[bool] = False
    negatives: ClassVar[bool] = False

    def scalars(self) -> dict[str, jax.Array]:
        """Returns the objective's own trained parameters with their initial values, [] float32 each."""
        return {}

    def check_embeddings(self, sensors: Sequence[str], dim: int) -> None:
        """Raises UserError when embeddings of `dim` values of these sensors cannot be compared."""
        return  # most objectives compare any

    @abc.abstractmethod
    def compare(self, first: Views, second: Views, params: Mapping[str, jax.Array],
                location: jax.Array, mesh: Mesh | None) -> Result:
        """Returns the loss, [] float32, and metrics with '1_to_2' and '2_to_1' in the names of directed ones.

        Args:
          first, second: views of the one and of the other side, [batch, dim] float32 each; one view, or two.
          params: holds `scalars`.
          location: [batch] int32, the place of each row.
          mesh: the batch is sharded over it; None if the caller has none.
        """


def views(objective: Objective, sensors: Sequence[str]) -> int:
    """Returns how many augmentations of each image the objective compares, 1 or 2."""
    return 2 if objective.two_views or len(sensors) == 1 else 1


def clamp(params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Clamps `log_scale` itself, as CLIP does: a clamp inside the loss would end its gradient."""
    clamped = {"log_scale": jnp.minimum(params["log_scale"], jnp.log(MAX_SCALE))} if "log_scale" in params else {}
    return {**params, **clamped}


def compute(objective: Objective, embeddings: Mapping[str, Views], params: Mapping[str, jax.Array],
            location: jax.Array, mesh: Mesh | None) -> Result:
    """Returns the loss, [] float32, and metrics: the mean over all pairs of sensors.

    With one sensor, its two views are the pair.

    Args:
      objective: the choice.
      embeddings: sensor -> one [batch, dim] float32 per view, as many as `views` says; at least one sensor.
      params: holds the objective's `scalars`.
      location: [batch] int32, the place of each row.
      mesh: the batch is sharded over it; only tiles of pairs (`chunk`) need it.
    """
    if len(embeddings) == 1:
        (first, second), = embeddings.values()
        sides: dict[str, Views] = {"view1": [first], "view2": [second]}
    else:
        sides = dict(embeddings)
    results = []
    for one, other in itertools.combinations(sides, 2):
        loss, metrics = objective.compare(sides[one], sides[other], params, location, mesh)
        results.append((loss, {_directed(key, one, other): value for key, value in metrics.items()}))
    if len(results) == 1:
        return results[0]
    gathered: dict[str, list[jax.Array]] = {}
    for _, metrics in results:
        for key, value in metrics.items():
            gathered.setdefault(key, []).append(value)
    return (jnp.stack([loss for loss, _ in results]).mean(),
            {key: jnp.stack(values).mean() for key, values in gathered.items()})


def _directed(key: str, one: str, other: str) -> str:
    return key.replace("1_to_2", f"{one}_to_{other}").replace("2_to_1", f"{other}_to_{one}")
