"""Paths as a user gives them, by a flag or a config key."""

import os
import pathlib

from etils import epath


def local(text: str) -> pathlib.Path:
    """Returns the path of a flag: '~' is the home folder."""
    return pathlib.Path(text).expanduser()


def anywhere(text: str) -> epath.Path:
    """Returns the path of a flag that may name a bucket, too."""
    return epath.Path(text if "://" in text else local(text))


def stored(text: str) -> str:
    """Returns a path in the form in which a run stores it: absolute, so that it is right in every working folder.

    '~' is the home folder; symbolic links stay as they are. '' and the path of a bucket (gs://...) are returned as they
    are.

    >>> stored("/data/pairs/"), stored("gs://bucket/pairs")
    ('/data/pairs', 'gs://bucket/pairs')
    """
    if not text or "://" in text:
        return text
    return os.path.abspath(os.path.expanduser(text))


def same(one: epath.PathLike, other: epath.PathLike) -> bool:
    """Returns whether two paths name one file or folder, also through symbolic links; it need not exist."""
    return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))
