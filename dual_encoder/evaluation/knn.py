"""Classification by the labels of the nearest neighbours: it needs no training, so it measures the embedding alone."""

import numpy as np

from dual_encoder.evaluation.embedded import unit_vectors

_CHUNK_VALUES = 1 << 24  # similarities in memory at a time: 64 MiB


def knn_probability(vectors: np.ndarray, labels: np.ndarray, queries: np.ndarray, neighbours: int = 20,
                    temperature: float = 0.07) -> np.ndarray:
    """Returns the share of each class among the nearest neighbours by cosine similarity (Wu et al. 2018, section 3.4).

    A neighbour of cosine c has the weight exp(c / temperature).

    Args:
      vectors: float [n, dim], of the labelled images.
      labels: 0 or 1, [n, classes]; one class of an image, or several.
      queries: float [m, dim].
      neighbours: how many count; all of them if there are fewer.
      temperature: of the weights; more than 0.

    Returns:
      float64 [m, classes] in [0, 1].

    Raises:
      UserError: vectors that are not finite.
    """
    vectors, queries = unit_vectors(vectors, "train"), unit_vectors(queries, "test")
    count = min(neighbours, len(vectors))
    rows = max(1, _CHUNK_VALUES // len(vectors))
    found = []
    for start in range(0, len(queries), rows):
        cosine = queries[start:start + rows] @ vectors.T
        nearest = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        similarity = np.take_along_axis(cosine, nearest, axis=1).astype(np.float64)
        weights = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / temperature)
        weights /= weights.sum(axis=1, keepdims=True)
        found.append(np.einsum("qk,qkc->qc", weights, labels[nearest].astype(np.float64)))
    return np.concatenate(found)
