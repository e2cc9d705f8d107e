"""Vectors as points of a plane, for the page: principal components, or UMAP."""

import contextlib
import sys
import warnings
from collections.abc import Iterator

import numpy as np

from dual_encoder.errors import UserError

METHODS = ("pca", "umap")
_NEIGHBOURS = 15  # of UMAP, its default


def project(vectors: np.ndarray, method: str) -> tuple[np.ndarray, str]:
    """Returns a point for each vector, and a sentence for people about the plane.

    Args:
      vectors: float32 [n, dim] of unit length, dim >= 2.
      method: 'pca', the first two principal components; or 'umap' (McInnes, Healy and Melville 2018), by the cosine and
        with a fixed seed.

    Returns:
      (float64 [n, 2] in -1..1, text).

    Raises:
      UserError: umap-learn is not installed, or there are too few vectors for it.
    """
    if method == "pca":
        plane, share = _principal(vectors)
        return plane, (f"First two principal components of the unit vectors: {round(100 * share)} % of the variance. "
                       "Distances here are not those of all dimensions.")
    plane = _umap(vectors)
    return plane, ("UMAP of the unit vectors, by their cosine. Near points are alike; distances between groups and "
                   "their sizes mean little.")


def _principal(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    values, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    total = values.sum()
    return _fit(centred @ axes[:, :-3:-1]), float(values[-2:].sum() / total) if total > 0 else 0.0


def _umap(vectors: np.ndarray) -> np.ndarray:
    if len(vectors) < 4:
        raise UserError(f"--projection=umap needs 4 vectors or more, there are {len(vectors)}; use --projection=pca")
    try:
        with warnings.catch_warnings(), _hidden("tensorflow"):
            warnings.simplefilter("ignore")  # of numba, about its own future
            import umap
    except ImportError as error:
        raise UserError("--projection=umap needs umap-learn, which is not installed; pip install umap-learn, or use "
                        "--projection=pca") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few vectors, one thread
        model = umap.UMAP(n_neighbors=min(_NEIGHBOURS, len(vectors) - 1), metric="cosine", random_state=0, n_jobs=1,
                          init="spectral" if len(vectors) > 20 else "random")
        plane = model.fit_transform(vectors)
    return _fit(plane.astype(np.float64))


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Makes a package seem missing: umap would import TensorFlow, which takes long and crashes beside PyTorch."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # `import` then raises ImportError
    try:
        yield
    finally:
        del sys.modules[package]


def _fit(plane: np.ndarray) -> np.ndarray:
    """Returns points around the origin, the farthest coordinate at 1 or -1."""
    plane = plane - plane.mean(axis=0)
    return plane / max(np.abs(plane).max(), 1e-12)
