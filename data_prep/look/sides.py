"""Neighbours cut edge to edge from one scene: images without coordinates whose sides continue one another.

The last row of one image and the first row of the other are a pixel apart, so small steps along them (a field's edge, a
road) stand at the same places. The signed square roots of the differences from pixel to pixel are correlated. The
levels themselves are of no use: two dark shores correlate, too. Roots keep one strong step, such as the edge of a cloud
or of the data, from deciding alone.

Two stages: steps between segments of a side, some 90 numbers, are compared for all sides at once, as a product of
matrices; the full profiles are compared for the candidates. Beyond 16,384 images, sides are sorted into cells around
some of them, and only the nearest fifth of the cells is searched: 97 % of the pairs are found in the worst case, noise.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

BANDS = 3  # bands that are looked at
SAME = 0.4  # least correlation of two sides that continue one another
PARTNERS = ((0, 1), (1, 0), (2, 3), (3, 2))  # side of the one, side of the other: top, bottom, left, right
_LIKELY = 0.65  # least correlation of the segments of such sides
_SEGMENTS = 32  # of a side, at least
_LAGS = 8  # pixels over which the steps of a side depend on one another
_FILLED = 0.25  # least share of the steps of a side that are steps between different values
_EXACT = 16384  # up to so many images, all sides are compared
_NEAR = 200  # of 1000 cells are searched
_ROWS = 8192  # sides that are compared at a time


def profiles(image: np.ndarray, holds_data: np.ndarray) -> np.ndarray:
    """Returns the steps along the four sides, float32 [4, bands, length - 1]: signed roots, 0 next to missing data.

    Args:
      image: [size, size, bands].
      holds_data: bool [size, size].
    """
    sides, there = _sides(image).astype(np.float32), _sides(holds_data)
    steps = np.diff(sides, axis=1) * (there[:, 1:] & there[:, :-1])[..., None]
    return _roots(steps).transpose(0, 2, 1)


def segments(image: np.ndarray, holds_data: np.ndarray) -> np.ndarray:
    """Returns the steps between the segments of the four sides, float16 [4, numbers], of length 1 or 0.

    Args:
      image: [size, size, bands].
      holds_data: bool [size, size].
    """
    sides, there = _sides(image).astype(np.float32), _sides(holds_data)
    width = max(1, sides.shape[1] // _SEGMENTS)
    count = sides.shape[1] // width
    whole: Any = there[:, :count * width].reshape(4, count, width).all(axis=2)
    means = sides[:, :count * width].reshape(4, count, width, -1).mean(axis=2)
    steps = _roots(np.diff(means, axis=1) * (whole[:, 1:] & whole[:, :-1])[..., None]).transpose(0, 2, 1)
    return (_normal(steps) / np.sqrt(steps.shape[1])).reshape(4, -1).astype(np.float16)


def correlation(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Returns the correlation of two sides and how many standard deviations of chance it is; (0, 0) if they are plain.

    Steps that follow one another are not independent, nor are bands, so the deviation of chance is that of two
    independent series with these correlations (Bartlett 1946, with several bands): its square is the sum, over lags
    and pairs of bands, of the products of the correlations of ours and of theirs, over the number of steps.

    Args:
      ours, theirs: [bands, steps], sides of `profiles`; the mean over the bands counts.
    """
    use = np.mean((ours != 0) & (theirs != 0), axis=1) >= _FILLED
    if not use.any():
        return 0.0, 0.0
    ours, theirs = _normal(ours[use]), _normal(theirs[use])
    score = float((ours * theirs).sum(axis=1).mean())
    bands, steps = ours.shape
    square = 0.0
    for lag in range(min(_LAGS, steps - 1) + 1):
        both = [side[:, lag:] @ side[:, :steps - lag].T for side in (ours, theirs)]
        square += (2 if lag else 1) * float((both[0] * both[1]).sum())
    return score, score / np.sqrt(max(square, 1) / steps) * bands


