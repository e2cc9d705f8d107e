"""Checks that all sections of geotiff.json have in common. Faults are collected, to tell all of them at once."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from dual_encoder.errors import nearest


def check_keys(said: Mapping[str, Any], section: str, known: Collection[str], faults: list[str]) -> None:
    """Adds a fault for each unknown key of a section, '' = the whole description."""
    for key in said:
        if key not in known:
            faults.append(f"it has an unknown key {shown(f'{section}.' * bool(section) + key)}; {nearest(key, known)}")


def files(said: Mapping[str, Any], section: str, example: str, faults: list[str]) -> str:
    """Returns 'files' of a section, '' if it is absent or a fault; `example` is one that is right."""
    pattern = said.get("files", "")
    if not isinstance(pattern, str) or pathlib.PurePath(pattern).is_absolute() or ("files" in said and not pattern):
        faults.append(f"{section}.files is {shown(pattern)}, expected a text relative to the folder of that file, "
                      f"such as '{example}'")
        return ""
    return pattern


def shown(value: Any) -> str:
    """Returns a value of the description for a message, at most 80 letters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."
