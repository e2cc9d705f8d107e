"""manifest.json and the index beside the shards: written after a build, checked by `verify`.

Everything but the digests also stands in metadata.json, which TFDS writes, so a lost manifest can be made again.
"""

import concurrent.futures
import hashlib
import io
import json
import multiprocessing
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from dual_encoder.console import Progress
from data_prep.build.workers import end_with_parent
from dual_encoder.storage import atomic
from dual_encoder.errors import UserError
from dual_encoder.data.manifest import DatasetInfo, MANIFEST, load_info
from dual_encoder.data.tfrecord import FOOTER, HEADER, INDEX_DTYPE, masked_crc32c, read_payload, scan

FACTS = "dual_encoder"  # the key in TFDS's metadata.json under which DatasetInfo's fields stand
_SHARD = re.compile(r"(?P<name>\w+)-(?P<split>\w+)\.tfrecord-(?P<shard>\d{5})-of-(?P<count>\d{5})")


def write(folder: str | os.PathLike) -> DatasetInfo:
    """Writes manifest.json and <split>.index.npy from the shards and TFDS's own files.

    Args:
      folder: a finished TFDS folder, <data_dir>/<name>/<config>/<version>.

    Returns:
      what the manifest says.

    Raises:
      UserError: not such a folder, a missing or damaged shard, or another number of records than TFDS counted.
    """
    folder = pathlib.Path(folder)
    facts = _facts(folder)
    shards: dict[str, list[dict[str, Any]]] = {}
    indices: dict[str, list[tuple[int, int, int]]] = {}
    for split, paths in _shard_files(folder).items():
        shards[split], indices[split] = [], []
        for number, path in enumerate(paths):
            rows = [(number, offset, length) for offset, length in scan(path)]
            with open(path, "rb") as file:
                for at, (_, offset, length) in enumerate(rows):
                    if read_payload(file.fileno(), offset, length) is None:
                        raise UserError(f"shard '{path}' is damaged at record {at} (byte {offset}); the manifest is "
                                        "not rewritten, restore the shard or rebuild the data set")
            indices[split] += rows
            shards[split].append({"file": path.name, "bytes": path.stat().st_size, "records": len(rows),
                                  "sha256": sha256(path)})
    counted = _records_by_tfds(folder)
    seen = {split: sum(entry["records"] for entry in entries) for split, entries in shards.items()}
    if counted != seen:
        raise UserError(f"'{folder}' has records {seen}, dataset_info.json counts {counted}; restore the lost shards "
                        "or rebuild the data set")
    return save(folder, facts, shards, {split: np.array(rows, INDEX_DTYPE) for split, rows in indices.items()})


def save(folder: epath.PathLike, facts: Mapping[str, Any], shards: Mapping[str, list[Mapping[str, Any]]],
         indices: Mapping[str, np.ndarray]) -> DatasetInfo:
    """Writes manifest.json and <split>.index.npy.

    Args:
      folder: of the shards.
      facts: `DatasetInfo` as JSON without shards and fingerprint.
      shards: split -> shard entries, see `DatasetInfo`.
      indices: split -> INDEX_DTYPE [records].
    """
    folder = epath.Path(folder)
    info = DatasetInfo.from_json({**facts, "shards": shards, "fingerprint": fingerprint(shards)})
    for split, index in indices.items():
        file = io.BytesIO()
        np.save(file, index)
        atomic.write(folder / f"{split}.index.npy", file.getvalue())
    # The manifest comes last: where it stands, the index stands too.
    atomic.write(folder / MANIFEST, (json.dumps(info.to_json(), indent=1) + "\n").encode())
    return info


