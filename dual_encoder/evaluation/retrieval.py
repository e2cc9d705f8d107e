"""Cross-modal retrieval: how well the embedding of one sensor finds its partner among those of the other.

Every query has exactly one right answer, so the figures are recall@k and ranks. They mean nothing without the size of
the gallery beside them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

from dual_encoder.errors import UserError
from dual_encoder.evaluation.embedded import EmbeddedSplit, unit_vectors
from dual_encoder.evaluation.galleries import Ranks, gallery_tables
from dual_encoder.evaluation.table import COLUMN, ROW, Column, Evaluation, Headline, Picture, Row, Table, Value
from dual_encoder.imagery.pictures import NO_DATA, grid, image_to_rgb
from dual_encoder.imagery.sensors import SensorSpec

_RECALL_AT = (1, 5, 10)
_TIE = 1e-6  # resolution of a float32 cosine: closer values are equal, whatever the order of the sums was
_CHUNK_VALUES = 1 << 24  # similarities in memory at a time: 64 MiB
_TILE = 112  # pixels of a picture in the gallery
_QUERY_FRAME, _RIGHT_FRAME = (70, 70, 70), (20, 170, 60)
_GALLERY_ROWS, _GALLERY_MATCHES = 8, 5

_COLUMNS = (*(Column(f"recall@{k}", f"recall@{k}", "share", "higher") for k in _RECALL_AT),
            Column("median_rank", "median rank", "rank", "lower"),
            Column("mean_reciprocal_rank", "mean reciprocal rank", "share", "higher"),
            Column("gallery_size", "gallery size", "count"))
_CAPTION = ("Each row: the query (grey frame), then the most similar images, best first: of the other sensor, or, if "
            "there is one encoder, of its own, turned upside down. Green frame: the right answer. Radar: VV, VH, VV−VH "
            "as red, green, blue (one band: grey), with one stretch for all. Hatched: no data.")


def evaluate_retrieval(split: EmbeddedSplit) -> Evaluation:
    """Retrieves the partner of each place's first record by cosine similarity, in both directions of any two views.

    Args:
      split: with two or more views of each record, which are each other's partners.

    Returns:
      One table with a row per direction, and a gallery of examples per direction. Tables of galleries of stated sizes:
      of all places, if there are more than 100; and of the places of other groups, if the split has groups.

    Raises:
      UserError: as `retrieval_scores`.
    """
    kept = one_per_location(split.places)
    vectors = {view: rows[kept] for view, rows in split.vectors.items()}
    groups = None if split.groups is None else split.groups[kept]
    scores, images, ranks = {}, {}, {}
    directions = (pair[::turn] for pair in itertools.combinations(vectors, 2) for turn in (1, -1))
    for query, gallery in directions:
        direction = f"{query}_to_{gallery}"
        ranks[direction] = partner_ranks(vectors[query], vectors[gallery], groups)
        scores[direction] = rank_scores(ranks[direction].all)
        shown = np.linspace(0, len(kept) - 1, min(_GALLERY_ROWS, len(kept))).astype(int)
        matches = top_matches(vectors[query][shown], vectors[gallery], _GALLERY_MATCHES)
        images[f"retrieval_{direction}"] = retrieval_gallery(
            [split.image(query, int(kept[i])) for i in shown], split.sensors[query],
            [[split.image(gallery, int(kept[j])) for j in row] for row in matches], split.sensors[gallery],
            [[int(j) == int(i) for j in row] for i, row in zip(shown, matches, strict=True)])
    return Evaluation((retrieval_table(scores), *gallery_tables(ranks, groups)), images)


def retrieval_table(scores: Mapping[str, Mapping[str, Value]]) -> Table:
    """Returns the scores as a table, with the figures of random embeddings as rows to compare with.

    Args:
      scores: direction, as 's1_to_s2', -> what `retrieval_scores` returns. A figure that is absent becomes None.
    """
    rows = tuple(Row(direction, _arrow(direction), tuple(figures.get(column.name) for column in _COLUMNS))
                 for direction, figures in scores.items())
    sizes = dict.fromkeys(figures["gallery_size"] for figures in scores.values())
    return Table(
        name="retrieval", title="Retrieval", row_title="direction", columns=_COLUMNS, rows=rows, keys=(ROW, COLUMN),
        references=tuple(_by_chance(size) for size in sizes if isinstance(size, int) and size > 0),
        headlines=tuple(Headline(row.name, "recall@1", f"recall@1 {row.title}, gallery of "
                                 f"{scores[row.name]['gallery_size']:,}") for row in rows),
        note="One record per place; each query has one right answer in the gallery. Figures of galleries of different "
             "size cannot be compared.",
        pictures=tuple(Picture(f"retrieval_{row.name}", row.title, _CAPTION) for row in rows))


def _by_chance(size: int) -> Row:
    """Returns the expected figures if the gallery is in random order: the rank is uniform on 1 to `size`."""
    recall = (k / size if k <= size else None for k in _RECALL_AT)
    return Row(f"chance_{size}", "by chance",
               (*recall, (size + 1) / 2, sum(1 / rank for rank in range(1, size + 1)) / size, size))


def _arrow(direction: str) -> str:
    """Returns 's1_to_s2' as 'S1 → S2'."""
    return direction.replace("_to_", " → ").upper()


def retrieval_scores(query: np.ndarray, gallery: np.ndarray) -> dict[str, Value]:
    """Scores the search of each query's partner by cosine similarity.

    The rank of a partner is 1 + the number of other gallery rows at least as similar: ties count against us, so that
    collapsed embeddings score nothing.

    Args:
      query: [n, dim] float; its length does not matter.
      gallery: [n, dim] float; row i is the partner of query row i.

    Returns:
      'recall@1', 'recall@5', 'recall@10' in [0, 1], None if the gallery is smaller than k; 'median_rank' (1 is
      best); 'mean_reciprocal_rank' in (0, 1]; 'gallery_size'.

    Raises:
      UserError: no rows, other numbers of rows or dimensions, or values that are not finite.
    """
    return rank_scores(partner_ranks(query, gallery).all)


def rank_scores(rank: np.ndarray) -> dict[str, Value]:
    """Returns the figures of `retrieval_scores` from the rank of each query's partner, int [n]."""
    return {
        **{f"recall@{k}": float(np.mean(rank <= k)) if k <= len(rank) else None for k in _RECALL_AT},
        "median_rank": float(np.median(rank)),
        "mean_reciprocal_rank": float(np.mean(1.0 / rank)),
        "gallery_size": len(rank),
    }


