"""Rows of pairs: which belong together, and which are the first of their kind."""

import numpy as np


def count_up(counts: np.ndarray) -> np.ndarray:
    """Returns 0, 1, ..., counts[0] - 1, 0, 1, ..., counts[1] - 1, ..."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def firsts(rows: np.ndarray) -> np.ndarray:
    """Returns bool [n], True for a row that differs from the one before it; rows: [n, columns]."""
    first = np.ones(len(rows), bool)
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return first
