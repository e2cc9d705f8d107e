"""Turns the nested mapping of a config file into frozen dataclasses, and compares such mappings.

Each dataclass is defined in the room that it configures: DataConfig in data/, an objective in losses/, a task in
tasks/. This module reads their type hints:

    Annotated[int, AtLeast(1)]      a bound of the value; AtMost likewise
    Literal["none", "inverse"]      one of several words
    Cosine | Linear                 one of several dataclasses; the field that is a Literal of one word names it
    dict[str, Any]                  keys of another configuration, which are read there
    Annotated[float, Before(0.0)]   runs that were stored before the key existed did the same as with this value
    Annotated[str, IsPath()]        the path of a file or folder, which is stored absolute

Unknown, missing and mistyped keys are errors that name the nearest valid key. A key has no default unless it belongs to
one alternative of several; its default is then the value of the alternative's paper.
"""

import dataclasses
import functools
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, overload

from dual_encoder.errors import UserError, nearest
from dual_encoder.storage import paths

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """The least value that a key may have."""

    value: float


@dataclasses.dataclass(frozen=True)
class AtMost:
    """The largest value that a key may have."""

    value: float


@dataclasses.dataclass(frozen=True)
class Before:
    """The value that describes a run from before the key existed."""

    value: Any


@dataclasses.dataclass(frozen=True)
class IsPath:
    """The value is the path of a file or folder. A run is known by what it read there, not by how a path is spelled.

    Attributes:
      words: values that are no path.
      several: paths joined by ','.
    """

    words: tuple[str, ...] = ()
    several: bool = False

    def stored(self, value: str) -> str:
        """Returns the value as a run stores it; UserError for one folder of several whose path has a ','."""
        if value in self.words:
            return value
        if not self.several:
            return paths.stored(value)
        whole = paths.stored(value)
        parts = [paths.stored(part) for part in value.split(",")]
        if "," in whole and os.path.isdir(whole) or any("," in part for part in parts):
            raise UserError(f"the path '{whole}' has a comma, which joins several data sets; rename the folder, or "
                            "make a link without a comma to it (ln -s) and give that")
        return ",".join(parts)


@overload
def parse(hint: type[T], values: Mapping[str, Any], *, stored: bool = False, name: str = "config") -> T: ...


@overload
def parse(hint: types.UnionType, values: Mapping[str, Any], *, stored: bool = False, name: str = "config") -> Any: ...


def parse(hint: Any, values: Mapping[str, Any], *, stored: bool = False, name: str = "config") -> Any:
    """Turns the nested mapping of a config file into a dataclass.

    A dataclass with a method `check(path)` checks itself: it raises UserError when the values do not fit together.

    Args:
      hint: a dataclass, or a union of dataclasses.
      values: the mapping; tuples may be lists, as JSON has them.
      stored: the mapping was stored with a run, perhaps by an earlier version: keys that did not exist then get the
        value that means the same.
      name: what the values are, for messages.

    Raises:
      UserError: an unknown, missing or mistyped key, or a value that cannot be right.
    """
    return _Reader(stored).group(hint, values, name)


