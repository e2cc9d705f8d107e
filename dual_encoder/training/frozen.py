"""What frozen encoders give for every record of a split; kept in a folder, so that many probes share one pass.

    CACHE/<key>/NAME.npy      one array per output, a row per record
    CACHE/<key>/facts.json    crc32 of each file

The key is a digest of weights, sensors, data set and split. A folder gets its name when it is complete.
"""

import functools
import hashlib
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.lib.format import open_memmap

from dual_encoder.console import say
from dual_encoder.data.records import Records
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.storage import atomic
from dual_encoder.tasks.probe import FrozenEncoder
from dual_encoder.training.evaluate import predictor

_FACTS = "facts.json"
_CHUNK = 1 << 24


def frozen_outputs(encoder: FrozenEncoder, records: Records, batch_size: int, mesh: Mesh, cache: str
                   ) -> Mapping[str, np.ndarray]:
    """Returns the outputs of `FrozenEncoder.predict` for all records of a split, name -> array [records, ...].

    Args:
      encoder: the function and its variables.
      records: of a whole split.
      batch_size: images per forward pass.
      mesh: the devices.
      cache: folder that keeps the outputs; '' keeps nothing. Several processes may share it.

    Raises:
      UserError: a damaged record, or a full disk.
    """
    folder = pathlib.Path(cache) / _key(encoder, records) if cache and mesh_lib.is_alone() else None
    if folder and (found := _read(folder)) is not None:
        return found
    variables = jax.device_put(encoder.variables, mesh_lib.replicated(mesh))
    parts = predictor(encoder.predict, batch_size, mesh)(variables, records)
    if folder is None:
        rows = [output for _, output in parts]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    with atomic.explained(folder):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        arrays: dict[str, np.memmap] = {}
        for numbers, output in parts:
            for name, array in output.items():
                if name not in arrays:
                    arrays[name] = open_memmap(unfinished / f"{name}.npy", "w+", array.dtype,
                                               (len(records), *array.shape[1:]))
                arrays[name][numbers] = array
        for written in arrays.values():
            written.flush()
        sums = {path.name: _crc(path) for path in sorted(unfinished.glob("*.npy"))}
        (unfinished / _FACTS).write_text(json.dumps(sums))
        shutil.rmtree(folder, ignore_errors=True)  # it is damaged, or a faster process wrote the same bytes
        unfinished.rename(folder)
    return arrays


def _key(encoder: FrozenEncoder, records: Records) -> str:
    """Returns the name of the folder: a digest of all that the outputs depend on."""
    facts: dict[str, Any] = {
        "representation": encoder.representation, "encoder": repr(encoder.encoder), "maps": encoder.maps,
        "images": [(name, spec.to_json()) for name, spec in encoder.images.items()],
        "data": [(part.info.fingerprint, part.split) for part in records.parts]}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(encoder.variables):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()[:32]


def _read(folder: pathlib.Path) -> dict[str, np.ndarray] | None:
    """Returns the arrays of a folder as memory maps; None if it is absent or damaged."""
    if not folder.is_dir():
        return None
    files = sorted(folder.glob("*.npy"))
    if bad := _damaged(folder, tuple(path.stat().st_mtime_ns for path in files)):
        say(f"'{folder / bad}' is damaged: the outputs of the encoders are computed again")
        return None
    return {path.stem: np.load(path, mmap_mode="r") for path in files}


@functools.lru_cache(maxsize=256)
def _damaged(folder: pathlib.Path, times: tuple[int, ...]) -> str:
    """Returns the name of a damaged file, or ''; a process checks files once, unless their `times` change."""
    try:
        sums = json.loads((folder / _FACTS).read_text())
        bad = [name for name, crc in sums.items() if _crc(folder / name) != crc]
        return bad[0] if bad else "" if len(sums) == len(times) else _FACTS
    except (OSError, ValueError, AttributeError):
        return _FACTS


def _crc(path: pathlib.Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc
