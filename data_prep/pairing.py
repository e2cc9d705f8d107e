"""Pairs radar and optical images by place and parsed acquisition time, never by list position."""

import datetime
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_prep.record import PAIR, gap
from dual_encoder.errors import UserError

DAY = 86400
_EDGES = (0, 1, 2, 3, 7, 14, 30, 90)  # days


def acquisition_time(name: str) -> int:
    """Returns the first time in a product or patch name, as Unix seconds UTC; UserError if there is none."""
    match = re.search(r"(?<!\d)(\d{4})(\d\d)(\d\d)T(\d{5,6})(?!\d)", name)
    if match is None:
        raise UserError(f"no acquisition time in the name '{name}'; expected one like 20170613T101031")
    clock = match[4].zfill(6)  # BigEarthNet v1 names drop the leading zero of the hour
    year, month, day = (int(match[group]) for group in (1, 2, 3))
    hour, minute, second = int(clock[:2]), int(clock[2:4]), int(clock[4:])
    try:
        whole = datetime.datetime(year, month, day, hour, minute, tzinfo=datetime.UTC)
        if second > 60:  # 60 is a leap second
            raise ValueError(second)
    except ValueError as error:
        raise UserError(f"'{match[0]}' in the name '{name}' is no time; expected one like 20170613T101031") from error
    return int(whole.timestamp()) + second


def nearest_in_time(s1_times: Sequence[int], s2_times: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs images of one place one to one, closest times first.

    Args:
      s1_times, s2_times: Unix seconds.

    Returns:
      (index in s1_times, index in s2_times), by time of S2; min(len(s1_times), len(s2_times)) of them. Equal gaps go
      to the earlier S2, then to the earlier S1 image.
    """
    closest = sorted((abs(s1 - s2), s2, s1, i, j) for i, s1 in enumerate(s1_times) for j, s2 in enumerate(s2_times))
    used_1: set[int] = set()
    used_2: set[int] = set()
    pairs = []
    for _, _, _, i, j in closest:
        if i not in used_1 and j not in used_2:
            used_1.add(i)
            used_2.add(j)
            pairs.append((i, j))
    return sorted(pairs, key=lambda pair: (s2_times[pair[1]], pair))


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
