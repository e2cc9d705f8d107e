"""The objectives on the statistics of a batch, without negatives; `correlation` has their formulas."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import jax
from jax.sharding import Mesh

from dual_encoder.config import AtLeast, require
from dual_encoder.losses import correlation
from dual_encoder.losses.objective import Objective, Result, Views


@dataclasses.dataclass(frozen=True)
class Barlow(Objective):
    """Barlow Twins.

    Attributes:
      off_diagonal: weight of the correlations between different dimensions; the default is the paper's.
    """

    name: Literal["barlow"] = "barlow"
    off_diagonal: Annotated[float, AtLeast(0)] = 0.0051

    def compare(self, first: Views, second: Views, params: Mapping[str, jax.Array],
                location: jax.Array, mesh: Mesh | None) -> Result:
        """See `Objective.compare` and `correlation.barlow`."""
        return correlation.barlow(first[0], second[0], self.off_diagonal)


@dataclasses.dataclass(frozen=True)
class DeCUR(Objective):
    """DeCUR: some dimensions agree between the sensors, the others do not.

    Attributes:
      off_diagonal: weight of the correlations between different dimensions; the default is the paper's.
      common: share of the dimensions that agree between the sensors; the default is the paper's.
    """

    two_views: ClassVar[bool] = True

    name: Literal["decur"] = "decur"
    off_diagonal: Annotated[float, AtLeast(0)] = 0.0051
    common: float = 0.875

    def check_embeddings(self, sensors: Sequence[str], dim: int) -> None:
        """See `Objective.check_embeddings`."""
        require(len(sensors) > 1, "config.inputs", "+".join(sensors), f"'s1+s2': '{self.name}' compares two sensors")
        require(0 < round(self.common * dim) < dim, "config.loss.common", self.common,
                f"a share that leaves common and other ones of the {dim} dimensions")

    def compare(self, first: Views, second: Views, params: Mapping[str, jax.Array],
                location: jax.Array, mesh: Mesh | None) -> Result:
        """See `Objective.compare` and `correlation.decur`."""
        return correlation.decur(first[0], second[0], first[1], second[1], self.off_diagonal,
                                 round(self.common * first[0].shape[1]))


@dataclasses.dataclass(frozen=True)
class VICReg(Objective):
    """VICReg.

    Attributes:
      vicreg: weights of invariance, variance and covariance; the defaults are the paper's.
    """

    name: Literal["vicreg"] = "vicreg"
    vicreg: tuple[float, ...] = (25.0, 25.0, 1.0)

    def check(self, path: str) -> None:
        """Raises UserError unless there are three weights."""
        require(len(self.vicreg) == 3 and min(self.vicreg) >= 0 and max(self.vicreg) > 0, f"{path}.vicreg",
                self.vicreg, "three weights of at least 0, not all 0")

    def compare(self, first: Views, second: Views, params: Mapping[str, jax.Array],
                location: jax.Array, mesh: Mesh | None) -> Result:
        """See `Objective.compare` and `correlation.vicreg`."""
        return correlation.vicreg(first[0], second[0], self.vicreg)