def verify(folder: epath.PathLike, workers: int = 1) -> Iterator[str]:
    """Reads every byte of a data set, shows progress, and yields one line per damage, in the order of the shards.

    Args:
      folder: a data set folder.
      workers: processes.

    Raises:
      UserError: there is no data set in `folder`.
    """
    folder = epath.Path(folder)
    if (folder / "metadata.json").exists() and not (folder / MANIFEST).exists():
        yield f"{MANIFEST} is missing; write it again with --rewrite"
        return
    info = load_info(folder)
    if fingerprint(info.shards) != info.fingerprint:
        yield f"{MANIFEST}: the fingerprint is not that of its shard digests; write it again with --rewrite"
    shards = []
    for split, entries in info.shards.items():
        index_path = folder / f"{split}.index.npy"
        index = _load_index(index_path)
        if index is None:
            yield f"{index_path.name} is missing or unreadable; write it again with --rewrite"
        elif len(index) != sum(entry["records"] for entry in entries):
            yield (f"{index_path.name} has {len(index)} rows, the manifest counts "
                   f"{sum(entry['records'] for entry in entries)}; write it again with --rewrite")
        ends = None if index is None else np.searchsorted(index["shard"], np.arange(len(entries) + 1))
        shards += [(folder / entry["file"], entry, None if ends is None else index[ends[number]:ends[number + 1]])
                   for number, entry in enumerate(entries)]
    done = [0, 0]
    with Progress("records", sum(entry["records"] for _, entry, _ in shards), lambda: (*done, "")):
        for (_, entry, _), damages in zip(shards, _verify_shards(shards, workers), strict=True):
            done[:] = done[0] + entry["records"], done[1] + entry["bytes"]
            yield from damages


def _verify_shards(shards: list[tuple], workers: int) -> Iterator[list[str]]:
    if min(workers, len(shards)) < 2:
        yield from (_verify_shard(*shard) for shard in shards)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(min(workers, len(shards)), context, end_with_parent) as pool:
        yield from pool.map(_verify_shard, *zip(*shards, strict=True))


def _verify_shard(path: epath.Path, entry: Mapping[str, Any], rows: np.ndarray | None) -> list[str]:
    if not path.exists():
        return [f"{path.name} is missing; restore it or rebuild the data set"]
    size, found = path.stat().length, []
    if size != entry["bytes"]:
        found.append(f"{path.name} has {size} bytes, {entry['bytes']} expected: it is cut off or grew")
    stored = [] if rows is None else list(zip(rows["offset"].tolist(), rows["length"].tolist(), strict=True))
    index_is_wrong, scanned = False, []
    try:
        scanned.extend(scan(path))
    except UserError as error:
        header_error = str(error).split(": ", 1)[-1].split("; run")[0]
        # With the index the records behind a damaged header are found all the same.
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


def fingerprint(shards: Mapping[str, Any]) -> str:
    """Returns the sha256 over splits and shard digests, in order: equal for equal records in equal order."""
    digests = [f"{split} {entry['sha256']}" for split in sorted(shards) for entry in shards[split]]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def sha256(path: pathlib.Path) -> str:
    """Returns the hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _facts(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "metadata.json").read_text())[FACTS]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"'{folder}' is no folder that this project built ({error!r} in metadata.json); name "
                        "<data_dir>/<name>/<config>/<version> or rebuild the data set") from error


def _shard_files(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Split -> its shards in order; UserError for gaps."""
    found: dict[str, dict[int, pathlib.Path]] = {}
    counts = {}
    for path in sorted(folder.iterdir()):
        if match := _SHARD.fullmatch(path.name):
            found.setdefault(match["split"], {})[int(match["shard"])] = path
            counts[match["split"]] = int(match["count"])
    if not found:
        raise UserError(f"'{folder}' holds no TFRecord shards; build with file format tfrecord")
    for split, shards in found.items():
        gone = sorted(set(range(counts[split])) - set(shards))
        if gone:
            raise UserError(f"'{folder}' lacks shard {gone[0]} of {counts[split]} of split '{split}'; restore it or "
                            "rebuild the data set")
    order = ["train", "validation", "test"]
    names = sorted(found, key=lambda split: (order.index(split) if split in order else len(order), split))
    return {split: [found[split][number] for number in sorted(found[split])] for split in names}


def _records_by_tfds(folder: pathlib.Path) -> dict[str, int]:
    try:
        splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
        return {split["name"]: sum(map(int, split["shardLengths"])) for split in splits}
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"'{folder / 'dataset_info.json'}' is missing or damaged ({error!r}); rebuild the data "
                        "set") from error


def _load_index(path: epath.Path) -> np.ndarray | None:
    try:
        index = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return index if index.dtype == INDEX_DTYPE else None
