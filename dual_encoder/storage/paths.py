"""Paths as a user gives them, by a flag or a config key."""

import os

from etils import epath


def given(text: str) -> epath.Path:
    """Returns a path that a user gave: '~' is the home folder; it may be in a bucket (gs://...)."""
    return epath.Path(text if "://" in text else os.path.expanduser(text))


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
