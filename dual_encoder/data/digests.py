"""SHA256SUMS, the digests of the small files of a data set folder: writing, reading and checking it.

Shards are not listed: the manifest holds their digests, and the manifest is listed. Data sets that were built before
have no such file.
"""

import hashlib
import os
from collections.abc import Callable

from etils import epath

from dual_encoder.errors import UserError
from dual_encoder.storage import atomic, files, sums
from dual_encoder.storage.sums import NAME as SUMS

INDEX = ".index.npy"  # end of the name of an index, of which there is one for each split
MANIFEST = "manifest.json"
_COVERED = (MANIFEST, "metadata.json", "dataset_info.json", "features.json", "build.json", "rejected.jsonl")


def write(folder: epath.PathLike) -> None:
    """Writes SHA256SUMS of a local folder: a line for each small file of the data set that is there."""
    folder = epath.Path(folder)
    names = [name for name in files.sizes(folder) if name in _COVERED or name.endswith(INDEX)]
    atomic.write(folder / SUMS, sums.to_text({name: _digest(folder / name) for name in names}))


def load(folder: epath.PathLike) -> dict[str, str] | None:
    """Returns file name -> sha256 of SHA256SUMS; None if the data set has no such file.

    Args:
      folder: of the data set, local or in a bucket.

    Raises:
      UserError: a line is damaged, or the manifest is not listed.
    """
    path = epath.Path(folder) / SUMS
    try:
        found = sums.of_text(files.read(path))
        if MANIFEST not in found:
            raise ValueError(f"it does not list {MANIFEST}")
    except FileNotFoundError:
        return None
    except ValueError as error:
        if isinstance(error, UserError):  # of a bucket
            raise
        raise UserError(f"'{path}' is damaged ({error}); restore it, or delete it to take the other files as they are, "
                        f"and write it again with `python -m data_prep verify --rewrite {folder}`") from error
    return found


def faults(folder: epath.PathLike, of: Callable[[str], bool] = lambda name: True) -> list[str]:
    """Returns a line for each listed file that is missing or differs from its digest; none without SHA256SUMS.

    Args:
      folder: of the data set, local or in a bucket.
      of: file name -> whether it is checked.

    Raises:
      UserError: SHA256SUMS is damaged.
    """
    found = []
    listed = {name: digest for name, digest in (load(folder) or {}).items() if of(name)}
    for name, error in sums.differing(listed, lambda name: _digest(epath.Path(folder) / name)):
        if error is None:
            found.append(f"{name} does not match its digest in {SUMS}, one of the two is damaged; {_remedy(name)}")
        elif isinstance(error, FileNotFoundError):
            found.append(f"{name} is missing, {SUMS} lists it; {_remedy(name)}")
        else:
            raise error
    return found


def check(folder: epath.PathLike, of: Callable[[str], bool] = lambda name: not name.endswith(INDEX)) -> None:
    """Raises UserError if a listed file is missing or differs from its digest.

    The index of a split is left out: a reader compares it with the manifest, and makes it anew if it is damaged.
    """
    if found := faults(folder, of):
        raise UserError(f"data set '{folder}' is damaged: {found[0]} (`python -m data_prep verify {folder}` finds all)")


def can_be_rewritten(name: str) -> bool:
    """Returns whether `data_prep verify --rewrite` makes a file of this name anew."""
    return name == MANIFEST or name.endswith(INDEX)


def _remedy(name: str) -> str:
    if can_be_rewritten(name):
        return "write it again with --rewrite of `data_prep verify`"
    return f"restore it or rebuild the data set (or delete {SUMS} to take it as it is)"


def _digest(path: epath.Path) -> str:
    return hashlib.sha256(files.read(os.fspath(path))).hexdigest()
