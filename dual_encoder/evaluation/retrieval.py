"""Cross-modal retrieval of pairs: how well an embedding of one sensor finds its partner among those of the other.

Every query has exactly one right answer, so the figures are recall@k and ranks; none means anything without the size of
the gallery beside it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from dual_encoder.errors import UserError
from dual_encoder.imagery.pictures import grid, image_to_rgb
from dual_encoder.imagery.sensors import SensorSpec

_RECALL_AT = (1, 5, 10)
_TIE = 1e-6  # resolution of a float32 cosine: closer ones are equal, whatever the order of the sums was
_CHUNK_VALUES = 1 << 24  # similarities held at a time: 64 MiB
_TILE = 112  # pixels of a picture in the gallery
_QUERY_FRAME, _RIGHT_FRAME = (70, 70, 70), (20, 170, 60)


def retrieval_scores(query: np.ndarray, gallery: np.ndarray) -> dict[str, float | int | None]:
    """Scores the search of each query's partner by cosine similarity.

    The rank of a partner is 1 + the number of other gallery rows at least as similar: ties count against us, so that
    collapsed embeddings score nothing.

    Args:
      query: [n, dim] float; its length does not matter.
      gallery: [n, dim] float; row i is the partner of query row i.

    Returns:
      'recall@1', 'recall@5', 'recall@10' in [0, 1], None where the gallery is smaller than k; 'median_rank' (1 is
      best); 'mean_reciprocal_rank' in (0, 1]; 'gallery_size'.

    Raises:
      UserError: no rows, other numbers of rows or dimensions, or values that are not finite.
    """
    if query.shape != gallery.shape:
        raise UserError(f"query embeddings have shape {list(query.shape)}, gallery embeddings {list(gallery.shape)}; "
                        "give one gallery row per query")
    ranks = []
    for start, similarity in _similarities(query, gallery):
        rows = np.arange(len(similarity))
        partner = similarity[rows, start + rows]
        ranks.append((similarity >= partner[:, None] - _TIE).sum(axis=1))  # the partner itself is the 1
    rank = np.concatenate(ranks)
    return {
        **{f"recall@{k}": float(np.mean(rank <= k)) if k <= len(gallery) else None for k in _RECALL_AT},
        "median_rank": float(np.median(rank)),
        "mean_reciprocal_rank": float(np.mean(1.0 / rank)),
        "gallery_size": len(gallery),
    }


def top_matches(query: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Returns the `k` most similar gallery rows of each query, best first.

    Args:
      query: [n, dim] float.
      gallery: [m, dim] float.
      k: how many; all when the gallery is smaller.

    Returns:
      row numbers, int64 [n, min(k, m)].

    Raises:
      UserError: as `retrieval_scores`.
    """
    best = [np.argsort(-similarity, axis=1, kind="stable")[:, :k] for _, similarity in _similarities(query, gallery)]
    return np.concatenate(best)


def one_per_location(locations: Sequence[str] | np.ndarray) -> np.ndarray:
    """Returns the number of the first record of each place, int64, ascending.

    Several dates of one place are right answers for each other; with one record per place there is one right answer.
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
    return grid(rows, _TILE)


def _framed(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    border = max(1, len(picture) // 20)
    framed = np.full_like(picture, colour)
    framed[border:-border, border:-border] = picture[border:-border, border:-border]
    return framed


def _similarities(query: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first query row, cosine similarities float32 [rows, m]), a few rows at a time."""
    query, gallery = _unit(query, "query"), _unit(gallery, "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise UserError(f"query embeddings have {query.shape[1]} dimensions, gallery embeddings {gallery.shape[1]}; "
                        "give embeddings of one model")
    rows = max(1, _CHUNK_VALUES // len(gallery))
    for start in range(0, len(query), rows):
        yield start, query[start:start + rows] @ gallery.T


def _unit(embeddings: np.ndarray, name: str) -> np.ndarray:
    if embeddings.ndim != 2 or not len(embeddings):
        raise UserError(f"{name} embeddings have shape {list(embeddings.shape)}; expected [n, dim] with n >= 1")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise UserError(f"{len(bad)} of {len(embeddings)} {name} embeddings are not finite (first: row {bad[0]}); "
                        "evaluate an older checkpoint, or look at that record's pixels")
    embeddings = embeddings.astype(np.float32)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