def continues(ours: np.ndarray, theirs: np.ndarray, compared: int) -> float:
    """Returns the correlation of two sides that continue one another; 0 if they do not, or if it may be chance.

    Args:
      ours, theirs: as of `correlation`.
      compared: pairs of images that are compared in all; chance gives less than one false pair among them.
    """
    score, deviations = correlation(ours, theirs)
    return score if score >= SAME and deviations >= np.sqrt(2 * np.log(len(PARTNERS) * max(compared, 1))) else 0.0


class Index:
    """The sides of a data set, to find those of other images that continue them.

    Args:
      edges: float16 [images, 4, numbers], as of `segments`.
    """

    def __init__(self, edges: np.ndarray):
        self._cells = [_Cells(edges[:, side]) for side, _ in PARTNERS]

    def candidates(self, edges: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the pairs that may continue one another, int64 [pairs, 3]: image here, image there, row of `PARTNERS`.

        Args:
          edges: float16 [others, 4, numbers], as of `segments`.
        """
        for partners, (_, side) in enumerate(PARTNERS):
            for start in range(0, len(edges), _ROWS):
                part = edges[start:start + _ROWS, side].astype(np.float32)
                for our, their in self._cells[partners].search(part):
                    yield np.stack([our, their + start, np.full(len(our), partners)], axis=1)


class _Cells:
    """Sides in cells: each lies in that of the side, among some chosen ones, with which it correlates most."""

    def __init__(self, sides: np.ndarray):
        count = 1 if len(sides) <= _EXACT else int(np.sqrt(len(sides)))
        self._centres = sides[np.linspace(0, max(len(sides) - 1, 0), count).astype(int)].astype(np.float32)
        cell = np.zeros(len(sides), np.int32)
        if count > 1:
            for start in range(0, len(sides), _ROWS):
                part = sides[start:start + _ROWS].astype(np.float32)
                cell[start:start + _ROWS] = (part @ self._centres.T).argmax(axis=1)
        self._order = np.argsort(cell, kind="stable")
        self._bounds = np.searchsorted(cell[self._order], np.arange(count + 1))
        self._sides = sides[self._order]  # float16

    def search(self, theirs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields numbers of ours and rows of theirs that correlate; theirs: float32 [rows, numbers]."""
        count = len(self._centres)
        near = max(1, count * _NEAR // 1000)
        chosen = (np.argpartition(-(theirs @ self._centres.T), near - 1, axis=1)[:, :near] if count > 1
                  else np.zeros((len(theirs), 1), int))
        rows = np.argsort(chosen.ravel(), kind="stable")
        bounds = np.searchsorted(chosen.ravel()[rows], np.arange(count + 1))
        for cell in range(count):
            here = rows[bounds[cell]:bounds[cell + 1]] // near
            for start in range(self._bounds[cell], self._bounds[cell + 1], _ROWS):
                stop = min(start + _ROWS, self._bounds[cell + 1])
                if len(here):
                    scores = self._sides[start:stop].astype(np.float32) @ theirs[here].T
                    our, their = np.nonzero(scores > _LIKELY)
                    if len(our):
                        yield self._order[start:stop][our], here[their]


def _sides(image: np.ndarray) -> np.ndarray:
    """Returns top, bottom, left and right of an image [size, size, ...] as [4, size, ...]."""
    return np.stack([image[0], image[-1], image[:, 0], image[:, -1]])


def _roots(steps: np.ndarray) -> np.ndarray:
    return np.sign(steps) * np.sqrt(np.abs(steps))


def _normal(values: np.ndarray) -> np.ndarray:
    """Returns values of mean 0 and length 1 along the last axis; 0 if they are all equal."""
    values = values - values.mean(axis=-1, keepdims=True)
    length = np.sqrt((values**2).sum(axis=-1, keepdims=True))
    return values / np.where(length > 0, length, 1)
