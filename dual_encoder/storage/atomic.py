"""Files that are either complete or not there."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator

from dual_encoder.errors import UserError

_STRETCH = 16 << 20  # bytes


class NewFile:
    """A file that is being written; what the disk refuses becomes a UserError.

    Attributes:
      size: bytes written so far.
    """

    def __init__(self, path: pathlib.Path, temporary: pathlib.Path):
        self._path, self.size, self._sent = path, 0, 0
        with _explained(path):
            self._file = open(temporary, "wb")

    def write(self, data: bytes) -> None:
        """Appends `data`."""
        with _explained(self._path):
            self._file.write(data)
        self.size += len(data)
        if self.size - self._sent >= _STRETCH and hasattr(os, "posix_fadvise"):
            # Linux sends a stretch that is not needed to the disk at once; `sync` then has little to wait for.
            with contextlib.suppress(OSError):  # advice; some file systems take none
                os.posix_fadvise(self._file.fileno(), self._sent, self.size - self._sent, os.POSIX_FADV_DONTNEED)
            self._sent = self.size

    def sync(self) -> None:
        """Returns when the disk holds everything."""
        with _explained(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file, whatever is still in its buffer."""
        with contextlib.suppress(OSError):
            self._file.close()


def write(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path`, as `create` does."""
    with create(path) as file:
        file.write(data)


@contextlib.contextmanager
def create(path: str | os.PathLike) -> Iterator[NewFile]:
    """Opens a new file that appears as `path` when the block ends without an error; an old file stays until then.

    It is written under a temporary name that no other host or process takes, synced, and renamed.

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
        with _explained(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror or error}); name a folder that exists, is writable "
                        "and has space left") from error
