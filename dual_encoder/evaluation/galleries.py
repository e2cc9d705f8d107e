"""Recall in galleries of a stated size, so that figures of splits of different size can be compared.

A gallery holds the partner of the query and `size - 1` candidates. The figures are means over all such galleries, so
they need no draws: the number of drawn candidates that are at least as similar as the partner is hypergeometric.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dual_encoder.evaluation.table import COLUMN, ROW, Column, Row, Table

_SIZES = (100, 1_000, 10_000)
_RECALL_AT = (1, 5, 10)

_COLUMNS = (*(Column(f"recall@{k}", f"recall@{k}", "share", "higher") for k in _RECALL_AT),
            Column("times_chance", "recall@1, x chance", "number", "higher"),
            Column("gallery_size", "gallery size", "count"))


class Ranks(NamedTuple):
    """The rank of each query's partner, int64 [queries] each; 1 is best.

    Attributes:
      all: among the whole gallery.
      other_groups: among the rows of other groups than the query's.
    """

    all: np.ndarray
    other_groups: np.ndarray


def gallery_tables(ranks: Mapping[str, Ranks], groups: np.ndarray | None) -> list[Table]:
    """Returns a table of galleries of all places, and one of galleries of the places of other groups.

    A table is left out if all places are too few for it, or of one group.

    Args:
      ranks: direction, as 's1_to_s2', -> ranks of the queries; the same queries for each direction.
      groups: int [queries]; None if each query is a group of its own.
    """
    count, tables = len(next(iter(ranks.values())).all), []
    if sizes := {str(size): size for size in _SIZES if size < count}:
        better = {direction: rank.all - 1 for direction, rank in ranks.items()}
        tables.append(_table("galleries", "Retrieval in galleries of a stated size", better,
                             np.full(count, count - 1), np.ones(count), sizes, "The partner and other places."))
    if groups is None:
        return tables
    _, number, members = np.unique(groups, return_inverse=True, return_counts=True)
    others = count - members[number]
    largest = int(others.min()) + 1  # the largest gallery that every query has
    if largest > 1:
        better = {direction: rank.other_groups - 1 for direction, rank in ranks.items()}
        sizes = {str(size): size for size in _SIZES if size < largest} | {"largest": largest}
        tables.append(_table("groups", "Retrieval among other groups", better, others, 1.0 / members[number], sizes,
                             "The partner and places of other groups than the query's, so near neighbours of one scene "
                             f"do not compete. Each of the {len(members):,} groups counts the same."))
    return tables


def expected_recall(better: np.ndarray, candidates: np.ndarray, size: int, k: int) -> np.ndarray:
    """Returns the probability that the partner is among the k most similar of a gallery, float64 [queries].

    The gallery is the partner and `size - 1` candidates, drawn without replacement. At most k - 1 of them may be at
    least as similar as the partner.

    Args:
      better: int [queries], candidates that are at least as similar as the partner.
      candidates: int [queries], number of candidates; at least `size - 1`.
      size: of the gallery, at least k.
      k: rank that counts as found.
    """
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, candidates.max() + 1)))])

    def log_choose(n: np.ndarray, taken: int) -> np.ndarray:
        possible = n >= taken
        n = np.where(possible, n, taken)
        return np.where(possible, log_factorial[n] - log_factorial[taken] - log_factorial[n - taken], -np.inf)

    drawn = size - 1
    found = [np.exp(log_choose(better, count) + log_choose(candidates - better, drawn - count)
                    - log_choose(candidates, drawn)) for count in range(k)]
    return np.minimum(np.sum(found, axis=0), 1.0)


def _table(name: str, title: str, better: Mapping[str, np.ndarray], candidates: np.ndarray, weights: np.ndarray,
           sizes: Mapping[str, int], note: str) -> Table:
    """Returns the mean recall of each direction in galleries of each size, with the figures of random embeddings.

    Args:
      name, title: of the table.
      better: direction, as 's1_to_s2', -> int [queries], as for `expected_recall`.
      candidates: int [queries], as for `expected_recall`.
      weights: float [queries], of the mean.
      sizes: name of a size -> the size, at least 2 and at most 1 more than the fewest candidates.
      note: on the candidates.
    """
    rows = [Row(f"{direction}_of_{label}", f"{direction.replace('_to_', ' → ').upper()}, gallery of {size:,}",
                _figures([float(np.average(expected_recall(counts, candidates, size, k), weights=weights))
                          if k <= size else None for k in _RECALL_AT], size))
            for label, size in sizes.items() for direction, counts in better.items()]
    return Table(
        name=name, title=title, row_title="direction", columns=_COLUMNS, rows=tuple(rows), keys=(name, ROW, COLUMN),
        references=tuple(Row(f"chance_{size}", f"by chance, gallery of {size:,}",
                             _figures([k / size if k <= size else None for k in _RECALL_AT], size))
                         for size in dict.fromkeys(sizes.values())),
        note=f"{note} Mean over all galleries of that size; x chance: recall@1 divided by that of a random order.")


def _figures(recall: list[float | None], size: int) -> tuple[float | int | None, ...]:
    first = recall[0]
    return (*recall, None if first is None else first * size, size)
