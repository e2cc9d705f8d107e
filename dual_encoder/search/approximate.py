"""An inverted file of FAISS over the vectors of a sensor: many millions are searched without reading them all.

The vectors are grouped around centres, and a search reads the groups whose centres are nearest to the query (Jégou,
Douze and Schmid 2011, section IV; Douze et al. 2024). It may miss some of the nearest; how many is measured and said
when the file is made.
"""

import pathlib
from types import ModuleType
from typing import Any

import numpy as np

from dual_encoder.console import say
from dual_encoder.errors import UserError
from dual_encoder.search.nearest import nearest
from dual_encoder.storage import atomic

_GROUPS_PER_ROOT = 4  # groups are 4 sqrt(n), as FAISS advises up to a million; more vectors give larger groups
_MOST_GROUPS = 65536
_LEARNT_FROM = 64  # vectors per group that the centres are computed from
_PROBED = 1 / 32  # share of the groups that a search reads
_BLOCK = 65536  # rows that are added at a time
_ASKED, _TOP = 50, 10  # queries of the measurement, and their answers


class Approximate:
    """The inverted file of one matrix; made at the first use, beside the matrix, and read as a memory map after that.

    Args:
      path: of the matrix, SENSOR.npy.
      matrix: float32 [n, dim] of unit length.

    Raises:
      UserError: FAISS is not installed, or the folder cannot be written to.
    """

    def __init__(self, path: pathlib.Path, matrix: np.ndarray):
        faiss, file = _faiss(), path.with_suffix(".faiss")
        new = not file.exists()
        if new:
            _build(faiss, file, matrix)
        self._index: Any = faiss.read_index(str(file), faiss.IO_FLAG_MMAP)
        self._index.nprobe = max(1, round(self._index.nlist * _PROBED))
        self._matrix = matrix
        if new:
            say(f"approximate index: {len(matrix)} vectors in {self._index.nlist} groups, '{file}'; it finds "
                f"{self.agreement(_TOP):.1%} of the exact {_TOP} nearest of {_ASKED} images of the index")

    def nearest(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows and cosines as of `nearest.nearest`; fewer rows if the groups that are read hold no more."""
        cosines, rows = self._index.search(np.ascontiguousarray(queries, np.float32), min(count, len(self._matrix)))
        held = int((rows >= 0).sum(axis=1).min())
        return rows[:, :held], cosines[:, :held]

    def agreement(self, count: int) -> float:
        """Returns the share of the exact `count` nearest that is found, over 50 evenly spaced vectors of the index."""
        asked = self._matrix[np.linspace(0, len(self._matrix) - 1, min(_ASKED, len(self._matrix))).astype(int)]
        exact, _ = nearest(self._matrix, asked, count)
        found, _ = self.nearest(asked, count)
        return float(np.mean([np.isin(one, other).mean() for one, other in zip(exact, found, strict=True)]))


def _build(faiss: ModuleType, file: pathlib.Path, matrix: np.ndarray) -> None:
    groups = max(1, min(_MOST_GROUPS, round(_GROUPS_PER_ROOT * len(matrix)**0.5), len(matrix) // 39))
    index = faiss.index_factory(matrix.shape[1], f"IVF{groups},Flat", faiss.METRIC_INNER_PRODUCT)
    chosen = np.linspace(0, len(matrix) - 1, min(len(matrix), _LEARNT_FROM * groups)).astype(int)
    index.train(np.ascontiguousarray(matrix[chosen]))
    for start in range(0, len(matrix), _BLOCK):
        index.add(np.ascontiguousarray(matrix[start:start + _BLOCK]))
    with atomic.create(file) as new:
        faiss.write_index(index, faiss.PyCallbackIOWriter(new.write))


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise UserError("--approximate needs FAISS, which is not installed; pip install faiss-cpu, or leave it out: "
                        "the exact search takes tens of milliseconds for a million vectors") from error
    return faiss
