"""Writes files that are either complete or absent."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator

from dual_encoder.errors import UserError

_CHUNK = 16 << 20  # bytes that are sent to the disk at a time


class NewFile:
    """A file that is being written. An error of the disk becomes a UserError.

    Attributes:
      size: bytes written so far.
    """

    def __init__(self, path: pathlib.Path, temporary: pathlib.Path):
        self._path, self.size, self._sent = path, 0, 0
        with explained(path):
            self._file = open(temporary, "wb")

    def write(self, data: bytes) -> None:
        """Appends `data`."""
        with explained(self._path):
            self._file.write(data)
        self.size += len(data)
        if self.size - self._sent >= _CHUNK and hasattr(os, "posix_fadvise"):
            # This makes Linux send the new bytes to the disk at once, so that `sync` waits for few bytes only.
            with contextlib.suppress(OSError):  # it is advice, which some file systems do not accept
                os.posix_fadvise(self._file.fileno(), self._sent, self.size - self._sent, os.POSIX_FADV_DONTNEED)
            self._sent = self.size

    def sync(self) -> None:
        """Waits until the disk holds all bytes."""
        with explained(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file, even if the last bytes cannot be written."""
        with contextlib.suppress(OSError):
            self._file.close()


def write(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path`, as `create` does."""
    with create(path) as file:
        file.write(data)


@contextlib.contextmanager
def create(path: str | os.PathLike) -> Iterator[NewFile]:
    """Opens a new file that appears as `path` when the block ends without an error. An old file stays until then.

    The file is written under a temporary name that no other host or process uses, synced, and renamed.

    Raises:
      UserError: the folder is missing or not writable, or the disk is full.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        file = NewFile(path, temporary)
        try:
            yield file
            file.sync()
        finally:
            file.close()
        with explained(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns an OSError into a UserError of one line: writing to an open file raises errors that name no path."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write '{os.fspath(path)}' ({error.strerror or error}); name a folder that exists, is "
                        "writable and has free space") from error
