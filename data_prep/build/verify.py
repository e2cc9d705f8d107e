"""Checks every byte of a data set: its small files, index, shards and the records in them."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_prep.build.finish import fingerprint
from dual_encoder.console import Progress
from dual_encoder.data import digests
from dual_encoder.data import index as index_lib
from dual_encoder.data.manifest import MANIFEST, read_info
from dual_encoder.data.tfrecord import FOOTER, HEADER, masked_crc32c, scan
from dual_encoder.errors import UserError
from dual_encoder.runtime import processes


def verify(folder: epath.PathLike, workers: int = 1) -> Iterator[str]:
    """Reads every byte of a data set, shows progress, and yields one line per damage, in the order of the shards.

    Args:
      folder: a data set folder.
      workers: processes.

    Raises:
      UserError: there is no data set in `folder`, or its manifest or SHA256SUMS cannot be read.
    """
    folder = epath.Path(folder)
    if (folder / "metadata.json").exists() and not (folder / MANIFEST).exists():
        yield f"{MANIFEST} is missing; write it again with --rewrite"
        return
    info = read_info(folder)
    yield from digests.faults(folder)
    if fingerprint(info.shards) != info.fingerprint:
        yield f"{MANIFEST}: the fingerprint is not that of its shard digests; write it again with --rewrite"
    shards = []
    for split, entries in info.shards.items():
        index, fault = _load_index(folder / f"{split}{digests.INDEX}", entries)
        if fault:
            yield f"{split}{digests.INDEX} {fault}; write it again with --rewrite"
        rows: list[np.ndarray | None] = [None] * len(entries)
        if index is not None:
            ends = list(itertools.accumulate((entry["records"] for entry in entries), initial=0))
            rows = [index[start:stop] for start, stop in itertools.pairwise(ends)]
        shards += [(folder / entry["file"], entry, part) for entry, part in zip(entries, rows, strict=True)]
    done = [0, 0]
    with Progress("records", sum(entry["records"] for _, entry, _ in shards), lambda: (done[0], done[1], "")):
        for (_, entry, _), damages in zip(shards, _verify_shards(shards, workers), strict=True):
            done[:] = done[0] + entry["records"], done[1] + entry["bytes"]
            yield from damages


def _verify_shards(shards: list[tuple], workers: int) -> Iterator[list[str]]:
    if min(workers, len(shards)) < 2:
        yield from (_verify_shard(*shard) for shard in shards)
        return
    with processes.pool(min(workers, len(shards))) as pool:
        yield from pool.map(_verify_shard, *zip(*shards, strict=True))


def _verify_shard(path: epath.Path, entry: Mapping[str, Any], rows: np.ndarray | None) -> list[str]:
    if not path.exists():
        return [f"{path.name} is missing; restore it or rebuild the data set"]
    size, found = path.stat().length, []
    if size != entry["bytes"]:
        found.append(f"{path.name} has {size} bytes, {entry['bytes']} expected: it is cut off or grew")
    stored = [] if rows is None else list(zip(rows["offset"].tolist(), rows["length"].tolist(), strict=True))
    index_is_wrong = False
    scanned: list[tuple[int, int]] = []
    try:
        scanned.extend(scan(path))
    except UserError as error:
        header_error = str(error).split(": ", 1)[-1].split("; run")[0]
        # The index also gives the records behind a damaged header.
        if rows is None:
            found.append(f"{path.name} record {len(scanned)}: {header_error}; the records behind it were not checked")
        else:
            scanned = stored
    else:
        index_is_wrong = rows is not None and stored != scanned
    damages, digest = _check_records(path, scanned, entry["records"], size)
    found += damages
    if not found and digest != entry["sha256"]:
        found.append(f"{path.name}: every record is sound, but the file is not the one that was built (sha256 differs)")
    if index_is_wrong:
        found.append(f"{path.name}: the index is not that of this shard; write it again with --rewrite")
    return found


def _check_records(path: epath.Path, scanned: list[tuple[int, int]], expected: int, size: int) -> tuple[list[str], str]:
    """Reads a shard once: its damaged records, and the sha256 of its records."""
    found, digest = [], hashlib.sha256()
    with path.open("rb") as file:
        for record, (offset, length) in enumerate(scanned):
            if offset + length + FOOTER.size > size:
                found.append(f"{path.name} records {record} to {expected - 1} are cut off (byte {offset} on)")
                break
            file.seek(offset - HEADER.size)
            header, payload, footer = (file.read(count) for count in (HEADER.size, length, FOOTER.size))
            for part in (header, payload, footer):
                digest.update(part)
            stored_length, crc = HEADER.unpack(header)
            if masked_crc32c(header[:8]) != crc or stored_length != length:
                found.append(f"{path.name} record {record} (byte {offset}): the header does not match its checksum")
            elif masked_crc32c(payload) != FOOTER.unpack(footer)[0]:
                found.append(f"{path.name} record {record} (byte {offset}): the payload does not match its checksum")
    return found, digest.hexdigest()


def _load_index(path: epath.Path, entries: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray | None, str]:
    """Returns an index and ''; or None and its fault."""
    try:
        index = index_lib.read(path)
        fault = index_lib.fault(index, entries)
    except (OSError, ValueError) as error:
        return None, f"is missing or unreadable ({'no such file' if isinstance(error, OSError) else error})"
    return (None, f"is damaged: {fault}") if fault else (index, "")
