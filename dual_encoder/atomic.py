"""Files that are either complete or not there."""

import os
import pathlib

from dual_encoder.errors import UserError


def write(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` under a temporary name, syncs it, and renames it to `path`; an old file stays until then.

    Raises:
      UserError: the folder is missing or not writable, or the disk is full.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror}); name a folder that exists, is writable and has "
                        "space left") from error
    finally:
        temporary.unlink(missing_ok=True)