def partner_ranks(query: np.ndarray, gallery: np.ndarray, groups: np.ndarray | None = None) -> Ranks:
    """Returns the rank of each query's partner; see `retrieval_scores`.

    Args:
      query, gallery: as for `retrieval_scores`.
      groups: int [n], the group of each row; None: each row is a group of its own.

    Raises:
      UserError: as `retrieval_scores`.
    """
    if query.shape != gallery.shape:
        raise UserError(f"query embeddings have shape {list(query.shape)}, gallery embeddings {list(gallery.shape)}; "
                        "give one gallery row per query")
    ranks, other_groups = [], []
    for start, similarity in _similarities(query, gallery):
        rows = np.arange(len(similarity))
        partner = similarity[rows, start + rows]
        better = similarity >= partner[:, None] - _TIE  # includes the partner itself
        ranks.append(better.sum(axis=1))
        if groups is not None:
            better &= groups[start:start + len(rows), None] != groups
            other_groups.append(1 + better.sum(axis=1))
    rank = np.concatenate(ranks)
    return Ranks(rank, rank if groups is None else np.concatenate(other_groups))


def top_matches(query: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Returns the `k` most similar gallery rows of each query, best first.

    Args:
      query: [n, dim] float.
      gallery: [m, dim] float.
      k: number of matches; all rows if the gallery is smaller.

    Returns:
      row numbers, int64 [n, min(k, m)].

    Raises:
      UserError: as `retrieval_scores`.
    """
    best = [np.argsort(-similarity, axis=1, kind="stable")[:, :k] for _, similarity in _similarities(query, gallery)]
    return np.concatenate(best)


def one_per_location(locations: Sequence[str] | np.ndarray) -> np.ndarray:
    """Returns the row of the first record of each place, int64 [places], ascending.

    Several dates of one place are right answers for each other. With one record per place there is one right answer.

    Args:
      locations: [n], equal for records of one place.
    """
    return np.sort(np.unique(np.asarray(locations), return_index=True)[1])


def retrieval_gallery(queries: Sequence[np.ndarray], query_spec: SensorSpec, matches: Sequence[Sequence[np.ndarray]],
                      match_spec: SensorSpec, right: Sequence[Sequence[bool]]) -> Image.Image:
    """Draws each query (grey frame) and its best matches, best first; the right answer has a green frame.

    Args:
      queries: stored images [height, width, bands] of `query_spec`.
      matches: per query, stored images of `match_spec`.
      right: per query and match, whether the match is the query's partner.
    """
    rows = []
    for query, images, hits in zip(queries, matches, right, strict=True):
        pictures = [image_to_rgb(image, match_spec) for image in images]
        rows.append([_framed(image_to_rgb(query, query_spec), _QUERY_FRAME)] + [
            _framed(picture, _RIGHT_FRAME) if hit else picture for picture, hit in zip(pictures, hits, strict=True)])
    legend = {"query": _QUERY_FRAME, "its partner": _RIGHT_FRAME, NO_DATA: None}
    return grid(rows, _TILE, ("query", *(f"match {number}" for number in range(1, max(map(len, rows))))), legend=legend)


def _framed(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    border = max(1, len(picture) // 20)
    framed = np.full_like(picture, colour)
    framed[border:-border, border:-border] = picture[border:-border, border:-border]
    return framed


def _similarities(query: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first query row, cosine similarities float32 [rows, m]), a few rows at a time."""
    query, gallery = unit_vectors(query, "query"), unit_vectors(gallery, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise UserError(f"query embeddings have {query.shape[1]} dimensions, gallery embeddings {gallery.shape[1]}; "
                        "give embeddings of one model")
    rows = max(1, _CHUNK_VALUES // len(gallery))
    for start in range(0, len(query), rows):
        yield start, query[start:start + rows] @ gallery.T
