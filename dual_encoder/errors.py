"""The one error type that users see, and how a command ends on it."""

import difflib
import errno
import sys
import traceback
from collections.abc import Callable, Iterable

_HINTS = {  # for errors of the system that no part of the program explains better
    errno.EMFILE: "raise the limit of open files (ulimit -n 65536, docker --ulimit nofile=65536)",
    errno.ENOSPC: "make room there",
    errno.ENOMEM: "give the machine, the container or the job more memory (docker --memory, SLURM --mem)",
}


class UserError(ValueError):
    """A mistake that the user can mend. The message is one line: what was seen, what was expected and what to do.

    Letters of raw data that cannot be printed, such as a line break in a name, are escaped.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    """Returns a text on one line: letters that cannot be printed or encoded become '\\n', '\\x00', '\\ud800'."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns a hint for a misspelt name: "did you mean 'x'?" or the list of valid names."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(choices)}"


def one_line(error: BaseException, limit: int | None = 300) -> str:
    """Returns the message of an error on one line, cut after `limit` characters (None: whole)."""
    return " ".join(str(error).split())[:limit]


def is_device_memory(error: BaseException) -> bool:
    """Returns True for the error that JAX raises when the memory of a device runs out. It does not load JAX."""
    return type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)


def exit_on_user_error(main: Callable[[], None], debug: bool, leave: Callable[[int], None] = sys.exit) -> None:
    """Runs `main`. A mistake, or an error of the system or of a device's memory, gives one line and exit code 2.

    Args:
      main: the command, without arguments.
      debug: True shows the traceback instead, as of any other error, and ends with code 1.
      leave: ends the process with a code.
    """
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        leave(_explain(error, debug))


def _explain(error: BaseException, debug: bool) -> int:
    """Prints the error; returns the exit code."""
    if not debug and is_device_memory(error):
        error = UserError(f"the memory of the device ran out ({one_line(error, 160)}); choose smaller batches or "
                          "images, a smaller model, or another device (JAX_PLATFORMS=cpu takes the processor)")
    if debug or not isinstance(error, UserError | OSError | MemoryError | KeyboardInterrupt):
        traceback.print_exception(error)
        return 1
    if isinstance(error, KeyboardInterrupt):
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    hint = ""
    if not isinstance(error, UserError):
        number = error.errno if isinstance(error, OSError) else errno.ENOMEM
        hint = f"; {_HINTS.get(number or 0, 'mend this')} and run the same command again"
    print(f"error: {one_line(error, None) or 'memory ran out'}{hint}", file=sys.stderr)
    return 2
