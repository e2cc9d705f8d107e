"""One process at a time: a lock of the kernel, which goes with the process that holds it, however it ends."""

import fcntl
from typing import IO


def take(file: IO) -> bool:
    """Locks an open file for this process until it is closed; False when another one has it.

    A file system without locks gives none and stops nobody: True.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
