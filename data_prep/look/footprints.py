"""Footprints that intersect: squares on the ground, from the centre of each record and its size in metres.

Sides point to the north and the east; the turn of a UTM grid against the north, some degrees at most, is left out.
Records are sorted into cells of the ground as wide as the largest footprint, so time grows like N log N.
"""

from collections.abc import Iterator

import numpy as np

from data_prep.look.rows import count_up

PIXEL = 10.0  # metres, of all data sets here
METRES = 111_195.0  # of a degree of latitude; a sphere of 6,371 km
MARGIN = 20.0  # metres that footprints must share: coordinates are stored as float32, some metres off
_PAIRS = 1 << 20  # that are compared at a time


class Index:
    """The footprints of a data set, to find those of other records that they intersect.

    Args:
      points: float64 [records, 2], latitude and longitude of the centres in degrees; NaN = unknown, in no pair.
      metres, their_metres: side of the footprints, and of those that are looked up.
      margin: metres of the north and of the east that they must share; a negative one lets them be so far apart.
    """

    def __init__(self, points: np.ndarray, metres: float, their_metres: float, margin: float = MARGIN):
        self._reach, self._points = (metres + their_metres) / 2 - margin, points
        known = np.flatnonzero(~np.isnan(points).any(axis=1)) if self._reach > 0 else np.zeros(0, np.int64)
        keys = _cell(points[known], self._reach) if len(known) else np.zeros(0, np.int64)
        order = np.argsort(keys, kind="stable")
        self._known, self._keys = known[order], keys[order]

    def pairs(self, theirs: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the records whose footprints intersect, int64 [pairs, 2]: rows of this index, and of `theirs`.

        Args:
          theirs: float64 [others, 2], as `points`.
        """
        there = np.flatnonzero(~np.isnan(theirs).any(axis=1)) if len(self._keys) else np.zeros(0, np.int64)
        for row in (-1, 0, 1):
            for cells in _columns(self._reach, row, theirs[there]):
                low, high = (np.searchsorted(self._keys, cells, side) for side in ("left", "right"))
                for part in _parts(high - low):
                    counts = (high - low)[part]
                    their = np.repeat(there[part], counts)
                    our = self._known[np.repeat(low[part], counts) + count_up(counts)]
                    close = (metres_apart(self._points[our], theirs[their]) < self._reach).all(axis=-1)
                    if close.any():
                        yield np.stack([our[close], their[close]], axis=1)


def metres_apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the distances to the north and to the east of points, float64 [..., 2], in metres.

    Args:
      one, other: [..., 2], latitude and longitude in degrees.
    """
    north = np.abs(one[..., 0] - other[..., 0])
    east = np.abs(one[..., 1] - other[..., 1]) % 360
    east = np.minimum(east, 360 - east) * np.cos(np.radians((one[..., 0] + other[..., 0]) / 2))
    return np.stack([north, east], axis=-1) * METRES


def _rows_and_widths(points: np.ndarray, reach: float, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row of cells of each point, moved by `row`, and how many cells go round the earth there."""
    rows = np.floor((points[:, 0] + 90) * METRES / reach).astype(np.int64) + row
    # The cosine is that of the row's edge nearer to the pole: no cell is narrower than `reach`.
    edge = np.minimum(np.maximum(np.abs(rows * reach / METRES - 90), np.abs((rows + 1) * reach / METRES - 90)), 90)
    return rows, np.maximum(np.floor(360 * METRES * np.cos(np.radians(edge)) / reach).astype(np.int64), 1)


def _cell(points: np.ndarray, reach: float) -> np.ndarray:
    """Returns the cell of each point as a number."""
    rows, around = _rows_and_widths(points, reach, 0)
    return rows * (1 << 32) + np.floor((points[:, 1] % 360) / 360 * around).astype(np.int64) % around


def _columns(reach: float, row: int, points: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the cells to search in a row next to each point: its own, and those to the west and the east."""
    rows, around = _rows_and_widths(points, reach, row)
    own = np.floor((points[:, 1] % 360) / 360 * around).astype(np.int64) % around
    for step in range(3):  # in a row of one or two cells, none is searched twice
        yield np.where(step < around, rows * (1 << 32) + (own + (0, 1, -1)[step]) % around, -1)


def _parts(counts: np.ndarray) -> Iterator[slice]:
    """Yields parts of `counts` of at most about `_PAIRS` pairs each."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + _PAIRS, "right")), start + 1)
        yield slice(start, stop)
        start = stop
