"""The folder of a checkpoint: what Orbax writes into it, and how it is sealed with digests.

    WORKDIR/checkpoints/<step>/{model,optimizer,facts}    written by Orbax in a temporary folder, renamed when complete
    WORKDIR/checkpoints/<step>/digests.json               crc32 of each file, written before the folder is renamed:
                                                          Orbax does not detect bit rot
    WORKDIR/digests/<step>.json                           the same, of checkpoints that earlier versions wrote
"""

import asyncio
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from dual_encoder.errors import UserError, one_line
from dual_encoder.storage import atomic

_CHUNK = 1 << 24
_SLICE = 1 << 22  # bytes; an array is saved by several devices if each saves at least so much
_DIGESTS = "digests.json"
_NOTES = "_CHECKPOINT_METADATA"  # Orbax's own notes on a save; it needs none of them to read a checkpoint
_UNCHECKED = (_DIGESTS, "commit_success.txt")  # Orbax writes the latter last and never reads it


def manager(workdir: epath.Path, keep: int | None) -> ocp.CheckpointManager:
    """Returns Orbax's manager of the checkpoints of a run.

    Args:
      workdir: of the run.
      keep: number of newest checkpoints to keep; None: they are only read.

    Raises:
      UserError: Orbax cannot list the checkpoints.
    """
    try:
        return ocp.CheckpointManager(
            (workdir / "checkpoints").resolve(),
            item_handlers={"model": _arrays(), "optimizer": _arrays(), "facts": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=keep is not None, temporary_path_class=_Sealed,
                cleanup_tmp_directories=keep is not None))  # a killed save may leave as much as a checkpoint
    except (OSError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        raise UserError(f"the checkpoints of '{workdir}' cannot be listed ({one_line(error)}); a file '{_NOTES}' below "
                        f"'{workdir / 'checkpoints'}' is damaged: restore it, or delete it, it is not needed"
                        ) from error


def restore_to(target: Any) -> ocp.args.PyTreeRestore:
    """Returns the arguments that restore arrays to the structure, shapes, dtypes and shardings of a target."""
    return ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))


def write_digests(folder: epath.Path) -> None:
    """Writes the digests of all files of a checkpoint into its folder."""
    atomic.write(folder / _DIGESTS, json.dumps(_digests(folder), indent=0).encode())


def digests_file(workdir: epath.Path, step: int) -> epath.Path | None:
    """Returns the file with the digests of a checkpoint; None if an earlier version was killed before it wrote them."""
    places = (workdir / "checkpoints" / str(step) / _DIGESTS, workdir / "digests" / f"{step}.json")
    return next((file for file in places if file.exists()), None)


def fault(workdir: epath.Path, step: int) -> str | None:
    """Returns the fault of a checkpoint as text, or None. A checkpoint without digests counts as sound."""
    file = digests_file(workdir, step)
    if file is None:
        return None
    try:
        expected = dict(json.loads(file.read_bytes()))
    except (TypeError, ValueError, RecursionError):
        return f"its digests '{file}' cannot be read"
    seen = _digests(workdir / "checkpoints" / str(step))
    different = sorted(name for name in expected | seen
                       if expected.get(name) != seen.get(name) and name not in _UNCHECKED)
    return f"{len(different)} files differ from their digests, first '{different[0]}'" if different else None


class _Sealed(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The temporary folder of a checkpoint, or of one of its items: digests are written before it is renamed."""

    @classmethod
    def from_final(cls, final_path: epath.Path, *, checkpoint_metadata_store: Any = None, **options: Any) -> "_Sealed":
        made = super().from_final(final_path, **options)
        made.notes = checkpoint_metadata_store
        return made

    async def create(self) -> epath.Path:
        folder = await super().create()
        if self.get_final().name.isdigit() and self.notes is not None:
            (folder / _NOTES).write_bytes(b"{}")  # Orbax adds to it, and would warn of a missing file
        return folder

    async def finalize(self) -> None:
        if self.get_final().name.isdigit():
            await asyncio.to_thread(self._seal)
        await super().finalize()

    def _seal(self) -> None:
        if self.notes is not None:
            self.notes.wait_until_finished()
        # Orbax reads the notes of all checkpoints at each start: an object of another form there would hide the sound
        # checkpoints, too. One flipped bit turns an empty object into text that Orbax ignores.
        (self.get() / _NOTES).write_bytes(b"{}")
        write_digests(self.get())
        # Of an earlier version and the same step.
        (self.get_final().parent.parent / "digests" / f"{self.get_final().name}.json").unlink(missing_ok=True)


def _arrays() -> ocp.PyTreeCheckpointHandler:
    """Returns the handler of nested arrays.

    Orbax saves a slice of an array from each device that holds it, and compiles a program for each shape: the first
    save of a ResNet-18 on 8 simulated devices took 11 s. Here one device saves an array, unless it is large.
    """
    kinds = ocp.type_handlers
    return ocp.PyTreeCheckpointHandler(type_handler_registry=kinds.create_type_handler_registry(
        (jax.Array, kinds.ArrayHandler(min_slice_bytes_for_replica_parallel=_SLICE)),
        (np.ndarray, kinds.NumpyHandler()), (np.number, kinds.ScalarHandler())))


def _digests(folder: epath.Path) -> dict[str, int]:
    """Returns relative path -> crc32 of every file below `folder`."""
    digests = {}
    for path in sorted(_files(folder)):
        crc = 0
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                crc = zlib.crc32(chunk, crc)
        digests[os.path.relpath(path, folder)] = crc
    return digests


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():  # epath refuses a recursive glob
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
