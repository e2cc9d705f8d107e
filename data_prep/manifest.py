"""manifest.json and the index beside the shards: written after a build, checked by `verify`.

Everything but the digests also stands in metadata.json, which TFDS writes, so a lost manifest can be made again.
"""

import hashlib
import io
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dual_encoder import atomic
from dual_encoder.errors import UserError
from dual_encoder.tfrecord import (
    FOOTER,
    HEADER,
    INDEX_DTYPE,
    MANIFEST,
    DatasetInfo,
    load_info,
    masked_crc32c,
    read_payload,
    scan,
)

FACTS = "dual_encoder"  # the key in TFDS's metadata.json under which DatasetInfo's fields stand
_SHARD = re.compile(r"(?P<name>\w+)-(?P<split>\w+)\.tfrecord-(?P<shard>\d{5})-of-(?P<count>\d{5})")


def is_written(folder: str | os.PathLike) -> bool:
    """Returns whether manifest and index files are there."""
    folder = pathlib.Path(folder)
    if not (folder / MANIFEST).is_file():
        return False
    return all((folder / f"{split}.index.npy").is_file() for split in load_info(folder).shards)


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
    info = DatasetInfo.from_json(facts | {"shards": shards, "fingerprint": fingerprint(shards)})
    for split, rows in indices.items():
        file = io.BytesIO()
        np.save(file, np.array(rows, INDEX_DTYPE))
        atomic.write(folder / f"{split}.index.npy", file.getvalue())
    # The manifest comes last: where it stands, the index stands too.
    atomic.write(folder / MANIFEST, (json.dumps(info.to_json(), indent=1) + "\n").encode())
    return info


def verify(folder: str | os.PathLike) -> Iterator[str]:
    """Reads every byte of a data set and yields one line per damage.

    Args:
      folder: a data set folder.

    Raises:
      UserError: there is no data set in `folder`.
    """
    folder = pathlib.Path(folder)
    if (folder / "metadata.json").is_file() and not (folder / MANIFEST).is_file():
        yield f"{MANIFEST} is missing; write it again with --rewrite"
        return
    info = load_info(folder)
    if fingerprint(info.shards) != info.fingerprint:
        yield f"{MANIFEST}: the fingerprint is not that of its shard digests; write it again with --rewrite"
    for split, entries in info.shards.items():
        index_path = folder / f"{split}.index.npy"
        index = _load_index(index_path)
        if index is None:
            yield f"{index_path.name} is missing or unreadable; write it again with --rewrite"
        elif len(index) != sum(entry["records"] for entry in entries):
            yield (f"{index_path.name} has {len(index)} rows, the manifest counts "
                   f"{sum(entry['records'] for entry in entries)}; write it again with --rewrite")
        for number, entry in enumerate(entries):
            rows = None if index is None else index[index["shard"] == number]
            yield from _verify_shard(folder / entry["file"], entry, rows)


def _verify_shard(path: pathlib.Path, entry: Mapping[str, Any], rows: np.ndarray | None) -> Iterator[str]:
    if not path.is_file():
        yield f"{path.name} is missing; restore it or rebuild the data set"
        return
    size, damaged = path.stat().st_size, False
    if size != entry["bytes"]:
        damaged = True
        yield f"{path.name} has {size} bytes, {entry['bytes']} expected: it is cut off or grew"
    scanned = []
    try:
        scanned.extend(scan(path))
    except UserError as error:
        damaged = True
        header_error = str(error).split(": ", 1)[-1].split("; run")[0]
        # With the index the records behind a damaged header are found all the same.
        scanned = [(int(row["offset"]), int(row["length"])) for row in rows] if rows is not None else scanned
        if rows is None:
            yield f"{path.name} record {len(scanned)}: {header_error}; the records behind it were not checked"
    else:
        if rows is not None and [(int(r["offset"]), int(r["length"])) for r in rows] != scanned:
            yield f"{path.name}: the index is not that of this shard; write it again with --rewrite"
    with open(path, "rb") as file:
        for record, (offset, length) in enumerate(scanned):
            if offset + length + FOOTER.size > size:
                damaged = True
                yield f"{path.name} records {record} to {entry['records'] - 1} are cut off (byte {offset} on)"
                break
            if reason := _record_fault(file.fileno(), offset, length):
                damaged = True
                yield f"{path.name} record {record} (byte {offset}): {reason}"
    if not damaged and sha256(path) != entry["sha256"]:
        yield f"{path.name}: every record is sound, but the file is not the one that was built (sha256 differs)"


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


def _load_index(path: pathlib.Path) -> np.ndarray | None:
    try:
        index = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return index if index.dtype == INDEX_DTYPE else None


def _record_fault(descriptor: int, offset: int, length: int) -> str:
    """Returns what is wrong with a record of an open shard, '' when it is sound."""
    header = os.pread(descriptor, HEADER.size, offset - HEADER.size)
    stored_length, crc = HEADER.unpack(header)
    if masked_crc32c(header[:8]) != crc or stored_length != length:
        return "the header does not match its checksum"
    return "" if read_payload(descriptor, offset, length) is not None else "the payload does not match its checksum"
