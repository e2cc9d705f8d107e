"""The folder of an export: written whole or not at all, never over something else, with digests of its files."""

import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

from dual_encoder.errors import UserError
from dual_encoder.storage import sums


class Exported(NamedTuple):
    """What an export format returns.

    Attributes:
      paths: the files.
      note: a line for the person who exports; '' when there is nothing to say.
    """

    paths: list[pathlib.Path]
    note: str


def write_folder(out: pathlib.Path, files: Mapping[str, bytes]) -> list[pathlib.Path]:
    """Writes an export: every file aside before the first is put in place, so a full disk leaves an earlier one alone.

    SHA256SUMS is written in addition, with the digest of each file.

    Args:
      out: a local folder; made if needed. An earlier export in it is replaced.
      files: name, with '/' for folders -> content.

    Returns:
      the paths of all files.

    Raises:
      UserError: `out` holds something else, or the disk refuses.
    """
    try:
        # Hidden files may stay: a version control folder, or the leftovers of a killed export.
        if out.is_dir() and not _is_export(out) and any(not path.name.startswith(".") for path in out.iterdir()):
            raise UserError(f"'{out}' holds files of something else; give an empty or new folder as --out")
        out.mkdir(parents=True, exist_ok=True)
        earlier = _files_of(out)
        with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as aside:
            digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
            written = {**files, sums.NAME: sums.to_text(digests)}
            for name, data in written.items():
                path = pathlib.Path(aside, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            for name in written:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(os.path.join(aside, name), out / name)
        for name in earlier - written.keys():
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the export to '{out}': {error.strerror or error}; make room there or give "
                        "another folder as --out") from error
    return [out / name for name in written]


def check(folder: str | os.PathLike) -> list[str]:
    """Compares the files of an export with their digests.

    Returns:
      the names of the files, all sound.

    Raises:
      UserError: there are no digests, or a file is missing or differs from its digest.
    """
    folder = pathlib.Path(folder)
    try:
        digests = sums.of_text((folder / sums.NAME).read_bytes())
    except OSError as error:
        raise UserError(f"'{folder}' holds no {sums.NAME} that can be read ({error.strerror or error}): it is no "
                        "export, or one of an earlier version; export the encoder again") from error
    except ValueError as error:
        raise UserError(f"'{folder / sums.NAME}' is damaged ({error}); restore it or export the encoder again"
                        ) from error
    damaged = [f"{name} cannot be read ({error.strerror or error})" if error else f"{name} does not match its digest"
               for name, error in sums.differing(digests, lambda name: sums.of_file(folder / name))]
    if damaged:
        raise UserError(f"'{folder}' is damaged: {', '.join(damaged)}; one of the files, or {sums.NAME}, is not as it "
                        "was exported: restore them or export the encoder again")
    return sorted(digests)


def _is_export(folder: pathlib.Path) -> bool:
    for name in ("card.json", "config.json"):  # earlier versions wrote no card.json
        try:
            if "dual_encoder" in json.loads((folder / name).read_text()):
                return True
        except (OSError, ValueError):
            continue
    return False


def _files_of(folder: pathlib.Path) -> set[str]:
    """Returns the names of the files of the export in a folder, of those that lie in the folder itself or below it."""
    try:
        names = sums.of_text((folder / sums.NAME).read_bytes())
    except (OSError, ValueError):
        return set()
    return {name for name in names if (folder / name).resolve().is_relative_to(folder.resolve())}
