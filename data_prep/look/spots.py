"""Near-duplicate images by perceptual hashes of their spots: the candidates by hash, then a check on the pixels.

A spot is a local maximum or minimum of an image whose values are replaced by their ranks. Its code holds, for each of
7 x 7 cells around it, whether the cell is brighter than the middle one of them; of the eight flips and quarter turns
the one with the least code counts. So a code stays the same if the image is flipped, turned, shifted, or stretched by
any growing function. Two images are candidates if two spots agree in code and in the motion that leads from one to the
other. That motion is then applied, and the ranks of the pixels must correlate.

The codes of one data set are sorted once; those of the other are looked up, so time grows like N log N.
"""

import functools
from collections.abc import Callable

import numpy as np

from data_prep.look.rows import count_up, firsts

SPOTS = 40  # of a band
BANDS = 2  # bands that are looked at
LEAST = 2  # spots that must agree
SAME = 0.8  # least correlation of the ranks of two near-duplicates
_CELL, _GRID = 4, 7  # pixels of a cell, cells of a spot
_REACH = _CELL * (_GRID // 2)
_APART = 7  # pixels; the window in which a spot is the extreme
_SHARED = 64  # images with one code that are looked at; further ones are copies of these
_LEAST_OVERLAP = 0.2  # of the smaller image
_SIDE = 1 << 13  # more than the side of an image in pixels, and than twice a shift


def turn(image: np.ndarray, number: int) -> np.ndarray:
    """Returns an image [height, width] in one of eight positions, 0..7; 0 leaves it as it is."""
    return np.rot90(image.T if number & 4 else image, number & 3)


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value among all of them in [0, 1), float32; equal values have their mean rank.

    Args:
      values: integers; the table that is made has an entry for each value between the least and the largest.
    """
    places = values.astype(np.int64) - int(values.min())
    counts = np.bincount(places.ravel())
    ends = np.cumsum(counts)
    return ((ends - (counts + 1) / 2) / values.size).astype(np.float32)[places]


def describe(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the spots of an image.

    Args:
      image: [height, width, bands], at most `BANDS` of them.

    Returns:
      codes: uint64 [BANDS * SPOTS]; 0 = no spot.
      motions: uint32 [BANDS * SPOTS]: row, column and position of each spot, as `_pack` puts them together.
    """
    codes, motions = np.zeros(BANDS * SPOTS, np.uint64), np.zeros(BANDS * SPOTS, np.uint32)
    for band in range(image.shape[-1]):
        found, rows, columns, position = _spots(image[..., band])
        part = slice(band * SPOTS, band * SPOTS + len(found))
        codes[part] = found | np.uint64((band + 1) << 56)  # never 0, and bands stay apart
        motions[part] = _pack(rows, columns, position)
    return codes, motions


def _spots(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns codes, rows, columns and positions (0..7) of the strongest spots of a band."""
    if min(values.shape) <= 2 * _REACH:
        return np.zeros(0, np.uint64), *(np.zeros(0, np.int64),) * 3
    grey = ranks(values)
    smooth = window(window(grey, 3, np.add), 3, np.add)
    relief = smooth - window(smooth, 9, np.add) / 81
    inside = slice(_REACH, -_REACH), slice(_REACH, -_REACH)
    extreme = (window(relief, _APART, np.maximum) == relief) | (window(relief, _APART, np.minimum) == relief)
    rows, columns = np.nonzero(extreme[inside] & (relief[inside] != 0))
    strongest = np.argsort(-np.abs(relief[inside][rows, columns]), kind="stable")[:SPOTS]
    rows, columns = rows[strongest] + _REACH, columns[strongest] + _REACH
    steps = np.arange(-(_GRID // 2), _GRID // 2 + 1) * _CELL
    cells = window(grey, _CELL + 1, np.add)[rows[:, None, None] + steps[:, None], columns[:, None, None] + steps]
    cells = cells.reshape(len(rows), _GRID * _GRID)
    bright = cells > np.median(cells, axis=1, keepdims=True)
    weights = np.uint64(1) << np.arange(_GRID * _GRID, dtype=np.uint64)
    all_codes = (bright[:, _turned_cells()] * weights).sum(axis=-1, dtype=np.uint64)  # [spots, 8]
    position = all_codes.argmin(axis=1)
    return all_codes[np.arange(len(rows)), position], rows, columns, position


def window(values: np.ndarray, width: int, combine: Callable) -> np.ndarray:
    """Returns the sum, maximum or minimum of the window around each value, mirrored at the border, of the same shape.

    Some ten times as fast as the filters of SciPy: windows are put together of windows of 1, 2, 4, ... values.

    Args:
      values: [height, width], both more than half the window.
      width: of the window, odd.
      combine: np.add, np.maximum or np.minimum.
    """
    result = np.pad(values, width // 2, mode="symmetric")
    for axis in (0, 1):
        count, block, length, start = result.shape[axis] - width + 1, result, 1, 1
        total = _cut(result, axis, 0, count)  # the odd value
        while length <= width:
            if width & length and length > 1:
                total, start = combine(total, _cut(block, axis, start, start + count)), start + length
            if 2 * length <= width:
                block = combine(_cut(block, axis, 0, -length), _cut(block, axis, length, None))
            length *= 2
        result = total
    return result


def _cut(values: np.ndarray, axis: int, start: int, stop: int | None) -> np.ndarray:
    return values[start:stop] if axis == 0 else values[:, start:stop]


@functools.cache
def _turned_cells() -> np.ndarray:
    """Returns int [8, cells]: the cell that stands at each place of a spot in each position."""
    cells = np.arange(_GRID * _GRID).reshape(_GRID, _GRID)
    return np.stack([turn(cells, number).ravel() for number in range(8)])


@functools.cache
def _matrices() -> np.ndarray:
    """Returns int [8, 2, 2]: (row, column) from the centre -> the same point after `turn`."""
    rows, columns = np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij")
    result = np.zeros((8, 2, 2), np.int64)
    for number in range(8):
        turned = turn(rows, number), turn(columns, number)  # where each point of the turned image came from
        for axis, point in enumerate(((1, 0), (0, 1))):
            at = np.argwhere((turned[0] == point[0]) & (turned[1] == point[1]))[0] - 1
            result[number, :, axis] = at
    return result


@functools.cache
def _between() -> np.ndarray:
    """Returns int [8, 8]: the position h with turn(x, a) == turn(turn(x, h), b), for positions a and b of two spots."""
    example = np.arange(9).reshape(3, 3)
    table = np.zeros((8, 8), np.int64)
    for a in range(8):
        for b in range(8):
            table[a, b] = next(h for h in range(8)
                               if np.array_equal(turn(example, a), turn(turn(example, h), b)))
    return table


def _pack(rows: np.ndarray, columns: np.ndarray, position: np.ndarray) -> np.ndarray:
    return ((rows * _SIDE + columns) * 8 + position).astype(np.uint32)


class Index:
    """The spots of a data set, to look up those of other images.

    Args:
      codes, motions: [records, BANDS * SPOTS], as of `describe`.
      size: height and width of its images.
    """

    def __init__(self, codes: np.ndarray, motions: np.ndarray, size: int):
        flat = codes.ravel()
        there = np.flatnonzero(flat)
        order = there[np.argsort(flat[there], kind="stable")]
        self._codes, self._motions = flat[order], motions.ravel()[order]
        self._records = (order // codes.shape[1]).astype(np.int32)
        self._size = size

    def candidates(self, codes: np.ndarray, motions: np.ndarray, size: int) -> np.ndarray:
        """Returns the images that may be near-duplicates of others, int64 [pairs, 5].

        Args:
          codes, motions: [others, BANDS * SPOTS], as of `describe`.
          size: height and width of the others.

        Returns:
          rows of (other, record of the index, position, rows, columns): `overlap` takes the last three.
        """
        flat, width = codes.ravel(), codes.shape[1]
        low, high = (np.searchsorted(self._codes, flat, side) for side in ("left", "right"))
        counts = np.where(flat == 0, 0, np.minimum(high - low, _SHARED))
        source = np.repeat(np.arange(len(flat)), counts)
        at = np.repeat(low, counts) + count_up(counts)
        position, shift = _motion(self._motions[at], self._size, motions.ravel()[source], size)
        pairs = np.stack([source // width, self._records[at].astype(np.int64), position, *shift], axis=1)
        pairs, votes = np.unique(pairs, axis=0, return_counts=True)
        pairs, votes = pairs[votes >= LEAST], votes[votes >= LEAST]
        best = np.lexsort((-votes, pairs[:, 1], pairs[:, 0]))
        pairs = pairs[best]
        return pairs[firsts(pairs[:, :2])]


def _motion(ours: np.ndarray, our_size: int, theirs: np.ndarray, their_size: int
            ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Returns the position and the shift in pixels that bring our image onto theirs, for each pair of spots."""
    def unpack(motions: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        place = motions.astype(np.int64) // 8
        return np.stack([place // _SIDE, place % _SIDE], axis=1) * 2 - (size - 1), motions.astype(np.int64) % 8

    our_points, our_turns = unpack(ours, our_size)
    their_points, their_turns = unpack(theirs, their_size)
    position = _between()[our_turns, their_turns]
    moved = np.einsum("nij,nj->ni", _matrices()[position], our_points)
    shift = (their_points - moved + their_size - our_size) // 2  # of the upper left corners
    return position, (shift[:, 0], shift[:, 1])


def overlap(ours: np.ndarray, theirs: np.ndarray, position: int, rows: int, columns: int
            ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the common part of two bands [height, width] after `turn` and a shift of ours, as two equal shapes."""
    ours = turn(ours, position)
    parts = []
    for axis, shift in enumerate((rows, columns)):
        start, stop = max(0, shift), min(theirs.shape[axis], ours.shape[axis] + shift)
        parts.append((slice(start - shift, max(start, stop) - shift), slice(start, max(start, stop))))
    return ours[parts[0][0], parts[1][0]], theirs[parts[0][1], parts[1][1]]


def similarity(ours: np.ndarray, theirs: np.ndarray, position: int, rows: int, columns: int) -> float:
    """Returns the rank correlation (Spearman) of the common part, in the band with the highest one; 0 for a small part.

    One band is enough: a stretch to 8 bit may leave a dark band with two or three values.

    Args:
      ours, theirs: [height, width, bands].
      position, rows, columns: of a candidate.
    """
    scores = []
    for band in range(ours.shape[-1]):
        one, other = overlap(ours[..., band], theirs[..., band], position, rows, columns)
        if one.size < _LEAST_OVERLAP * min(ours[..., band].size, theirs[..., band].size):
            return 0.0
        one, other = (part - part.mean() for part in (ranks(one), ranks(other)))
        size = float(np.sqrt((one**2).sum() * (other**2).sum()))
        scores.append(float((one * other).sum()) / size if size > 0 else 0.0)
    return max(scores)


def least_size() -> int:
    """Returns the least height and width of an image with spots, in pixels."""
    return 2 * _REACH + 1
