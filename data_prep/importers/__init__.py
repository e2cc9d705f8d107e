"""One module per public layout. A new layout is a new file here with a class `Importer`; its name is the file's name.
What several of them need, or what makes one too long, stands in files whose names begin with '_'.

An importer first lists its entries from names and tables alone (fast, so that splits, filters, progress and missing
partners are known before the first pixel is read), then reads them one by one. Listing and reading happen in different
processes: an entry carries all that reading it takes.
"""

import dataclasses
import importlib
import math
import pathlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from data_prep.record import UNKNOWN_TIME, Pair, Tile
from dual_encoder.errors import UserError, nearest

LATEST_TIME = 4102444800  # the year 2100: larger Unix times count milliseconds or less


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the images of a raw data set are.

    Attributes:
      sensors: feature name -> names of the sensors that the data set can give for it, the usual one first, e.g.
        {'s1': ('s1_grd',), 's2': ('s2_l2a', 's2_l1c')}.
      default: the features that are built unless others are asked for.
      size: height and width of an image in pixels.
      classes: class names of tiles, () for pairs.
      source: 'licence', 'attribution', 'notes', as text; 'description', a digest, where a file of the user's says what
        the images are.
    """

    sensors: Mapping[str, tuple[str, ...]]
    default: tuple[str, ...]
    size: int
    classes: tuple[str, ...]
    source: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A record that can be read: `id`, `location_id` and `split` as in `Pair`, and what it takes to read it.

    Attributes:
      where: values that JSON knows; paths as text relative to the raw folder.
      block: a larger area that must not be divided among splits, where lat and lon are unknown; '' = the location.
      lat, lon, s1_time, s2_time, cloud: as in `Pair` where listing finds them out cheaply; unknown otherwise. Filters
        then work before the pixels are read, and splits by area have a place to go by.
    """

    id: str
    location_id: str
    split: str
    where: Mapping[str, Any]
    block: str = ""
    lat: float = math.nan
    lon: float = math.nan
    s1_time: int = UNKNOWN_TIME
    s2_time: int = UNKNOWN_TIME
    cloud: float = math.nan


@dataclasses.dataclass(frozen=True, slots=True)
class Reject:
    """Something that should be a record and cannot be: an id to find it by, and why in one line."""

    id: str
    reason: str


class Importer(Protocol):
    """What each module's class `Importer` offers."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None) -> Layout:
        """Returns the layout of 'pairs' or 'tiles'; UserError when there is no such kind or `raw` is needed."""

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        """Prepares to read the folder `raw`, fast: every worker process does it.

        Args:
          raw: the raw folder.
          kind: 'pairs' or 'tiles'.
          sensors: the images wanted, feature -> sensor name out of `Layout.sensors`.
        """

    def entries(self) -> Iterator[Entry | Reject]:
        """Lists what can be read, in a stable order in which reading is fast (neighbours in one file together).

        Memory must not grow with the pixels. UserError for missing folders and tables; a Reject for a missing partner
        or an unusable name.
        """

    def read(self, entry: Entry) -> Pair | Tile:
        """Reads one entry. UserError for damaged or missing files; the builder makes a reject of it."""


def names() -> list[str]:
    """Returns the names of all importers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> type[Importer]:
    """Returns the `Importer` of module `name`; UserError with the nearest name otherwise."""
    if name not in names():
        raise UserError(f"unknown importer '{name}'; {nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}").Importer


def no_such_kind(importer: str, kind: str, instead: str) -> UserError:
    """The error of `layout` for a kind that a data set does not have."""
    return UserError(f"importer '{importer}' has no {kind}; {instead}")
