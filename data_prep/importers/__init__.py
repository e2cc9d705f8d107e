"""One module per public layout. A new layout is a new file here with a class `Importer`; its name is the file's name.

An importer first lists its entries from names and tables alone (fast, so that splits, progress and missing partners are
known before the first pixel is read), then reads them one by one, from several threads.
"""

import dataclasses
import importlib
import pathlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol

from data_prep.record import Pair, Tile
from dual_encoder.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the images of a raw data set are.

    Attributes:
      sensors: feature name -> sensor name, all that the data set can give.
      default: the features that are built unless others are asked for.
      size: height and width of an image in pixels.
      classes: class names of tiles, () for pairs.
      source: 'licence', 'attribution', 'notes', as text.
    """

    sensors: Mapping[str, str]
    default: tuple[str, ...]
    size: int
    classes: tuple[str, ...]
    source: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A record that can be read: `id`, `location_id` and `split` as in `Pair`, and what it takes to read it."""

    id: str
    location_id: str
    split: str
    where: Mapping[str, Any]


class Importer(Protocol):
    """What each module's class `Importer` offers."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None) -> Layout:
        """Returns the layout of 'pairs' or 'tiles'; UserError when there is no such kind or `raw` is needed."""

    def __init__(self, raw: pathlib.Path, kind: str, features: tuple[str, ...]):
        """Prepares to read the folder `raw`; `features` are the images wanted ('s1', 's2')."""

    def entries(self) -> list[Entry]:
        """Lists what can be read, in a stable order; UserError for missing folders, tables and partners."""

    def read(self, entry: Entry) -> Pair | Tile:
        """Reads one entry; safe to call from several threads. UserError for damaged or missing files."""


def names() -> list[str]:
    """Returns the names of all importers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> type[Importer]:
    """Returns the `Importer` of module `name`; UserError with the nearest name otherwise."""
    if name not in names():
        raise UserError(f"unknown importer '{name}'; {nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}").Importer


def no_such_kind(importer: str, kind: str, instead: str) -> UserError:
    """The error of `layout` for a kind that a data set does not have."""
    return UserError(f"importer '{importer}' has no {kind}; {instead}")
