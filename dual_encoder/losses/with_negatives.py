"""The objectives that compare each pair with the other pairs of the batch; `contrastive` has their formulas."""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dual_encoder.config import AtLeast, Before, require
from dual_encoder.losses import contrastive
from dual_encoder.losses.objective import Objective, Result, Views
from dual_encoder.losses.tiles import Tiles


class Rows(NamedTuple):
    """How the rows of a batch are compared; see `contrastive`."""

    location: jax.Array | None
    positives: bool
    tiles: Tiles | None


@dataclasses.dataclass(frozen=True)
class _WithNegatives(Objective):
    """What these objectives have in common.

    Attributes:
      temperature: (initial) temperature; similarities are divided by it.
      learnable_temperature: train the log of 1 / temperature, clamped at 100.
      false_negatives: treat the pairs of one location in a batch as negatives of each other ('keep'), leave them out
        ('mask'), or treat them as further positives ('positive').
      chunk: compare pairs in tiles of this many rows, to save the memory of the [batch, batch] matrix. 0 computes the
        whole matrix. The loss is the same.
    """

    negatives: ClassVar[bool] = True

    temperature: Annotated[float, AtLeast(0.01)]
    learnable_temperature: bool
    false_negatives: Literal["keep", "mask", "positive"]
    chunk: Annotated[int, AtLeast(0), Before(0)]

    def scalars(self) -> dict[str, jax.Array]:
        """Returns `log_scale`, the log of 1 / temperature, [] float32."""
        return {"log_scale": jnp.float32(-math.log(self.temperature))}

    def compare(self, first: Views, second: Views, params: Mapping[str, jax.Array],
                location: jax.Array, mesh: Mesh | None) -> Result:
        """See `Objective.compare`; adds the metric `temperature`."""
        if self.chunk and mesh is None:
            raise ValueError(f"config.loss.chunk={self.chunk} needs the mesh that the batch is sharded over")
        trained = params["log_scale"] if self.learnable_temperature else jax.lax.stop_gradient(params["log_scale"])
        scale = jnp.exp(trained)
        rows = Rows(None if self.false_negatives == "keep" else location, self.false_negatives == "positive",
                    Tiles(self.chunk, mesh) if self.chunk and mesh else None)
        loss, metrics = self.formula(first, second, scale, params, rows)
        return loss, metrics | {"temperature": 1.0 / scale}

    @abc.abstractmethod
    def formula(self, first: Views, second: Views, scale: jax.Array, params: Mapping[str, jax.Array], rows: Rows
                ) -> Result:
        """Returns the loss and its metrics; the arguments are those of `compare` and of `contrastive`."""


@dataclasses.dataclass(frozen=True)
class InfoNCE(_WithNegatives):
    """Symmetric InfoNCE: the negatives are images of the other sensor."""

    name: Literal["info_nce"] = "info_nce"

    def formula(self, first: Views, second: Views, scale: jax.Array, params: Mapping[str, jax.Array], rows: Rows
                ) -> Result:
        """See `contrastive.info_nce`."""
        return contrastive.info_nce(first[0], second[0], scale, *rows)


@dataclasses.dataclass(frozen=True)
class NTXent(_WithNegatives):
    """NT-Xent (SimCLR): the negatives are images of both sensors."""

    name: Literal["nt_xent"] = "nt_xent"

    def formula(self, first: Views, second: Views, scale: jax.Array, params: Mapping[str, jax.Array], rows: Rows
                ) -> Result:
        """See `contrastive.nt_xent`."""
        return contrastive.nt_xent(first[0], second[0], scale, *rows)


@dataclasses.dataclass(frozen=True)
class IaISimCLR(_WithNegatives):
    """IaI-SimCLR: NT-Xent between the sensors and within each."""

    two_views: ClassVar[bool] = True

    name: Literal["iai_simclr"] = "iai_simclr"

    def check_embeddings(self, sensors: Sequence[str], dim: int) -> None:
        """See `Objective.check_embeddings`."""
        require(len(sensors) > 1, "config.inputs", "+".join(sensors), f"'s1+s2': '{self.name}' compares two sensors")

    def formula(self, first: Views, second: Views, scale: jax.Array, params: Mapping[str, jax.Array], rows: Rows
                ) -> Result:
        """See `contrastive.iai_simclr`."""
        return contrastive.iai_simclr(first[0], second[0], first[1], second[1], scale, *rows)


@dataclasses.dataclass(frozen=True)
class Sigmoid(_WithNegatives):
    """Pairwise sigmoid loss (SigLIP).

    Attributes:
      bias: initial bias of the logits, which is trained; the default is the paper's.
    """

    name: Literal["sigmoid"] = "sigmoid"
    bias: float = -10.0

    def scalars(self) -> dict[str, jax.Array]:
        """Returns `log_scale` and `bias`, [] float32 each."""
        return super().scalars() | {"bias": jnp.float32(self.bias)}

    def formula(self, first: Views, second: Views, scale: jax.Array, params: Mapping[str, jax.Array], rows: Rows
                ) -> Result:
        """See `contrastive.sigmoid`; adds the metric `bias`."""
        loss, metrics = contrastive.sigmoid(first[0], second[0], scale, params["bias"], *rows)
        return loss, metrics | {"bias": params["bias"]}
