"""The flags that all commands have."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from dual_encoder import __version__

VERSION = f"dual_encoder {__version__}"


def make_parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the flags that all commands have: --help, --version and --debug.

    Args:
      module: that `python -m` runs.
      text: what the command does, as its docstring says it.
    """
    made = _Parser(prog=f"python -m {module}", description=text, allow_abbrev=False,
                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--version", action="version", version=VERSION)
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


class _Parser(argparse.ArgumentParser):
    """A parser that gives one line for a mistake, without its usage, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def dashed(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with '-' in place of '_' in the names of flags: --data_dir=x_y becomes --data-dir=x_y."""
    parts = [argument.partition("=") for argument in arguments]
    return [name.replace("_", "-") + equals + value if name.startswith("--") else name + equals + value
            for name, equals, value in parts]
