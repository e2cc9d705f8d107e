"""Pairs radar and optical images by place and time, never by list position."""

import collections
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from data_prep.record import PAIR, gap

DAY = 86400
PASS = 300  # seconds; a satellite needs less for all images of one place, and days to come back
_EDGES = (0, 1, 2, 3, 7, 14, 30, 90)  # days


def nearest_in_time(s1_times: Sequence[int], s2_times: Sequence[int],
                    share: Callable[[int, int], float] | None = None) -> list[tuple[int, int]]:
    """Pairs images of one place one to one, closest times first.

    Args:
      s1_times, s2_times: Unix seconds.
      share: (index in s1_times, index in s2_times) -> share of the S2 image that the S1 image covers. With it, images
        of one sensor that are at most `PASS` seconds apart are slices of one pass: their times count as one, and the
        pair that covers more goes first. It is asked only where there is such a choice.

    Returns:
      (index in s1_times, index in s2_times), by time of S2; min(len(s1_times), len(s2_times)) of them. Equal gaps go
      to the earlier S2, then to the earlier S1 image.
    """
    pass_1, pass_2 = (times if share is None else _passes(times) for times in (s1_times, s2_times))
    closest = sorted((abs(pass_1[i] - pass_2[j]), s2, s1, i, j)
                     for i, s1 in enumerate(s1_times) for j, s2 in enumerate(s2_times))
    used_1: set[int] = set()
    used_2: set[int] = set()
    pairs = []
    for _, equal in itertools.groupby(closest, key=lambda candidate: candidate[0]):
        left = [(i, j) for _, _, _, i, j in equal if i not in used_1 and j not in used_2]
        if share is not None:
            of_1, of_2 = collections.Counter(i for i, _ in left), collections.Counter(j for _, j in left)
            shares = {(i, j): share(i, j) for i, j in left if of_1[i] > 1 or of_2[j] > 1}
            left.sort(key=lambda pair: -shares.get(pair, 0.0))  # stable: equal shares keep their order
        for i, j in left:
            if i not in used_1 and j not in used_2:
                used_1.add(i)
                used_2.add(j)
                pairs.append((i, j))
    return sorted(pairs, key=lambda pair: (s2_times[pair[1]], pair))


def _passes(times: Sequence[int]) -> list[int]:
    """Returns for each time that of the first image of its pass."""
    first: dict[int, int] = {}
    last = -math.inf
    for time in sorted(times):
        first[time] = time if time - last > PASS else first[int(last)]
        last = time
    return [first[time] for time in times]


class GapHistogram:
    """Counts the time between the images of records; `counts` can be stored as JSON and added to another's."""

    def __init__(self, counts: Sequence[int] = ()):
        self.counts = list(counts) or [0] * (len(_EDGES) + 1)  # the last one: unknown

    def add(self, times: Mapping[str, int]) -> None:
        """Counts one record, by the time between its first and its last image; `times` as in `Pair`."""
        seconds = gap(times)
        bin_ = -1 if seconds is None else int(np.searchsorted(_EDGES, seconds / DAY, side="right")) - 1
        self.counts[bin_] += 1

    def merge(self, other: "GapHistogram") -> None:
        """Adds the counts of `other`."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]

    def lines(self, features: Sequence[str] = PAIR) -> Iterator[str]:
        """Yields the histogram as text, empty bins left out; `features` names the images."""
        bins = [f"{low}-{high} days" for low, high in zip(_EDGES, _EDGES[1:], strict=False)]
        names = [feature.upper() for feature in features]
        yield f"time between {' and '.join(names)}" if len(names) == 2 else f"longest time between {', '.join(names)}"
        for name, count in zip([*bins, f">= {_EDGES[-1]} days", "unknown"], self.counts, strict=True):
            if count:
                yield f"  {name:12s} {count:8d} {'#' * round(40 * count / sum(self.counts))}"
