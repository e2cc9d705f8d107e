"""Measures exact search among many vectors on one core: memory-mapped index, one query at a time, and many at once.

Method. Random vectors of unit length are written as an index file and opened as a memory map. The process keeps to one
core (affinity and BLAS threads). Each time is the median over --queries queries of the process's own time on that core,
after one pass that brings the file into memory; of ours the time on the clock is shown, too, which other processes make
longer.
1. One query at a time: `nearest`, and its parts: reading the matrix once (a sum of the blocks), the product alone.
2. Many queries at once, per query.
3. The plain way: the product of the whole matrix and an argsort. The answers must be the same rows.
4. With PyTorch installed: `torch.topk(matrix @ query)`, on one thread, over the same values.
Ratios are ours / theirs: below 1 is less time.

    python -m benchmarks.search [--vectors=1000000] [--dim=128] [--top=10] [--queries=20] [--folder=DIR]
"""

import argparse
import importlib.util
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # before NumPy

import numpy as np  # noqa: E402
from numpy.lib.format import open_memmap  # noqa: E402

from dual_encoder.search.nearest import nearest  # noqa: E402

_ROWS = 65536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("vectors", 1_000_000), ("dim", 128), ("top", 10), ("queries", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", help="for the index file; a temporary folder by default")
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = pathlib.Path(folder) / "s1.npy"
        write(path, options.vectors, options.dim)
        start = time.perf_counter()
        matrix = np.load(path, mmap_mode="r")
        print(f"{options.vectors:,} x {options.dim} float32, {path.stat().st_size / 1e6:,.0f} MB; opened in "
              f"{1e3 * (time.perf_counter() - start):.1f} ms; one core, load {os.getloadavg()[0]:.1f}")
        measure(matrix, options.top, options.queries)


def write(path: pathlib.Path, count: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    matrix = open_memmap(path, "w+", np.float32, (count, dim))
    for first in range(0, count, _ROWS):
        block = rng.standard_normal((min(_ROWS, count - first), dim), np.float32)
        matrix[first:first + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    matrix.flush()


def measure(matrix: np.ndarray, top: int, count: int) -> None:
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((count, matrix.shape[1]), np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    rows, _ = nearest(matrix, queries, top)
    ours = median(lambda query: nearest(matrix, query[None], top), queries)
    reading = median(lambda query: [matrix[at:at + _ROWS].sum() for at in range(0, len(matrix), _ROWS)], queries[:3])
    product = median(lambda query: matrix @ query, queries)
    plain = median(lambda query: np.argsort(-(matrix @ query), kind="stable")[:top], queries[:3])
    together = median(lambda _: nearest(matrix, queries, top), queries[:3]) / count
    clock = median(lambda query: nearest(matrix, query[None], top), queries, time.perf_counter)
    print(f"  one query at a time  {1e3 * ours:.1f} ms  (on the clock {1e3 * clock:.1f} ms; the product alone "
          f"{1e3 * product:.1f} ms, a sum of all values {1e3 * reading:.1f} ms)")
    print(f"  {count} queries at once  {1e3 * together:.1f} ms per query")
    print(f"  product and argsort  {1e3 * plain:.1f} ms  ours / theirs {ours / plain:.2f}")
    expected = np.stack([np.argsort(-(matrix @ query), kind="stable")[:top] for query in queries])
    alone = np.concatenate([nearest(matrix, query[None], top)[0] for query in queries])
    assert (alone == expected).all() and (rows == expected).mean() > 0.99, "other rows than the plain way"
    if importlib.util.find_spec("torch"):
        theirs = with_torch(np.array(matrix), queries, top, expected)
        print(f"  torch.topk           {1e3 * theirs:.1f} ms  ours / theirs {ours / theirs:.2f}")


def with_torch(matrix: np.ndarray, queries: np.ndarray, top: int, expected: np.ndarray) -> float:
    import torch

    torch.set_num_threads(1)
    values = torch.from_numpy(matrix)
    found = [torch.topk(values @ torch.from_numpy(query), top).indices.numpy() for query in queries]
    assert (np.stack(found) == expected).mean() > 0.99, "torch finds other rows"
    return median(lambda query: torch.topk(values @ torch.from_numpy(query), top), queries)


def median(search: Callable[[np.ndarray], object], queries: np.ndarray,
           clock: Callable[[], float] = time.process_time) -> float:
    times = []
    for query in queries:
        start = clock()
        search(query)
        times.append(clock() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
