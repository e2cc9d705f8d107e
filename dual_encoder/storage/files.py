"""Reads files by path: from disks, and from buckets (gs://, s3://, az://) through fsspec.

All reading of a data set uses this module. `etils.epath` is used for path names only: its bucket I/O imports TensorFlow
if TensorFlow is installed, and training must not import it. gs:// needs the package gcsfs, s3:// needs s3fs, az://
needs adlfs.
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
    """An open file that is read by position. Several threads may share it.

    Attributes:
      size: bytes, when it was opened.
    """

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Returns `length` bytes from `offset` on; fewer if the file ends before."""

    def read_into(self, offset: int, buffers: Sequence) -> int:
        """Fills writable buffers one after the other with the bytes from `offset` on; returns the number of bytes."""


def read(path: epath.PathLike) -> bytes:
    """Returns the whole file; FileNotFoundError if it is missing, UserError if a bucket refuses."""
    with _explained(path):
        system, name = fsspec.core.url_to_fs(os.fspath(path))
        return system.cat_file(name)


def exists(path: epath.PathLike) -> bool:
    """Returns whether a file or folder `path` exists; UserError if a bucket refuses."""
    with _explained(path):
        system, name = fsspec.core.url_to_fs(os.fspath(path))
        return system.exists(name)


def sizes(folder: epath.PathLike) -> dict[str, int]:
    """Returns file name -> bytes of the files and links in `folder`, from one listing (buckets charge per request).

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
    """A file on a disk.

    It is closed when its last reference is gone, so a cache may drop it while another thread is reading.
    """

    def __init__(self, path: epath.PathLike):
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def read_into(self, offset: int, buffers: Sequence) -> int:
        return os.preadv(self._descriptor, buffers, offset)


class _BucketFile:
    """A file in a bucket, read by range requests."""

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
    """Turns an error of a bucket's library into a UserError of one line; a missing file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # every library raises its own: credentials, permissions, network, not installed
        if not _is_bucket(path):
            raise
        raise UserError(f"'{os.fspath(path)}' cannot be read ({type(error).__name__}: {one_line(error)}); check the "
                        "name, the credentials and the network, or copy the folder to a disk") from error
