"""The flags of all commands: what they have in common, and --config=FILE.py[:VARIANT] with --config.KEY=VALUE.

A wrong file, key, value or flag is one line.
"""

import argparse
import importlib.util
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import flags

from dual_encoder import __version__
from dual_encoder.config import key_paths, to_dict
from dual_encoder.errors import UserError, nearest

VERSION = f"dual_encoder {__version__}"


def parser(module: str, text: str | None) -> argparse.ArgumentParser:
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


def parse_flags(arguments: Sequence[str], flag_values: flags.FlagValues) -> list[str]:
    """Parses a command line into `flag_values`, which has a config-file flag 'config'.

    Args:
      arguments: the name of the program, then the arguments of the user.
      flag_values: the declared flags.

    Returns:
      the key paths that the user overrides, such as 'loss.name'.

    Raises:
      UserError: a wrong flag, file or override.
    """
    files = [argument.split("=", 1)[1] for argument in arguments[1:] if argument.startswith("--config=")]
    if not files:
        raise UserError("--config=FILE is missing; give for example --config=configs/pretrain.py:smoke")
    keys, overridden = key_paths(load_config(files[-1])), []  # ml_collections reports a wrong key as a traceback
    for argument in arguments[1:]:
        key = argument.split("=")[0].removeprefix("--config.")
        if argument.startswith("--config."):
            if key not in keys:
                raise UserError(f"unknown config key 'config.{key}'; {nearest(key, keys)}")
            overridden.append(key)
    try:
        unused = flag_values(list(arguments))[1:]
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    if unused:
        raise UserError(f"'{unused[0]}' is not a flag; flags look like --workdir=DIR or --config.batch_size=64")
    return overridden


def load_config(file: str, flag: str = "--config") -> dict[str, Any]:
    """Returns the values of a configuration file.

    Args:
      file: FILE.py or FILE.py:VARIANT, with a function `get_config`.
      flag: that named it, for messages.

    Raises:
      UserError: there is no such file or variant, or it cannot be run.
    """
    path, _, variant = file.partition(":")
    spec = importlib.util.spec_from_file_location("config_file", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{flag}={file} is not a Python file; give FILE.py or FILE.py:VARIANT, as in configs/")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_config(*([variant] if variant else [])).to_dict()
    except Exception as error:
        raise UserError(f"{flag}={file} cannot be loaded: {error}; give FILE.py or FILE.py:VARIANT, as in configs/"
                        ) from error


def reject_unused(overridden: Sequence[str], config: Any) -> None:
    """Raises UserError when a key that the user gave has no effect, as the temperature of an objective without one.

    Args:
      overridden: key paths, as `parse_flags` returns them.
      config: the dataclass that was made of all values.
    """
    keys = key_paths(to_dict(config))
    for key in overridden:
        if key not in keys:
            group = key.rpartition(".")[0]
            used = sorted(k.removeprefix(f"{group}.") for k in keys if k.rpartition(".")[0] == group)
            raise UserError(f"--config.{key} has no effect: config.{group} uses {', '.join(used)} as it is configured; "
                            "leave it out, or choose another alternative")
