"""The index of a folder of embeddings: one memory-mapped matrix of unit vectors per sensor, made once.

    DIR/index/<key>/s1.npy     float32 [images of the sensor, dim], in the order of the tables
    DIR/index/<key>/s1.faiss   the same for --approximate, made when it is first asked for

The key is a digest of SHA256SUMS, so an index of other tables is never used.
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.format import open_memmap

from dual_encoder.console import say
from dual_encoder.embed import table
from dual_encoder.errors import UserError, nearest
from dual_encoder.evaluation.embedded import unit_vectors
from dual_encoder.search.approximate import Approximate
from dual_encoder.storage import atomic, sums


class Index:
    """The vectors of a folder and the facts of their images.

    Args:
      folder: that `python -m dual_encoder.embed` has written; the first use adds the index to it.

    Attributes:
      folder: the argument.
      origin: as the tables state it: run, data, sensors and others.
      rows: sensor -> numbers of its rows in the tables, int64.
      matrices: sensor -> float32 [images, dim] of unit length, a memory map.

    Raises:
      UserError: the folder holds no complete tables, or damaged ones, or cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        digests = _digests(self.folder)
        self._files = [self.folder / name for name in sorted(digests) if name.endswith(".parquet")]
        self.origin = table.read_facts(self._files[0])
        key = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]
        self._place = place = self.folder / "index" / key
        if not place.is_dir():
            _build(place, self._files, digests)
        self.matrices: Mapping[str, np.ndarray] = {
            path.stem: np.load(path, mmap_mode="r") for path in sorted(place.glob("*.npy"))}
        sensors = self._table["sensor"].combine_chunks().to_numpy(zero_copy_only=False)
        self.rows = {name: np.flatnonzero(sensors == name) for name in self.matrices}
        if not self.matrices:
            raise UserError(f"'{self.folder}' holds no vectors; its README.md names the rejected images")

    @functools.cached_property
    def _table(self) -> pa.Table:
        """The facts of all images: every column but the vectors."""
        names = [name for name in pq.read_schema(self._files[0]).names if name not in ("embedding", "scale")]
        return pa.concat_tables(pq.read_table(path, columns=names) for path in self._files).unify_dictionaries()

    def __len__(self) -> int:
        return len(self._table)

    def sensor(self, name: str) -> str:
        """Returns `name` if the index has the sensor; UserError otherwise."""
        if name not in self.matrices:
            raise UserError(f"the index has no sensor '{name}'; {nearest(name, self.matrices)}")
        return name

    def approximate(self, name: str) -> Approximate:
        """Returns the inverted file of a sensor; UserError without FAISS."""
        return Approximate(self._place / f"{name}.npy", self.matrices[name])

    def facts(self, row: int) -> dict[str, Any]:
        """Returns the columns of a row as Python values."""
        return self._table.slice(row, 1).to_pylist()[0]

    def column(self, name: str, rows: Sequence[int] | np.ndarray | None = None) -> list[Any]:
        """Returns the values of some rows (None = all); None for each if the tables lack the column."""
        if name not in self._table.column_names:
            return [None] * (len(self) if rows is None else len(rows))
        column = self._table[name]
        return (column if rows is None else column.take(pa.array(np.asarray(rows)))).to_pylist()

    def vector(self, row: int, sensor: str) -> np.ndarray:
        """Returns the unit vector of a row of that sensor, float32 [dim]."""
        return np.array(self.matrices[sensor][np.searchsorted(self.rows[sensor], row)])


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """Returns file -> sha256 of a complete folder."""
    try:
        digests = sums.of_text((folder / sums.NAME).read_bytes())
    except OSError as error:
        raise UserError(f"'{folder}' holds no {sums.NAME}: it is no folder of `python -m dual_encoder.embed`, or not "
                        "complete; run that command, or run it again") from error
    except ValueError as error:
        raise UserError(f"'{folder / sums.NAME}' is damaged ({error}); run `python -m dual_encoder.embed` again"
                        ) from error
    if not any(name.endswith(".parquet") for name in digests):
        raise UserError(f"'{folder}' holds no tables of embeddings; give a folder of `python -m dual_encoder.embed`")
    return digests


def _build(place: pathlib.Path, files: Sequence[pathlib.Path], digests: Mapping[str, str]) -> None:
    """Writes the matrices; the folder gets its name when they are complete."""
    with atomic.explained(place):
        place.parent.mkdir(exist_ok=True)
        for old in place.parent.iterdir():  # of other tables, or left by a kill
            shutil.rmtree(old, ignore_errors=True)
        unfinished = place.with_name(f".{place.name}.{os.getpid()}")
        unfinished.mkdir()
        counts: dict[str, int] = {}
        for path in files:
            _check(path, digests[path.name])
            for name, count in table.sensor_counts(path).items():
                counts[name] = counts.get(name, 0) + count
        written: dict[str, np.memmap] = {}
        filled = dict.fromkeys(counts, 0)
        for path in files:
            vectors, sensors = table.read_vectors(path)
            for name in np.unique(sensors):
                units = unit_vectors(vectors[sensors == name], f"'{path}': {name}")
                if name not in written:
                    written[name] = open_memmap(unfinished / f"{name}.npy", "w+", np.float32,
                                                (counts[name], units.shape[1]))
                written[name][filled[name]:filled[name] + len(units)] = units
                filled[name] += len(units)
        for matrix in written.values():
            matrix.flush()
        unfinished.rename(place)
    say(f"index: {', '.join(f'{count} vectors of {name}' for name, count in sorted(counts.items()))} in '{place}'")


def _check(path: pathlib.Path, digest: str) -> None:
    if sums.of_file(path) != digest:
        raise UserError(f"'{path}' does not match its digest; restore it, or delete it and run `python -m "
                        "dual_encoder.embed` again")
