"""Says that a program is being compiled: it takes seconds to minutes, in which nothing else is printed."""

import contextlib
import time
from collections.abc import Callable, Iterator

from jaxlib import utils

_FATAL, _WARNING = 3, 1  # of the log of XLA, which is C++; the second is the usual level
_LONG = 5.0  # seconds that are worth a line


@contextlib.contextmanager
def compiling(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Prints a line before, and one after if it took long. XLA's own alarm about slow compilations is not shown.

    Args:
      what: is compiled, such as 'the training step'.
      say: prints a line.
    """
    say(f"compiling {what}: seconds to some minutes, and less with the compilation cache")
    began = time.perf_counter()
    utils.absl_set_min_log_level(_FATAL)
    try:
        yield
    finally:
        utils.absl_set_min_log_level(_WARNING)
    if (seconds := time.perf_counter() - began) > _LONG:
        say(f"compiled {what} in {seconds:.0f} s")
