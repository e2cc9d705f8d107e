"""How the learning rate falls after the warm-up. A new way is a dataclass and a name in `AnyDecay`."""

import dataclasses
from typing import Annotated, Literal

import optax

from dual_encoder.config import AtLeast


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Half a cosine, from the peak to 0 (Loshchilov and Hutter 2017, eq. 5, without restarts)."""

    name: Literal["cosine"] = "cosine"

    def __call__(self, peak: float, steps: int) -> optax.Schedule:
        """Returns step -> rate, [] float32, for the `steps` steps after the warm-up."""
        return optax.cosine_decay_schedule(peak, steps)


@dataclasses.dataclass(frozen=True)
class CosineRestarts:
    """Several cosines of equal length, each from the peak to 0 (Loshchilov and Hutter 2017, eq. 5).

    Attributes:
      cycles: their number.
    """

    name: Literal["cosine_restarts"] = "cosine_restarts"
    cycles: Annotated[int, AtLeast(1)] = 4

    def __call__(self, peak: float, steps: int) -> optax.Schedule:
        """See `Cosine`; the last cycle takes the steps that are left over."""
        length = max(steps // self.cycles, 1)
        lengths = [length] * (self.cycles - 1) + [max(steps - length * (self.cycles - 1), 1)]
        return optax.join_schedules([optax.cosine_decay_schedule(peak, count) for count in lengths],
                                    [length * number for number in range(1, self.cycles)])


@dataclasses.dataclass(frozen=True)
class Linear:
    """A straight line from the peak to 0."""

    name: Literal["linear"] = "linear"

    def __call__(self, peak: float, steps: int) -> optax.Schedule:
        """See `Cosine`."""
        return optax.linear_schedule(peak, 0.0, steps)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The peak to the end."""

    name: Literal["constant"] = "constant"

    def __call__(self, peak: float, steps: int) -> optax.Schedule:
        """See `Cosine`."""
        return optax.constant_schedule(peak)


AnyDecay = Cosine | CosineRestarts | Linear | Constant


def warmup_and_decay(peak: float, warmup: float, steps: int, decay: AnyDecay) -> optax.Schedule:
    """Returns the schedule of a run: a line from 0 to the peak, then the decay.

    Args:
      peak: largest rate.
      warmup: share of the steps for the line, in [0, 1).
      steps: length of the run.
      decay: the shape of the rate after the warm-up.
    """
    rising = min(round(warmup * steps), steps - 1)
    if rising == 0:
        return decay(peak, steps)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, rising), decay(peak, steps - rising)], [rising])
