"""Small text files of raw data: lists, tables and JSON. Damage of any kind is one line."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

from dual_encoder.errors import UserError

_LARGEST = 4 << 30  # bytes; the tile info of MMEarth has 1.5 GB


def read_text(path: pathlib.Path, what: str) -> str:
    """Returns the text of a file in UTF-8, without a byte order mark.

    Args:
      path: the file.
      what: its content in words, as 'the list of the training chips'.

    Raises:
      UserError: missing, unreadable, larger than 4 GiB or no text.
    """
    if not path.is_file():
        raise UserError(f"'{path}' is missing; it is {what}, fetch it with the images")
    if (size := path.stat().st_size) > _LARGEST:
        raise UserError(f"'{path}' has {size / 1e9:.0f} GB; {what} is never so large, fetch it again")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is no text in UTF-8 (byte {error.start}); it is {what}, fetch it again") from error


def read_json(path: pathlib.Path, what: str, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Returns the values of a JSON file; arguments and errors as of `read_text`, and UserError for damaged JSON."""
    text = read_text(path, what)
    try:
        return json.loads(text, object_hook=object_hook)
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' cannot be read as JSON ({error}); it is {what}, fetch it again") from error