def upgrade(hint: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of a stored run as this version would have stored it.

    A mapping that cannot be read (of another task, or of a later version) is returned as it is.
    """
    try:
        return to_dict(parse(hint, values, stored=True))
    except UserError:
        return dict(values)


def to_dict(config: Any) -> dict[str, Any]:
    """Returns nested plain dictionaries of a dataclass, as config.json and checkpoints hold them."""
    return dataclasses.asdict(config)


def defaults(hint: Any, **values: Any) -> dict[str, Any]:
    """Returns a group of a config file: `values`, and the other keys of all alternatives with their defaults.

    So every key of every alternative can be overridden on the command line.

    Args:
      hint: a union of dataclasses.
      values: keys of the group; they replace defaults.
    """
    group = {}
    for choice in typing.get_args(hint):
        for field in dataclasses.fields(choice):
            if field.default is not dataclasses.MISSING and field.name != _tag(choice):
                group[field.name] = field.default
    return group | values


def key_paths(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns 'a', 'a.b', ... of every key of a nested mapping."""
    paths = []
    for key, value in values.items():
        paths.append(f"{prefix}{key}")
        if isinstance(value, Mapping):
            paths += key_paths(value, f"{prefix}{key}.")
    return paths


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns key path -> (old value, new value) of the leaves that differ between two nested mappings.

    A tuple and the list that JSON makes of it are equal.
    """
    flat_old, flat_new = flatten(old), flatten(new)
    pairs = {key: (flat_old.get(key), flat_new.get(key)) for key in sorted(flat_old | flat_new)}
    return {key: pair for key, pair in pairs.items() if len({json.dumps(value) for value in pair}) > 1}


def flatten(values: Mapping[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dictionaries, named by their path: 'a.b' -> leaf.

    Args:
      values: nested dictionaries; all else is a leaf.
      separator: between the keys of a path.
      prefix: goes before every name.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, separator, f"{prefix}{name}{separator}")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def require(holds: bool, path: str, seen: Any, expected: str) -> None:
    """Raises UserError "`path` is `seen`; expected `expected`" unless `holds`."""
    if not holds:
        raise UserError(f"{path} is {seen!r}; expected {expected}")


class _Reader:
    """Reads values by type hints; `stored` is that of `parse`."""

    def __init__(self, stored: bool):
        self._stored = stored

    def group(self, hint: Any, values: Any, path: str) -> Any:
        """Returns the dataclass of a group of keys."""
        if not isinstance(values, Mapping):
            raise UserError(f"{path} is {values!r}; expected a group of keys")
        cls, known = (hint, hints(hint)) if isinstance(hint, type) else self._alternative(hint, values, path)
        for key in values:
            if key not in known:
                raise UserError(f"unknown config key '{path}.{key}'; {nearest(key, known)}")
        config = cls(**{key: self._field(cls, key, values, path) for key in hints(cls)})
        if hasattr(config, "check"):
            config.check(path)
        return config

    def _alternative(self, hint: Any, values: Mapping[str, Any], path: str) -> tuple[type, dict[str, Any]]:
        """Returns the dataclass that the group names, and the keys of all of them."""
        tag = _tag(typing.get_args(hint)[0])
        choices = {word(choice): choice for choice in typing.get_args(hint)}
        name = values.get(tag)
        if name not in choices:
            raise UserError(f"{path}.{tag} is {name!r}; {nearest(str(name), choices)}")
        if path == "config":  # a task: its keys are its own
            return choices[name], hints(choices[name])
        known: dict[str, Any] = {}
        for choice in choices.values():
            known |= hints(choice)
        return choices[name], known

    def _field(self, cls: type, key: str, values: Mapping[str, Any], path: str) -> Any:
        hint = hints(cls)[key]
        marks: tuple[Any, ...] = ()
        if typing.get_origin(hint) is Annotated:
            hint, marks = typing.get_args(hint)[0], typing.get_args(hint)[1:]
        default = {field.name: field.default for field in dataclasses.fields(cls)}[key]
        before = next((mark.value for mark in marks if isinstance(mark, Before)), default)
        value = values.get(key, before if self._stored else default)
        if value is dataclasses.MISSING:
            raise UserError(f"config key '{path}.{key}' is missing; add it to the config file")
        value = self._value(hint, value, f"{path}.{key}")
        for mark in marks:
            if isinstance(mark, AtLeast):
                require(value >= mark.value, f"{path}.{key}", value, f"at least {mark.value}")
            if isinstance(mark, AtMost):
                require(value <= mark.value, f"{path}.{key}", value, f"at most {mark.value}")
            if isinstance(mark, IsPath):
                value = mark.stored(value)
        return value

    def _value(self, hint: Any, value: Any, path: str) -> Any:
        if dataclasses.is_dataclass(hint) or isinstance(hint, types.UnionType):
            return self.group(hint, value, path)
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
            if value not in choices:
                raise UserError(f"{path} is {value!r}; {nearest(str(value), choices)}")
            return value
        if typing.get_origin(hint) is tuple:
            if not isinstance(value, (list, tuple)):
                raise UserError(f"{path} is {value!r}; expected values in parentheses, or ()")
            return tuple(self._value(typing.get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
        if typing.get_origin(hint) is dict:  # the keys of another configuration, which reads them
            if not isinstance(value, Mapping):
                raise UserError(f"{path} is {value!r}; expected a group of keys")
            return dict(value)
        if hint is float and type(value) is int:
            return float(value)
        if type(value) is not hint:
            raise UserError(f"{path} is {value!r} ({type(value).__name__}); expected {hint.__name__}")
        require(hint is not float or math.isfinite(value), path, value, "a finite number")
        return value


@functools.cache
def hints(cls: Any) -> dict[str, Any]:
    """Returns field -> type hint, with its marks, of a dataclass."""
    found = typing.get_type_hints(cls, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


def word(cls: type) -> str:
    """Returns the word that names an alternative of several dataclasses, such as 'resnet'."""
    return typing.get_args(hints(cls)[_tag(cls)])[0]


def _tag(cls: type) -> str:
    """Returns the field that names an alternative: in each of them it is a Literal of one word."""
    tags = [key for key, of in hints(cls).items()
            if typing.get_origin(of) is Literal and len(typing.get_args(of)) == 1]
    assert len(tags) == 1, f"{cls}: {tags}"
    return tags[0]
