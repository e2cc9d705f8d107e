"""One rule for every name that raw data give: of splits, records and places, and of files to read.

Text of raw data is never part of a path that is written, apart from names of splits, which pass through here.
"""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

_LONGEST = 500  # letters of an id or a place
_SPLIT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
# The names that TFDS and everyone else use, by those that people write.
_USUAL = {"train": "train", "training": "train", "trn": "train",
          "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
          "test": "test", "testing": "test", "tst": "test"}


def split_name(text: str) -> str:
    """Returns the name of a split as it is stored: 'VAL' and 'valid' are 'validation', ' Train' is 'train'.

    Raises:
      ValueError: a name that TFDS cannot load or that means nothing; the message says what is expected.
    """
    name = _USUAL.get(text.strip().lower(), text.strip())
    if not _SPLIT.fullmatch(name) or name.lower() in ("all", "nan", "none", "null"):
        raise ValueError(f"split is {shown(text)}, expected at most 64 letters, digits and '_', such as train")
    return name


def fault(text: str) -> str:
    """Returns why an id or the name of a place cannot be stored; '' if it can."""
    if not text:
        return "is empty"
    if len(text) > _LONGEST:
        return f"has {len(text)} letters ({shown(text)}), expected at most {_LONGEST}"
    if not text.isprintable():  # also of a half of a surrogate pair, which UTF-8 cannot store
        return f"is {shown(text)}, which holds a letter that cannot be printed"
    return ""


def leaves(where: Mapping[str, Any]) -> str:
    """Returns the first path of an entry that leads out of the raw folder; '' if none does.

    Args:
      where: as in `Entry`: texts are paths relative to the raw folder, or other words.
    """
    return next((text for text in _texts(where) if pathlib.PurePosixPath(text).is_absolute() or "\0" in text
                 or ".." in re.split(r"[/\\]", text)), "")


def shown(text: str) -> str:
    """Returns a text for a message: on one line, at most 60 letters."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
