"""Reads files of published weights: safetensors, and torch files without executing their code."""

import argparse
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from dual_encoder.errors import UserError, one_line
from dual_encoder.storage import sums

_SAFE, _TORCH = (".safetensors",), (".pt", ".pth", ".ckpt", ".tar", ".bin")
_HASHED = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # torch.hub: the first digits of the sha256 are in the name


class Weights(NamedTuple):
    """The content of a file of weights.

    Attributes:
      path: of the file.
      sha256: of its bytes, hexadecimal.
      tree: key -> array, or another such mapping, as the file nests them. Other values are left out.
    """

    path: pathlib.Path
    sha256: str
    tree: Mapping[str, Any]


def read(path: pathlib.Path) -> Weights:
    """Reads a file of weights, or the one in a folder such as an export.

    The digest is compared with SHA256SUMS beside the file, and with the digits that names of torch.hub end with.

    Raises:
      UserError: no such file, a truncated or altered one, or a pickle that holds more than numbers; torch is needed and
        not installed.
    """
    file = _in_folder(path) if path.is_dir() else path
    if file.suffix not in (*_SAFE, *_TORCH):
        raise UserError(f"'{file}' is no file of weights that can be read; give one that ends in "
                        f"{', '.join((*_SAFE, *_TORCH))}")
    try:
        digest = sums.of_file(file)
    except OSError as error:
        raise UserError(f"'{file}' cannot be read ({error.strerror or error}); give the file of the weights as --from"
                        ) from error
    _check_digest(file, digest)
    return Weights(file, digest, _read_safetensors(file) if file.suffix in _SAFE else _read_torch(file))


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
    found = sorted(file for file in folder.iterdir() if file.suffix in (*_SAFE, *_TORCH))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise UserError(f"'{folder}' holds {len(found)} files of weights ({names}), expected one; give the file itself "
                        "as --from")
    return found[0]


def _check_digest(file: pathlib.Path, digest: str) -> None:
    """Raises UserError if the digest of the file is known and another one."""
    expected, source = "", sums.NAME
    beside = file.with_name(sums.NAME)
    if beside.is_file():
        try:
            expected = sums.of_text(beside.read_bytes()).get(file.name, "")
        except ValueError as error:
            raise UserError(f"'{beside}' is damaged ({error}); restore it or export the encoder again") from error
    elif match := _HASHED.search(file.name):
        expected, source = match[1], "its name"
    if not digest.startswith(expected):
        raise UserError(f"'{file}' has the sha256 {digest[:16]}..., {source} says {expected[:16]}: it is truncated or "
                        "altered; copy or download it again")


def _read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return load(file.read_bytes())
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{file}' cannot be read as safetensors ({one_line(error)}): it is truncated, or of another "
                        "kind; copy or download it again") from error


def _read_torch(file: pathlib.Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise UserError(f"'{file}' is a torch file, and torch is not installed; run `pip install "
                        "'dual_encoder[torch]'`, or convert the file to safetensors") from error
    try:
        # Published checkpoints hold the arguments of their training; a Namespace is a plain record of them.
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types
        reason = one_line(error, None)
        foreign = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", reason)
        if foreign:
            raise UserError(f"'{file}' is no plain state dict: it holds objects of '{foreign[1]}', whose code would "
                            "run; nothing was run. Save model.state_dict() in its place") from error
        raise UserError(f"'{file}' cannot be read as a torch file ({reason[:120]}): it is truncated, or no state dict; "
                        "copy or download it again") from error
    if not isinstance(loaded, Mapping):
        raise UserError(f"'{file}' holds a {type(loaded).__name__}, expected a state dict; save model.state_dict()")
    return _arrays(loaded)


def _arrays(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns the tensors of nested mappings as float32 or integer arrays."""
    import torch

    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found[str(key)] = _arrays(value)
        elif isinstance(value, torch.Tensor):
            found[str(key)] = (value.float() if value.is_floating_point() else value).numpy()
    return found
