"""Files that are either complete or not there."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO

from dual_encoder.errors import UserError


def write(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path`, as `create` does."""
    with create(path) as file:
        file.write(data)


@contextlib.contextmanager
def create(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a new file that appears as `path` when the block ends without an error; an old file stays until then.

    It is written under a temporary name, synced, and renamed.

    Raises:
      UserError: the folder is missing or not writable, or the disk is full.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror or error}); name a folder that exists, is writable "
                        "and has space left") from error
    finally:
        temporary.unlink(missing_ok=True)
