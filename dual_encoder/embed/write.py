"""Embeds all images of a source and writes the tables, shard by shard; a killed run goes on where it was.

    OUT/part-00000-of-00003.parquet    as of table.py; each appears when it is complete
    OUT/README.md                      the card
    OUT/SHA256SUMS                     digests of all files; written last: the folder is complete
"""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.importers import Reject
from dual_encoder import __version__
from dual_encoder.console import Progress, say
from dual_encoder.embed import card, table
from dual_encoder.embed.sources import Item, Source
from dual_encoder.embed.table import Dtype, Row
from dual_encoder.errors import UserError
from dual_encoder.inference.encoder import Encoder, Vectors
from dual_encoder.storage import atomic, lock, sums

_PLAN = "plan"
_SHOWN = 10  # rejected images that are printed; the files name them all


@dataclasses.dataclass(frozen=True)
class Job:
    """What to embed, and how.

    Attributes:
      encoder: of the run.
      run: its folder, for people.
      source: the images.
      vectors, dtype: which vectors, and how they are stored.
      rows: entries of the source per file.
      batch_size: images per forward pass.
      command: for people.
    """

    encoder: Encoder
    run: str
    source: Source
    vectors: Vectors
    dtype: Dtype
    rows: int
    batch_size: int
    command: str

    @property
    def files(self) -> list[str]:
        """The names of the tables."""
        count = -(-len(self.source) // self.rows)
        return [f"part-{number:05d}-of-{count:05d}.parquet" for number in range(count)]

    def plan(self) -> dict[str, Any]:
        """Returns all that the rows depend on; files of one plan belong together."""
        return {"run digest": self.encoder.digest, "vectors": self.vectors, "dtype": self.dtype, "rows": self.rows,
                **{f"images: {key}": value for key, value in self.source.facts.items() if key != "path"}}

    def facts(self) -> dict[str, Any]:
        """Returns the origin that each file states."""
        return {_PLAN: self.plan(), "run": {"path": self.run, "digest": self.encoder.digest, **self.encoder.origin},
                "sensors": {name: spec.to_json() for name, spec in self.encoder.sensors.items()},
                "data": dict(self.source.facts), "code_version": __version__, "command": self.command}


def embed(job: Job, out: pathlib.Path) -> None:
    """Writes the tables, the card and the digests to `out`; prints the progress.

    Raises:
      UserError: `out` holds something else, or another process writes to it; the images do not fit; the disk refuses.
    """
    with atomic.explained(out):
        out.mkdir(parents=True, exist_ok=True)
        locked = open(out / ".lock", "w")
    with locked:
        if not lock.take(locked):
            raise UserError(f"another process writes to '{out}'; wait for it, or give another --out")
        done = _resumed(job, out)
        if done:
            say(f"{len(done)} of {len(job.files)} files are there already")
        _write_shards(job, out, done)
        _finish(job, out)


def _resumed(job: Job, out: pathlib.Path) -> set[str]:
    """Returns the names of the files that an earlier process has completed; removes what it left unfinished."""
    for left in out.glob(".*.tmp"):
        left.unlink(missing_ok=True)
    done = {path.name for path in out.glob("part-*.parquet")}
    foreign = {path.name for path in out.iterdir()} - done - {"README.md", sums.NAME, ".lock", "index"}
    if foreign:
        raise UserError(f"'{out}' holds '{min(foreign)}', which is not of this command; give an empty or new folder as "
                        "--out")
    for name in sorted(done):
        there, wanted = table.read_facts(out / name)[_PLAN], job.plan()
        if there != wanted:
            key = next((key for key in wanted if there.get(key) != wanted[key]), "set of images")
            raise UserError(f"'{out / name}' was made with other options or images; {key}: {_short(there.get(key))}, "
                            f"now {_short(wanted.get(key))}; give another --out, or delete that folder")
    return done


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


class _Count:
    """How far the work has come, for the progress: entries, bytes, rejected images."""

    def __init__(self, entries: int):
        self.entries, self.bytes, self.rejected = entries, 0, 0

    def __call__(self) -> tuple[int, int, str]:
        return self.entries, self.bytes, f"{self.rejected} rejected" if self.rejected else ""


def _write_shards(job: Job, out: pathlib.Path, done: set[str]) -> None:
    starts = {name: number * job.rows for number, name in enumerate(job.files)}
    stops = {name: min(start + job.rows, len(job.source)) for name, start in starts.items()}
    count = _Count(sum(stops[name] - starts[name] for name in done))
    with Progress("entries", len(job.source), count):
        for name in (name for name in job.files if name not in done):
            before, rejects = count.entries, list[Reject]()
            rows, vectors = _rows(job, starts[name], stops[name], rejects, count)
            facts = job.facts() | {"rejected": [[reject.id, reject.reason] for reject in rejects]}
            count.bytes += table.write(out / name, rows, vectors, job.dtype, job.source.label, facts)
            count.entries = before + stops[name] - starts[name]


def _rows(job: Job, start: int, stop: int, rejects: list[Reject], count: _Count) -> tuple[list[Row], np.ndarray]:
    """Returns the rows of the entries start, ..., stop - 1, and their vectors float32 [rows, dim]."""
    rows: list[Row] = []
    vectors, before = [np.zeros((0, job.encoder.dim(job.vectors)), np.float32)], count.entries
    for items in _batches(job.source.items(start, stop), job.batch_size, rejects):
        images: dict[str, Any] = {name: np.stack([item.images[name] for item in items]) for name in items[0].images}
        found = job.encoder.encode(units="stored", vectors=job.vectors, batch_size=job.batch_size, **images)
        # The images of a pair stand side by side.
        vectors.append(np.stack(list(found.values()), axis=1).reshape(len(items) * len(found), -1))
        rows += [_row(item, name) for item in items for name in found]
        count.entries = before + items[-1].entry - start
    count.rejected += len(rejects)
    return rows, np.concatenate(vectors)


def _batches(items: Iterator[Item | Reject], size: int, rejects: list[Reject]) -> Iterator[list[Item]]:
    """Yields at most `size` consecutive items whose images have one size; adds the others to `rejects`."""
    batch: list[Item] = []
    for item in items:
        if isinstance(item, Reject):
            rejects.append(item)
            continue
        if batch and (len(batch) == size or _shapes(batch[0]) != _shapes(item)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _shapes(item: Item) -> list[tuple[int, ...]]:
    return [image.shape for image in item.images.values()]


def _row(item: Item, sensor: str) -> Row:
    """Returns the row of one of the encoders; the time of stacked images is that of the last one."""
    time = item.times[sensor if sensor in item.times else list(item.times)[-1]]
    return Row(item.id, item.location_id, sensor, item.split, time, item.geometry, item.label, item.record)


def _finish(job: Job, out: pathlib.Path) -> None:
    """Writes the card and the digests; prints what there is."""
    rejected = [reject for name in job.files for reject in table.read_facts(out / name)["rejected"]]
    rows = sum(table.count(out / name) for name in job.files)
    atomic.write(out / "README.md", card.write(job.facts(), job.source.label, rows, job.encoder.dim(job.vectors),
                                               rejected).encode())
    digests = {name: sums.of_file(out / name) for name in (*job.files, "README.md")}
    atomic.write(out / sums.NAME, sums.to_text(digests))
    for identity, reason in [*((one.id, one.reason) for one in job.source.rejects), *rejected][:_SHOWN]:
        say(f"rejected: {identity}: {reason}")
    say(f"{rows} vectors of {len(job.source)} entries in {len(job.files)} files, "
        f"{len(rejected) + len(job.source.rejects)} rejected: {out}")
