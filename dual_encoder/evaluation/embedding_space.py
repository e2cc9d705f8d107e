"""How the embeddings of a split lie on the unit sphere. No labels are needed, so collapse is seen early in training."""

import itertools

import numpy as np

from dual_encoder.evaluation.embedded import EmbeddedSplit, unit_vectors
from dual_encoder.evaluation.table import COLUMN, ROW, Column, Evaluation, Row, Table

_MOST_ROWS = 8192  # pairs of rows are compared; more rows change no digit that matters
_CHUNK = 1024
_SECTION = "Embedding space"


def evaluate_embedding_space(split: EmbeddedSplit) -> Evaluation:
    """Measures rank and uniformity of each view, and alignment and modality gap of each pair of views.

    Args:
      split: with two views or more of each record, which are each other's partners. Of more than 8,192
        records, 8,192 evenly spaced ones count.

    Returns:
      One table of the views, one of their pairs.

    Raises:
      UserError: embeddings that are not finite.
    """
    count = len(split.places)
    rows = np.linspace(0, count - 1, min(count, _MOST_ROWS)).astype(int)
    vectors = {view: unit_vectors(values[rows], view) for view, values in split.vectors.items()}
    dimensions = next(iter(vectors.values())).shape[1]
    views = Table(
        name="embedding_space", title=_SECTION, row_title="view", keys=("space", ROW, COLUMN),
        columns=(Column("rank", "effective rank", "number", "higher"),
                 Column("uniformity", "uniformity", "number", "lower")),
        rows=tuple(Row(view, _title(view), (effective_rank(values), uniformity(values)))
                   for view, values in vectors.items()),
        references=(Row("best", "best possible", (float(min(dimensions, len(rows))), None)),
                    Row("collapse", "all vectors equal", (1.0, 0.0))),
        note="Effective rank: RankMe (Garrido et al. 2023, eq. 1), the number of dimensions in use. Uniformity (Wang "
             "and Isola 2020, eq. 2, t = 2): log of the mean of exp(-2 d²) over all distances d; the lower, the more "
             f"evenly the vectors spread. {len(rows):,} records.")
    pairs = Table(
        name="embedding_pairs", title=_SECTION, row_title="views", keys=("space", ROW, COLUMN),
        columns=(Column("alignment", "alignment", "number", "lower"),
                 Column("modality_gap", "modality gap", "number")),
        rows=tuple(Row(f"{one}_and_{other}", f"{_title(one)} and {_title(other)}",
                       (alignment(vectors[one], vectors[other]), modality_gap(vectors[one], vectors[other])))
                   for one, other in itertools.combinations(vectors, 2)),
        note="Alignment (Wang and Isola 2020, eq. 1, alpha = 2): mean squared distance of partners, 0 to 4. Modality "
             "gap (Liang et al. 2022): distance of the mean vectors of both views.")
    return Evaluation((views, pairs))


def _title(view: str) -> str:
    return view.upper().replace("_", " ")


def effective_rank(vectors: np.ndarray) -> float:
    """Returns RankMe: exp of the entropy of the singular values, divided by their sum (Garrido et al. 2023, eq. 1).

    Args:
      vectors: float [n, dim].

    Returns:
      a value between 1 and min(n, dim).
    """
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    share = values / values.sum() + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))


def uniformity(vectors: np.ndarray) -> float | None:
    """Returns the log of the mean of exp(-2 d^2) over the distances d of distinct rows (Wang and Isola 2020, eq. 2).

    Args:
      vectors: [n, dim], unit vectors.

    Returns:
      0 if all are equal, about -4 if they spread evenly over many dimensions; None for a single row.
    """
    if len(vectors) < 2:
        return None
    vectors, total, count = vectors.astype(np.float64), 0.0, len(vectors)
    for start in range(0, count, _CHUNK):
        cosine = vectors[start:start + _CHUNK] @ vectors.T
        total += np.exp(4 * cosine - 4).sum()  # d^2 = 2 - 2 cosine
    return float(np.log((total - np.exp(4 * (vectors**2).sum(axis=1) - 4).sum()) / (count * (count - 1))))


def alignment(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the mean squared distance of partners, unit vectors [n, dim] (Wang and Isola 2020, eq. 1, alpha = 2)."""
    return float(((one.astype(np.float64) - other) ** 2).sum(axis=1).mean())


def modality_gap(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the distance of the mean vectors of two views, unit vectors [n, dim] (Liang et al. 2022, section 4)."""
    return float(np.linalg.norm(one.mean(axis=0, dtype=np.float64) - other.mean(axis=0, dtype=np.float64)))
