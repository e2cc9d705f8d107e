"""Footprints that intersect: squares on the ground, from the centre of each record and its size in metres.

Sides point to the north and the east; the turn of a UTM grid against the north, some degrees at most, is left out.
Records are sorted into cells of the ground as wide as the largest footprint, so time grows like N log N.
"""

from collections.abc import Iterator

import numpy as np

PIXEL = 10.0  # metres, of all data sets here
METRES = 111_195.0  # of a degree of latitude; a sphere of 6,371 km
MARGIN = 20.0  # metres that footprints must share: coordinates are stored as float32, some metres off
_PAIRS = 1 << 20  # that are compared at a time


def intersecting(ours: np.ndarray, our_metres: float, theirs: np.ndarray, their_metres: float,
                 margin: float = MARGIN) -> Iterator[np.ndarray]:
    """Yields the records whose footprints share more than `margin`, int64 [pairs, 2]: rows of ours and of theirs.

    Args:
      ours, theirs: float64 [records, 2], latitude and longitude of the centres in degrees; NaN = unknown, in no pair.
      our_metres, their_metres: side of the footprints.
      margin: in metres, of the north and of the east; a negative one lets footprints be so far apart.
    """
    reach = (our_metres + their_metres) / 2 - margin
    known = np.flatnonzero(~np.isnan(ours).any(axis=1))
    if reach <= 0 or not len(known):
        return
    keys = _cell(ours[known], reach, 0)
    order = np.argsort(keys, kind="stable")
    known, keys = known[order], keys[order]
    there = np.flatnonzero(~np.isnan(theirs).any(axis=1))
    for row in (-1, 0, 1):
        for column in _columns(reach, row, theirs[there]):
            low, high = (np.searchsorted(keys, column, side) for side in ("left", "right"))
            for part in _parts(high - low):
                counts = (high - low)[part]
                their = np.repeat(there[part], counts)
                our = known[np.repeat(low[part], counts) + _count_up(counts)]
                close = _share(ours[our], theirs[their], reach)
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


def _share(ours: np.ndarray, theirs: np.ndarray, reach: float) -> np.ndarray:
    return (metres_apart(ours, theirs) < reach).all(axis=-1)


def _rows_and_widths(points: np.ndarray, reach: float, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the row of cells of each point, moved by `row`, and how many cells go round the earth there."""
    rows = np.floor((points[:, 0] + 90) * METRES / reach).astype(np.int64) + row
    # The cosine is that of the row's edge nearer to the pole: no cell is narrower than `reach`.
    edge = np.minimum(np.maximum(np.abs(rows * reach / METRES - 90), np.abs((rows + 1) * reach / METRES - 90)), 90)
    return rows, np.maximum(np.floor(360 * METRES * np.cos(np.radians(edge)) / reach).astype(np.int64), 1)


def _cell(points: np.ndarray, reach: float, row: int) -> np.ndarray:
    """Returns the cell of each point as a number."""
    rows, around = _rows_and_widths(points, reach, row)
    return rows * (1 << 32) + np.floor((points[:, 1] % 360) / 360 * around).astype(np.int64) % around


def _columns(reach: float, row: int, points: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the cells to search in a row next to each point: its own, and those to the west and the east."""
    rows, around = _rows_and_widths(points, reach, row)
    own = np.floor((points[:, 1] % 360) / 360 * around).astype(np.int64) % around
    for step in range(3):  # in a row of one or two cells, none is searched twice
        yield np.where(step < around, rows * (1 << 32) + (own + (0, 1, -1)[step]) % around, -1)


def _count_up(counts: np.ndarray) -> np.ndarray:
    """Returns 0, 1, ..., counts[0] - 1, 0, 1, ..., counts[1] - 1, ..."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _parts(counts: np.ndarray) -> Iterator[slice]:
    """Yields parts of `counts` of at most about `_PAIRS` pairs each."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + _PAIRS, "right")), start + 1)
        yield slice(start, stop)
        start = stop
