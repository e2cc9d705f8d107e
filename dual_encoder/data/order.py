"""The records of a batch: a function of (seed, step), of the sizes of the sets and of their weights.

One set: each epoch walks through a permutation computed from (seed, epoch); the last incomplete batch is left out.

Several sets, by weight: the first T batches of B records hold exactly floor(w_i * T * B) records of set i, and the rest
is of the set of the largest weight. The n-th record of a set is at position n of its own epochs, each a permutation
computed from (seed, set, epoch), without a gap. So an epoch of a set may end within a batch, and a record that is late
in one permutation and early in the next can be in one batch twice.
"""

import fractions
import functools
import math
from collections.abc import Sequence

import numpy as np

from dual_encoder.errors import UserError

_ROWS = 1 << 62  # key of the order of the rows in a batch: above the keys of epochs, below those NumPy turns to floats


def permutation(seed: int, epoch: int, count: int, part: int = 0) -> np.ndarray:
    """Returns the order of an epoch of set `part`, int64 [count], read-only; Philox keyed by (seed, part, epoch)."""
    order = np.random.Generator(np.random.Philox(key=[seed, part << 32 | epoch])).permutation(count)
    order.flags.writeable = False
    return order


class Order:
    """The record numbers of each batch. Numbers count through the sets, one after the other.

    Args:
      seed: of the run.
      counts: records per set.
      weights: share of the batches per set, positive, in any unit; () = in proportion to the records.
      batch_size: of the global batch.

    Attributes:
      steps_per_epoch: number of whole batches in the records of all sets.

    Raises:
      UserError: fewer records than one batch; weights that do not fit the sets; a batch too small to mix them.
    """

    def __init__(self, seed: int, counts: Sequence[int], weights: Sequence[float], batch_size: int):
        self._arguments = (seed, tuple(counts), tuple(weights), batch_size)
        if sum(counts) < batch_size:
            raise UserError(f"config.batch_size is {batch_size}, the split has {sum(counts)} records; use a batch of "
                            f"at most {sum(counts)}")
        self.steps_per_epoch = sum(counts) // batch_size
        self._seed, self._counts, self._batch_size = seed, counts, batch_size
        self._starts = [sum(counts[:part]) for part in range(len(counts))]
        self._shares = _shares(counts, weights)
        self._largest = self._shares.index(max(self._shares))
        others = sum(-(-share * batch_size // sum(self._shares)) for part, share in enumerate(self._shares)
                     if part != self._largest)
        if others > batch_size:  # the largest set would have a negative number of records
            raise UserError(f"config.batch_size is {batch_size}, too small to mix {len(counts)} data sets by weight; "
                            f"use at least {len(counts) * (len(counts) - 1)}")
        # An epoch and the next one: at its end, readers need both.
        self._epochs = [functools.lru_cache(2)(functools.partial(permutation, seed, count=count, part=part))
                        for part, count in enumerate(counts)]

    def __reduce__(self):
        return Order, self._arguments

    def numbers(self, step: int) -> np.ndarray:
        """Returns the record numbers of the batch of step `step` (from 0), int64 [batch_size]."""
        if len(self._counts) == 1:
            epoch, batch = divmod(step, self.steps_per_epoch)
            return self._epochs[0](epoch)[batch * self._batch_size:(batch + 1) * self._batch_size]
        rows = np.concatenate([self._positions(part, start, stop) + self._starts[part] for part, (start, stop)
                               in enumerate(zip(self.given(step), self.given(step + 1), strict=True))])
        return np.random.Generator(np.random.Philox(key=[self._seed, _ROWS | step])).permutation(rows)

    def given(self, steps: int) -> list[int]:
        """Returns the number of records of each set in the first `steps` batches."""
        total = steps * self._batch_size
        given = [share * total // sum(self._shares) for share in self._shares]
        given[self._largest] += total - sum(given)
        return given

    def _positions(self, part: int, start: int, stop: int) -> np.ndarray:
        """Returns the records at positions start, ..., stop - 1 of a set's epochs, one after the other."""
        count, pieces = self._counts[part], [np.empty(0, np.int64)]
        while start < stop:
            epoch, at = divmod(start, count)
            pieces.append(self._epochs[part](epoch)[at:at + stop - start])
            start += len(pieces[-1])
        return np.concatenate(pieces)


def _shares(counts: Sequence[int], weights: Sequence[float]) -> list[int]:
    """Returns whole numbers in the proportion of the weights, so that the counts of a set are exact at any step."""
    if not weights:
        return list(counts)
    if len(weights) != len(counts) or not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"config.data.weights is {tuple(weights)}, config.data.dir names {len(counts)} data set(s); "
                        "give one positive number for each, or () to mix them in proportion to their records")
    exact = [fractions.Fraction(repr(float(weight))) for weight in weights]  # 0.1 is exactly a tenth
    return [int(value * math.lcm(*(v.denominator for v in exact))) for value in exact]
