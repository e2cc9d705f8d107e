"""The folder of an export: written whole or not at all, never over something else."""

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

from dual_encoder.errors import UserError


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

    Args:
      out: a local folder; made if needed. An earlier export in it is replaced.
      files: name -> content.

    Returns:
      the paths of the files.

    Raises:
      UserError: `out` holds something else, or the disk refuses.
    """
    try:
        # Hidden files may stay: a version control folder, or the leftovers of a killed export.
        if out.is_dir() and not _is_export(out) and any(not path.name.startswith(".") for path in out.iterdir()):
            raise UserError(f"'{out}' holds files of something else; give an empty or new folder as --out")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as aside:
            for name, data in files.items():
                with open(os.path.join(aside, name), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            for name in files:
                os.replace(os.path.join(aside, name), out / name)
    except OSError as error:
        raise UserError(f"cannot write the export to '{out}': {error.strerror}; make room there or give another "
                        "folder as --out") from error
    return [out / name for name in files]


def _is_export(folder: pathlib.Path) -> bool:
    try:
        return "dual_encoder" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
