"""Lets one process at a time hold a file: a lock of the kernel, which is released whenever its process ends."""

import fcntl
from typing import IO


def take(file: IO) -> bool:
    """Locks an open file for this process until the file is closed.

    Returns:
      False if another process holds the lock; otherwise True, also on a file system that has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
