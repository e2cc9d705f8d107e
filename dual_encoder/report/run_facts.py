"""The facts of run.json by their types: a file that was damaged or edited may hold anything."""

from collections.abc import Mapping
from typing import Any

_TEXT, _NUMBER, _OBJECT, _LIST = "text", "a number", "an object", "a list"
_TYPES: Mapping[str, type | tuple[type, ...]] = {_TEXT: str, _NUMBER: (int, float), _OBJECT: dict, _LIST: list}
_RUN = {"task": _TEXT, "command": _TEXT, "started": _TEXT, "parameters": _NUMBER, "devices": _OBJECT,
        "versions": _OBJECT, "sensors": _OBJECT, "dataset": _OBJECT}
_DATASET = {"name": _TEXT, "config": _TEXT, "version": _TEXT, "fingerprint": _TEXT, "records": _OBJECT,
            "source": _OBJECT, "classes": _LIST, "tensors": _OBJECT, "sensors": _OBJECT}
_DEVICES = {"platform": _TEXT, "count": _NUMBER, "kind": _TEXT}


def well_formed(run: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Returns the facts of a run without values of a wrong type.

    Args:
      run: content of run.json.
      problems: a line for each value that is left out is added to it.
    """
    kept = _kept(run, _RUN, "", problems)
    for group, types in (("dataset", _DATASET), ("devices", _DEVICES)):
        if group in kept:
            kept[group] = _kept(kept[group], types, f"{group}.", problems)
    return kept


def _kept(values: Mapping[str, Any], types: Mapping[str, str], where: str, problems: list[str]) -> dict[str, Any]:
    wrong = {key for key, kind in types.items() if key in values and not isinstance(values[key], _TYPES[kind])}
    problems += [f"run.json: {where}{key} is {ascii(values[key])[:60]}, expected {types[key]}" for key in sorted(wrong)]
    return {key: value for key, value in values.items() if key not in wrong}
