"""Reading by path: folders on disk, and buckets (gs://, s3://, az://) through fsspec.

Every path of a data set goes through here. `etils.epath` only spells paths: its bucket I/O imports TensorFlow wherever
TensorFlow is installed, and training never does. gs:// needs the package gcsfs, s3:// needs s3fs, az:// needs adlfs.
"""

import contextlib
import os
import posixpath
import weakref
from collections.abc import Iterator, Sequence
from typing import Protocol

import fsspec
from etils import epath

from dual_encoder.errors import UserError, one_line


class Ranges(Protocol):
    """An open file that is read by position; safe to share between threads."""

    size: int  # bytes, when it was opened

    def read(self, offset: int, length: int) -> bytes:
        """Returns the bytes at `offset`; fewer than `length` where the file ends."""

    def read_into(self, offset: int, buffers: Sequence) -> int:
        """Fills writable buffers, one after the other, with the bytes at `offset`; returns how many there were."""


def read(path: epath.PathLike) -> bytes:
    """Returns the whole file; FileNotFoundError when it is missing, UserError when a bucket refuses."""
    with _explained(path):
        system, name = fsspec.core.url_to_fs(os.fspath(path))
        return system.cat_file(name)


def exists(path: epath.PathLike) -> bool:
    """Returns whether a file or folder `path` exists; UserError when a bucket refuses."""
    with _explained(path):
        system, name = fsspec.core.url_to_fs(os.fspath(path))
        return system.exists(name)


def sizes(folder: epath.PathLike) -> dict[str, int]:
    """Returns file name -> bytes of the files and links in `folder`, from one listing (buckets charge per question).

    Raises:
      FileNotFoundError: no such folder.
      UserError: the bucket refuses.
    """
    with _explained(folder):
        system, name = fsspec.core.url_to_fs(os.fspath(folder))
        entries = system.ls(name, detail=True)
        return {posixpath.basename(entry["name"]): entry["size"] for entry in entries if entry["type"] != "directory"}


def find(folder: epath.PathLike, pattern: str) -> list[str]:
    """Returns the paths below `folder` that match `pattern` ('*/*/manifest.json'), sorted."""
    with _explained(folder):
        system, name = fsspec.core.url_to_fs(os.fspath(folder))
        below = (posixpath.relpath(found, name) for found in system.glob(posixpath.join(name, pattern)))
        return sorted(posixpath.join(os.fspath(folder), found) for found in below)


def open_ranges(path: epath.PathLike) -> Ranges:
    """Opens a file for reading by position: `pread` on a disk, range requests in a bucket.

    Raises:
      FileNotFoundError: no such file.
      UserError: the bucket refuses.
    """
    return _BucketFile(path) if _is_bucket(path) else _LocalFile(path)


class _LocalFile:
    """Closed with its last reference, so a cache may drop one that another thread is reading."""

    def __init__(self, path: epath.PathLike):
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def read_into(self, offset: int, buffers: Sequence) -> int:
        return os.preadv(self._descriptor, buffers, offset)


class _BucketFile:
    def __init__(self, path: epath.PathLike):
        self._path = path
        with _explained(path):
            self._system, self._name = fsspec.core.url_to_fs(os.fspath(path))
            self.size = self._system.size(self._name)

    def read(self, offset: int, length: int) -> bytes:
        with _explained(self._path):
            return self._system.cat_file(self._name, start=offset, end=min(offset + length, self.size))

    def read_into(self, offset: int, buffers: Sequence) -> int:
        data = memoryview(self.read(offset, sum(len(buffer) for buffer in buffers)))
        at = 0
        for buffer in buffers:
            piece = data[at:at + len(buffer)]
            memoryview(buffer)[:len(piece)] = piece
            at += len(buffer)
        return len(data)


def _is_bucket(path: epath.PathLike) -> bool:
    return "://" in os.fspath(path)


@contextlib.contextmanager
def _explained(path: epath.PathLike) -> Iterator[None]:
    """Turns what a bucket's library raises into one line; a missing file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # each library has its own: credentials, permissions, network, not installed
        if not _is_bucket(path):
            raise
        raise UserError(f"'{os.fspath(path)}' cannot be read ({type(error).__name__}: {one_line(error)}); check the "
                        "name, the credentials and the network, or copy the folder to a disk") from error
