"""The flags that all commands have."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from dual_encoder import __version__

VERSION = f"dual_encoder {__version__}"


def make_parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the flags that all commands have: --help, --version and --debug.

    A value that begins with '~' is a path in the home folder. '_' and '-' are alike in the names of flags. A mistake is
    one line and exit code 2.

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
    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None  # type: ignore[override]
                         ) -> Any:
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([_usual(argument) for argument in given], namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _usual(argument: str) -> str:
    """Returns an argument as this parser knows it: --out_dir=~/x becomes --out-dir=/home/me/x. Config keys stay."""
    if not argument.startswith("--"):
        return os.path.expanduser(argument)
    name, equals, value = argument.partition("=")
    return f"{name if name.startswith('--config.') else name.replace('_', '-')}{equals}{os.path.expanduser(value)}"
