"""The one error type that users see, and how a command ends on it."""

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """A mistake that the user can mend: one line with what was seen, what was expected and what to do next."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns a hint for a misspelt name: "did you mean 'x'?" or the list of valid names."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(choices)}"


def exit_on_user_error(main: Callable[[], None], debug: bool, leave: Callable[[int], None] = sys.exit) -> None:
    """Runs `main`; a UserError, or what the operating system refuses, ends the process with code 2 and one line.

    Args:
      main: the command, without arguments.
      debug: True lets the traceback through.
      leave: ends the process with a code.
    """
    try:
        main()
    except (UserError, OSError) as error:
        if debug:
            raise
        hint = "" if isinstance(error, UserError) else "; mend this and run the same command again"
        print(f"error: {' '.join(str(error).split())}{hint}", file=sys.stderr)
        leave(2)
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted; run the same command again to go on", file=sys.stderr)
        leave(130)
