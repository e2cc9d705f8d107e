"""The pairs of records of two data sets that overlap: footprints, near-duplicate images, neighbours of one scene."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.look import footprints, sides, spots
from data_prep.look.rows import firsts
from data_prep.look.views import Images, Looks, View
from dual_encoder.console import Progress

FOOTPRINT, DUPLICATE, NEIGHBOUR = KINDS = ("footprint", "duplicate", "neighbour")
TOUCH = -15.0  # metres between two footprints that still touch
_BLOCK = 2048  # records whose spots are looked up at a time


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of records that overlap in one way.

    Attributes:
      kind: one of `KINDS`.
      rows: int64 [pairs, 2]: rows of the two looks.
      scores: float64 [pairs]: metres between the centres of footprints; else a correlation, 0..1.
    """

    kind: str
    rows: np.ndarray
    scores: np.ndarray


def match(ours: Looks, theirs: Looks, views: Sequence[View], within: bool) -> list[Pairs]:
    """Returns all pairs of each kind, with progress.

    Args:
      ours, theirs: the data sets; the same one twice if `within`.
      views: what both have.
      within: compare the splits of one data set. Each pair is then there once, and only neighbours may be of one split.
    """
    found = [*_by_place(ours, theirs, within), _duplicates(ours, theirs, views[0], within)]
    touching, continued = found.pop(1), _neighbours(ours, theirs, views, within)
    found.append(Pairs(NEIGHBOUR, *(np.concatenate(both) for both in (
        (touching.rows, continued.rows), (touching.scores, continued.scores)))))
    return found


def _by_place(ours: Looks, theirs: Looks, within: bool) -> list[Pairs]:
    """Returns the footprints that intersect, and those that only touch."""
    parts = [np.zeros((0, 2), np.int64)]
    for part in footprints.Index(ours.points, ours.metres, theirs.metres, TOUCH).pairs(theirs.points):
        parts.append(_between_splits(part, ours, theirs, within))
    rows = np.concatenate(parts)
    apart = footprints.metres_apart(ours.points[rows[:, 0]], theirs.points[rows[:, 1]])
    common = (apart < (ours.metres + theirs.metres) / 2 - footprints.MARGIN).all(axis=1)
    away = np.hypot(apart[:, 0], apart[:, 1])
    return [Pairs(FOOTPRINT, rows[common], away[common]), Pairs(NEIGHBOUR, rows[~common], away[~common])]


def _duplicates(ours: Looks, theirs: Looks, view: View, within: bool) -> Pairs:
    index = spots.Index(ours.codes, ours.motions, ours.size)
    parts = [np.zeros((0, 5), np.int64)]
    for start in range(0, len(theirs), _BLOCK):
        block = slice(start, start + _BLOCK)
        found = index.candidates(theirs.codes[block], theirs.motions[block], theirs.size)
        found[:, 0] += start
        found[:, [0, 1]] = found[:, [1, 0]]
        parts.append(_between_splits(found, ours, theirs, within))
    rows = np.concatenate(parts)

    def scores() -> Iterator[float]:
        our_images, their_images = Images(ours), Images(theirs)
        for our, their, position, down, right in rows.tolist():
            one, other = our_images.bands(our, view)[0], their_images.bands(their, view)[0]
            yield spots.similarity(one[..., :spots.BANDS], other[..., :spots.BANDS], position, down, right)

    return _kept(DUPLICATE, rows, scores(), spots.SAME, "candidates for duplicates")


def _neighbours(ours: Looks, theirs: Looks, views: Sequence[View], within: bool) -> Pairs:
    """Returns the images whose sides continue one another; pairs whose places are both known are left out."""
    parts = [np.zeros((0, 4), np.int64)]
    if ours.size == theirs.size:
        for number, (our_edges, their_edges) in enumerate(zip(ours.edges, theirs.edges, strict=True)):
            for part in sides.Index(our_edges).candidates(their_edges):
                unplaced = ~(ours.placed[part[:, 0]] & theirs.placed[part[:, 1]])
                part = part[unplaced & ((part[:, 0] < part[:, 1]) | (not within))]
                parts.append(np.concatenate([part, np.full((len(part), 1), number)], axis=1))
    rows = np.concatenate(parts)
    rows = rows[np.lexsort((rows[:, 0], rows[:, 1]))]

    def scores() -> Iterator[float]:
        our_images, their_images = Images(ours), Images(theirs)
        for our, their, partners, number in rows.tolist():
            side, partner = sides.PARTNERS[partners]
            yield sides.continues(sides.profiles(*our_images.bands(our, views[number]))[side],
                                  sides.profiles(*their_images.bands(their, views[number]))[partner],
                                  len(ours) * len(theirs))

    return _kept(NEIGHBOUR, rows, scores(), sides.SAME, "candidates for neighbours")


def _kept(kind: str, rows: np.ndarray, scores: Iterator[float], least: float, what: str) -> Pairs:
    """Returns the pairs whose score is at least `least`, each once with its best score; shows progress."""
    values = np.zeros(len(rows))
    done = [0]
    if len(rows):
        with Progress(what, len(rows), lambda: (done[0], 0, "")):
            for at, score in enumerate(scores):
                values[at], done[0] = score, at + 1
    order = np.lexsort((-values, rows[:, 1], rows[:, 0]))
    rows, values = rows[order, :2], values[order]
    keep = firsts(rows) & (values >= least)
    return Pairs(kind, rows[keep], values[keep])


def _between_splits(rows: np.ndarray, ours: Looks, theirs: Looks, within: bool) -> np.ndarray:
    """Returns the pairs of two splits, each once, if `within`; all pairs otherwise."""
    if not within:
        return rows
    other = ours.split[rows[:, 0]] != theirs.split[rows[:, 1]]
    return rows[other & (rows[:, 0] < rows[:, 1])]


def unseen(ours: Looks, theirs: Looks) -> list[str]:
    """Returns what the comparison cannot see, as lines."""
    lines = []
    for looks in (ours, theirs) if ours is not theirs else (ours,):
        if gone := int((~looks.placed).sum()):
            lines.append(f"{gone} of {len(looks)} records of {looks.name} have no place: their footprints are unknown")
        if plain := int(((looks.codes != 0).sum(axis=1) < spots.LEAST).sum()):
            lines.append(f"{plain} of {len(looks)} records of {looks.name} have no texture (or fewer than "
                         f"{spots.least_size()} pixels a side): near-duplicates of them cannot be found")
    if ours.edges and ours.size != theirs.size:
        lines.append(f"images of {ours.size} and {theirs.size} pixels: neighbours without a place cannot be found")
    return lines
