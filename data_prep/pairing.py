"""Which radar image belongs to which optical image: by place and parsed acquisition time, never by list position."""

import datetime
import re
from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.record import UNKNOWN_TIME
from dual_encoder.errors import UserError

DAY = 86400
_EDGES = (0, 1, 2, 3, 7, 14, 30, 90)  # days


def acquisition_time(name: str) -> int:
    """Returns the first time in a product or patch name, as Unix seconds UTC; UserError when there is none."""
    match = re.search(r"(?<!\d)(\d{4})(\d\d)(\d\d)T(\d{5,6})(?!\d)", name)
    if match is None:
        raise UserError(f"no acquisition time in the name '{name}'; expected one like 20170613T101031")
    clock = match[4].zfill(6)  # BigEarthNet v1 names drop the leading zero of the hour
    hour, minute, second = int(clock[:2]), int(clock[2:4]), int(clock[4:])
    try:
        day = datetime.datetime(*map(int, match.groups()[:3]), hour, minute, tzinfo=datetime.UTC)
        if second > 60:  # 60 is a leap second
            raise ValueError(second)
    except ValueError as error:
        raise UserError(f"'{match[0]}' in the name '{name}' is no time; expected one like 20170613T101031") from error
    return int(day.timestamp()) + second


def nearest_in_time(s1_times: Sequence[int], s2_times: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs images of one place one to one, closest times first.

    Args:
      s1_times, s2_times: Unix seconds.

    Returns:
      (index in s1_times, index in s2_times), by time of S2; min(len(s1_times), len(s2_times)) of them. Equal gaps go
      to the earlier S2, then to the earlier S1 image.
    """
    closest = sorted((abs(s1 - s2), s2, s1, i, j) for i, s1 in enumerate(s1_times) for j, s2 in enumerate(s2_times))
    used_1, used_2, pairs = set(), set(), []
    for _, _, _, i, j in closest:
        if i not in used_1 and j not in used_2:
            used_1.add(i)
            used_2.add(j)
            pairs.append((i, j))
    return sorted(pairs, key=lambda pair: (s2_times[pair[1]], pair))


class GapHistogram:
    """Counts the time between the two images of a pair; `counts` can be stored as JSON and added to another's."""

    def __init__(self, counts: Sequence[int] = ()):
        self.counts = list(counts) or [0] * (len(_EDGES) + 1)  # the last one: unknown

    def add(self, s1_time: int, s2_time: int) -> None:
        """Counts one pair; times in Unix seconds, -1 unknown."""
        if UNKNOWN_TIME in (s1_time, s2_time):
            self.counts[-1] += 1
        else:
            self.counts[int(np.searchsorted(_EDGES, abs(s1_time - s2_time) / DAY, side="right")) - 1] += 1

    def merge(self, other: "GapHistogram") -> None:
        """Adds the counts of `other`."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]

    def lines(self) -> Iterator[str]:
        """Yields the histogram as text, empty bins left out."""
        names = [f"{low}-{high} days" for low, high in zip(_EDGES, _EDGES[1:], strict=False)]
        yield "time between S1 and S2"
        for name, count in zip([*names, f">= {_EDGES[-1]} days", "unknown"], self.counts, strict=True):
            if count:
                yield f"  {name:12s} {count:8d} {'#' * round(40 * count / sum(self.counts))}"
