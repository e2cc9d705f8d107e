"""Damages files for tests: one bit at a random place, from a seed."""

import contextlib
import pathlib

import numpy as np


def files_below(folder):
    """The files below a folder that are not empty, in a fixed order."""
    return sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file() and path.stat().st_size)


@contextlib.contextmanager
def flipped(path, rng):
    """Flips one random bit of a file for the time of the block. Gives (byte, bit); the old content comes back."""
    whole = path.read_bytes()
    place, bit = int(rng.integers(len(whole))), int(rng.integers(8))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        yield place, bit
    finally:
        path.write_bytes(whole)


def places(folder, count, seed, leave_out=lambda name: False):
    """Yields `count` times (path, generator): files in turn, so that small ones get as many flips as large ones."""
    rng = np.random.default_rng(seed)
    paths = [path for path in files_below(folder) if not leave_out(path.relative_to(folder).as_posix())]
    for number in range(count):
        yield paths[number % len(paths)], rng
