"""Finishes a build: manifest.json, the index and SHA256SUMS next to the shards. `verify` checks them.

Everything but the digests also stands in metadata.json, which TFDS writes, so a lost manifest can be made again.
"""

import hashlib
import io
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_prep.file_digest import sha256
from dual_encoder.data import digests
from dual_encoder.data.manifest import MANIFEST, DatasetInfo, splits_in_order
from dual_encoder.data.tfrecord import INDEX_DTYPE, read_payload, scan
from dual_encoder.errors import UserError
from dual_encoder.storage import atomic

FACTS = "dual_encoder"  # the key in TFDS's metadata.json under which DatasetInfo's fields stand
_SHARD = re.compile(r"(?P<name>\w+)-(?P<split>\w+)\.tfrecord-(?P<shard>\d{5})-of-(?P<count>\d{5})")


def write(folder: str | os.PathLike) -> DatasetInfo:
    """Writes manifest.json, <split>.index.npy and SHA256SUMS from the shards and TFDS's own files.

    Args:
      folder: a finished TFDS folder, <data_dir>/<name>/<config>/<version>.

    Returns:
      the content of the manifest.

    Raises:
      UserError: not such a folder, a missing or damaged shard, another number of records than TFDS counted, or a file
        that is not made anew here and differs from its digest.
    """
    folder = pathlib.Path(folder)
    digests.check(folder, lambda name: not digests.can_be_rewritten(name))
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


def save(folder: epath.PathLike, facts: Mapping[str, Any], shards: Mapping[str, Sequence[Mapping[str, Any]]],
         indices: Mapping[str, np.ndarray]) -> DatasetInfo:
    """Writes manifest.json, <split>.index.npy and, of all small files, SHA256SUMS.

    Args:
      folder: of the shards, and of all other files of the data set.
      facts: `DatasetInfo` as JSON without shards and fingerprint.
      shards: split -> shard entries, see `DatasetInfo`.
      indices: split -> INDEX_DTYPE [records].
    """
    folder = epath.Path(folder)
    try:
        info = DatasetInfo.from_json({**facts, "shards": shards, "fingerprint": fingerprint(shards)})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"'{folder / 'metadata.json'}' is damaged ({error!r}); restore it or rebuild the data set"
                        ) from error
    for split, index in indices.items():
        file = io.BytesIO()
        np.save(file, index)
        atomic.write(folder / f"{split}{digests.INDEX}", file.getvalue())
    # The manifest comes behind the index: if it is there, the index is there too.
    atomic.write(folder / MANIFEST, (json.dumps(info.to_json(), indent=1) + "\n").encode())
    digests.write(folder)
    return info


def fingerprint(shards: Mapping[str, Any]) -> str:
    """Returns the sha256 over splits and shard digests, in order: equal for equal records in equal order."""
    digests = [f"{split} {entry['sha256']}" for split in sorted(shards) for entry in shards[split]]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _facts(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "metadata.json").read_text())[FACTS]
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
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
    return {split: [found[split][number] for number in sorted(found[split])] for split in splits_in_order(found)}


def _records_by_tfds(folder: pathlib.Path) -> dict[str, int]:
    try:
        splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
        return {split["name"]: sum(map(int, split["shardLengths"])) for split in splits}
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"'{folder / 'dataset_info.json'}' is missing or damaged ({error!r}); rebuild the data "
                        "set") from error
