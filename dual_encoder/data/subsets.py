"""Parts of a split by place: a fraction of the places to learn from, or folds that hold whole places out.

Images of one place look alike, so a place is in a part with all its images or with none. Parts are a function of the
seed and of the data set: the order of the records changes nothing. A smaller fraction is within each larger one. Folds
are the same for every seed, so a pre-training run and all runs that start from it hold the same places out.
"""

import collections
import csv
import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np

from dual_encoder.config import AtLeast, Before, IsPath, require
from dual_encoder.errors import UserError

# The whole split, as a configuration.
WHOLE = {"fraction": 1.0, "folds": 0, "fold": 0, "groups": "place", "validate": False, "seed": 0}
GROUPS = PLACE, _EVENT = "place", "event"  # the words for `groups`
_VALIDATION = 5  # one group of this many is held out for choices


@dataclasses.dataclass(frozen=True)
class SubsetConfig:
    """Which places are learnt from, and which are held out.

    Attributes:
      fraction: share of the places to learn from, more than 0 and at most 1. Each class keeps its share of the places
        as far as that is possible.
      folds: number of folds that `split` is divided into; 0 = none: eval_split is what is evaluated.
      fold: the fold to evaluate on, 0 to folds - 1; the others are learnt from.
      groups: what a fold holds out as a whole: 'place'; 'event', the text of a location_id before its first '_'; or a
        CSV file with the columns location_id and group. Retrieval among other groups uses them, too, also without
        folds.
      validate: evaluate on a fifth of the groups of the places to learn from, which are then not learnt from. The fold
        is left out. For choosing settings without a look at what is scored in the end.
      seed: of the draw of a fraction.
    """

    fraction: float
    folds: Annotated[int, AtLeast(0)]
    fold: Annotated[int, AtLeast(0)]
    groups: Annotated[str, IsPath(GROUPS)]
    validate: Annotated[bool, Before(False)]
    seed: Annotated[int, AtLeast(0)]

    def check(self, path: str) -> None:
        """Raises UserError for a fraction or a fold that does not exist."""
        require(0 < self.fraction <= 1, f"{path}.fraction", self.fraction, "a share in (0, 1]")
        require(self.folds != 1, f"{path}.folds", 1, "0, or at least 2")
        require(self.fold < max(self.folds, 1), f"{path}.fold", self.fold, f"0 to {max(self.folds, 1) - 1}")


def fraction_rows(places: Sequence[str], classes: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Chooses the rows of a fraction of the places.

    The places of each class are spread evenly over one order; a fraction is the beginning of that order. A place counts
    for the rarest class that it holds.

    Args:
      places: location_id of each row.
      classes: bool [rows, classes], classes that the row holds; [rows, 0] without labels.
      fraction: in (0, 1].
      seed: of the order.

    Returns:
      int64 row numbers, ascending; of one place at least.

    Raises:
      UserError: a class of the whole set has no place in the fraction.
    """
    names, number = np.unique(np.asarray(places), return_inverse=True)
    held = np.zeros((len(names), classes.shape[1]), bool)
    np.logical_or.at(held, number, classes)
    count = max(1, round(fraction * len(names)))
    chosen = _spread(names.tolist(), held, seed)[:count]
    lost = np.flatnonzero(held.any(axis=0) & ~held[chosen].any(axis=0))
    if len(lost):
        raise UserError(f"a fraction of {fraction:g} is {count} of {len(names)} places; none of them holds class "
                        f"{lost[0]}, which {int(held[:, lost[0]].sum())} places hold; take a larger fraction or "
                        "another seed")
    return np.flatnonzero(np.isin(number, chosen))


def fold_rows(places: Sequence[str], groups: Sequence[str], folds: int, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Divides rows into those to learn from and those of a fold; all rows of a group are on one side.

    Groups go to the smallest fold so far, the group with the most places first, so that folds differ little in size.
    Images per place change nothing.

    Args:
      places: location_id of each row.
      groups: the group of each row; all rows of a place have one.
      folds: number of folds.
      fold: the one to hold out.

    Returns:
      (rows to learn from, rows of the fold), int64, ascending.

    Raises:
      UserError: fewer groups than folds.
    """
    group_of = dict(zip(places, groups, strict=True))
    sizes = collections.Counter(group_of.values())
    if len(sizes) < folds:
        raise UserError(f"{folds} folds of {len(sizes)} groups ('{min(sizes)}', ...); use at most {len(sizes)} folds, "
                        "or smaller groups, such as groups=place")
    totals, of_group = [0] * folds, {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], _hash(0, name))):
        of_group[name] = totals.index(min(totals))
        totals[of_group[name]] += sizes[name]
    held = np.array([of_group[group] == fold for group in groups], bool)
    return np.flatnonzero(~held), np.flatnonzero(held)


def validation_rows(places: Sequence[str], groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Divides rows into those to learn from and those to choose on: about a fifth of the groups; as `fold_rows`.

    Raises:
      UserError: there is only one group.
    """
    count = len(set(groups))
    if count < 2:
        raise UserError(f"{count} group to learn from ('{groups[0]}'), and none is left to choose settings on; use "
                        "more folds, or smaller groups, such as groups=place")
    return fold_rows(places, groups, min(_VALIDATION, count), 0)


def groups_of(places: Sequence[str], groups: str) -> list[str]:
    """Returns the group of each location_id; `groups` as in `SubsetConfig`.

    Raises:
      UserError: the file is missing or lacks a column or a place.
    """
    if groups == PLACE:
        return list(places)
    if groups == _EVENT:
        return [place.split("_")[0] for place in places]
    table = _read_groups(pathlib.Path(groups))
    missing = sorted(set(places) - set(table))
    if missing:
        raise UserError(f"'{groups}' has no group of {len(missing)} of {len(set(places))} places, first '{missing[0]}'"
                        "; add a row for each location_id")
    return [table[place] for place in places]


def _read_groups(path: pathlib.Path) -> Mapping[str, str]:
    if not path.is_file():
        raise UserError(f"groups is '{path}'; expected place, event, or a CSV file with the columns location_id and "
                        "group")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' cannot be read as CSV ({error}); save it as UTF-8") from error
    if not rows or not {"location_id", "group"} <= set(rows[0]):
        raise UserError(f"'{path}' has the columns {list(rows[0]) if rows else []}; expected location_id and group")
    return {row["location_id"]: row["group"] for row in rows}


def _spread(names: Sequence[str], held: np.ndarray, seed: int) -> np.ndarray:
    """Returns the numbers of the places in an order in which each class is spread evenly."""
    draw = [_hash(seed, name) for name in names]
    support = held.sum(axis=0)
    # A place without a class is a class of its own, and the most frequent one.
    rarest = [min(np.flatnonzero(row), key=lambda c: (support[c], c), default=-1) for row in held]
    position = np.zeros(len(names))
    for of in set(rarest):
        members = sorted((at for at in range(len(names)) if rarest[at] == of), key=lambda at: draw[at])
        for rank, at in enumerate(members):
            position[at] = (rank + 0.5) / len(members)
    return np.array(sorted(range(len(names)), key=lambda at: (position[at], draw[at])), np.int64)


def _hash(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")
