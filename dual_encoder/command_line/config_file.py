"""--config=FILE.py[:VARIANT] and overrides --config.KEY=VALUE; a wrong file, key, value or flag is one line."""

import importlib.util
import pathlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from absl import flags

import dual_encoder
from dual_encoder.config import key_paths, to_dict
from dual_encoder.errors import UserError, nearest


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
    file = named(arguments)
    if not file:
        raise UserError("--config=FILE is missing; give for example --config=configs/pretrain.py:smoke")
    keys, overridden = key_paths(load_config(file)), []  # ml_collections reports a wrong key as a traceback
    for argument in arguments[1:]:
        key = argument.split("=")[0].removeprefix("--config.")
        if argument.startswith("--config."):
            if key not in keys:
                raise UserError(f"unknown config key 'config.{key}'; {nearest(key, keys)}")
            overridden.append(key)
    given = [f"--config={_find(argument[9:])}" if argument.startswith("--config=") else argument
             for argument in arguments]
    try:
        unused = flag_values(given)[1:]
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    if unused:
        raise UserError(f"'{unused[0]}' is not a flag; flags look like --workdir=DIR or --config.batch_size=64")
    return overridden


def named(arguments: Sequence[str]) -> str:
    """Returns FILE.py[:VARIANT] of the last --config=, or ''."""
    files = [argument.split("=", 1)[1] for argument in arguments[1:] if argument.startswith("--config=")]
    return files[-1] if files else ""


def load_config(file: str, flag: str = "--config") -> dict[str, Any]:
    """Returns the values of a configuration file.

    Args:
      file: FILE.py or FILE.py:VARIANT, with a function `get_config`.
      flag: that named it, for messages.

    Raises:
      UserError: there is no such file or variant, or it cannot be run.
    """
    variant = file.partition(":")[2]
    module = load_module(file, flag)
    try:
        return module.get_config(*([variant] if variant else [])).to_dict()
    except Exception as error:
        raise _cannot_load(file, flag, error) from error


def load_module(file: str, flag: str = "--config") -> ModuleType:
    """Returns the Python module of a configuration file; as `load_config`."""
    spec = importlib.util.spec_from_file_location("config_file", _find(file).partition(":")[0])
    if spec is None or spec.loader is None:
        raise UserError(f"{flag}={file} is not a Python file; give FILE.py or FILE.py:VARIANT, as in configs/")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _cannot_load(file, flag, error) from error
    return module


def folder() -> pathlib.Path:
    """Returns the folder of the configurations that come with the code: in a checkout, or in an installed package."""
    package = pathlib.Path(dual_encoder.__file__).parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def _find(file: str) -> str:
    """Returns FILE.py[:VARIANT] with the path of the file: configs/... is one of ours if there is none such here."""
    path, colon, variant = file.partition(":")
    found = pathlib.Path(path).expanduser()
    if not found.exists() and found.parts[:1] == ("configs",) and (folder() / found.name).exists():
        found = folder() / found.name
    return f"{found}{colon}{variant}"


def _cannot_load(file: str, flag: str, error: Exception) -> UserError:
    return UserError(f"{flag}={file} cannot be loaded: {error}; give FILE.py or FILE.py:VARIANT, as in configs/")


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
