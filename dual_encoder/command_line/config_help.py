"""The help on configurations: which files, variants and keys there are. The texts are those of the dataclasses."""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from dual_encoder.command_line.config_file import folder
from dual_encoder.config import AtLeast, AtMost, IsPath, hints, word

_ENTRY = re.compile(r"^      ([a-z_0-9, ]+): ")


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of a configuration.

    Attributes:
      path: such as 'loss.temperature'; of a group, the name of the group.
      kind: what values it takes, in words; '' for a group.
      value: of the configuration file; None for a group.
      text: what the key means.
      of: the alternatives that have the key, if not all of them do; '' = all.
    """

    path: str
    kind: str
    value: Any
    text: str
    of: str = ""


def keys(hint: Any, values: Mapping[str, Any], prefix: str = "") -> Iterator[Key]:
    """Yields the keys of a configuration by name, those of a group after all others.

    Args:
      hint: the dataclass of the values, or a union of dataclasses.
      values: nested, as `load_config` returns them.
      prefix: goes before every path.
    """
    choices = _choices(hint)
    if not prefix and len(choices) > 1:  # a task: its keys are its own
        choices = [choice for choice in choices if word(choice) == values.get("task")]
    for name, value in sorted(values.items(), key=lambda item: isinstance(item[1], Mapping)):
        having = [choice for choice in choices if name in hints(choice)]
        if not having:
            continue  # `parse` refuses it
        key_hint = hints(having[0])[name]
        kinds = dict.fromkeys(_kind(hints(choice)[name]) for choice in having)
        of = "" if len(having) == len(choices) else ", ".join(word(choice) for choice in having)
        if isinstance(value, Mapping) and typing.get_origin(key_hint) is not dict:
            yield Key(f"{prefix}{name}", "", None, _summary(_bare(key_hint)), of)
            yield from keys(_bare(key_hint), value, f"{prefix}{name}.")
        else:
            texts = dict.fromkeys(text for choice in having if (text := _texts(choice).get(name)))
            yield Key(f"{prefix}{name}", " or ".join(kinds), value, " / ".join(texts), of)


def lines(hint: Any, values: Mapping[str, Any], width: int = 118) -> Iterator[str]:
    """Yields the keys as text for a terminal: --config.KEY=VALUE (kind), and under it what the key means."""
    for key in keys(hint, values):
        if not key.kind:
            yield ""
            yield from textwrap.wrap(f"{key.path}: {key.text}" if key.text else key.path, width)
            continue
        yield f"  --config.{key.path}={_shown(key.value)}  ({key.kind}{f'; {key.of}' if key.of else ''})"
        yield from textwrap.wrap(key.text, width, initial_indent="      ", subsequent_indent="      ")


def files() -> Iterator[str]:
    """Yields a line for each configuration file that comes with the code, and one for its variants."""
    for path in sorted(folder().glob("[a-z]*.py")):
        tree = ast.parse(path.read_text())
        yield f"  configs/{path.name:14s} {(ast.get_docstring(tree) or '').splitlines()[0]}"
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "VARIANTS":
                yield f"{'':25s}variants: {', '.join(ast.literal_eval(node.value))}"


def _choices(hint: Any) -> list[type]:
    """Returns the dataclasses of a union; of a dataclass, itself."""
    return [choice for choice in typing.get_args(hint) or (hint,)
            if isinstance(choice, type) and dataclasses.is_dataclass(choice)]


def _kind(hint: Any) -> str:
    """Returns what values a type hint takes, in words."""
    if typing.get_origin(hint) is Annotated:
        inner, *marks = typing.get_args(hint)
        bounds = [f"at least {mark.value}" for mark in marks if isinstance(mark, AtLeast)]
        bounds += [f"at most {mark.value}" for mark in marks if isinstance(mark, AtMost)]
        paths = [mark for mark in marks if isinstance(mark, IsPath)]
        kind = " or ".join([*paths[0].words, "a path"]) if paths else _kind(inner)
        return ", ".join([kind, *bounds])
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"several: {_kind(typing.get_args(hint)[0])}"
    return {str: "text", int: "integer", float: "number", bool: "True or False"}.get(hint, "group")


def _summary(hint: Any) -> str:
    """Returns the first sentence of a dataclass's docstring; of several, those of all, each after its word."""
    choices = _choices(hint)
    first = [(inspect.getdoc(choice) or "").split("\n\n")[0].replace("\n", " ").strip() for choice in choices]
    if len(choices) == 1:
        return first[0]
    return " ".join(f"{word(choice)}: {text}" for choice, text in zip(choices, first, strict=True))


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, tuple | list) or value == "" else str(value)


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _texts(choice: type) -> dict[str, str]:
    """Returns key -> its text in the 'Attributes:' of a dataclass and of those that it extends."""
    texts: dict[str, str] = {}
    for cls in reversed(choice.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        names: list[str] = []
        for line in textwrap.indent(textwrap.dedent(section), "      ").splitlines():
            if match := _ENTRY.match(line):
                names = match[1].replace(" ", "").split(",")
                texts |= dict.fromkeys(names, line[match.end():])
            elif line.strip():
                texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts
