"""The importers: one module per public layout. A new layout is a new file here with a class `Importer`.

The importer has the name of its file. Names of files with shared or outsourced parts begin with '_'.

An importer first lists its entries from names and tables alone. That is fast, so splits, filters, progress and missing
partners are known before the first pixel is read. Then it reads the entries one by one. Listing and reading happen in
different processes, so an entry carries all that reading needs.
"""

import dataclasses
import importlib
import pathlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Protocol

from data_prep.dates import LATEST_TIME as LATEST_TIME
from data_prep.record import Entry as Entry
from data_prep.record import Pair, Tile
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Layout:
    """The images and labels that a raw data set offers.

    Attributes:
      sensors: feature name -> names of the sensors that the data set can give for it, the usual one first, e.g.
        {'s1': ('s1_grd',), 's2': ('s2_l2a', 's2_l1c')}.
      default: the features that are built unless the user names others.
      size: height and width of an image in pixels; 0 = not known.
      label: of tiles, the usual one; None for pairs.
      source: 'licence', 'attribution', 'notes', as text; 'description', a digest, if a file of the user's describes the
        images.
      other_labels: further labels of tiles, by the name that --labels takes.
      any_size: images may have other sizes, from which --size cuts patches; then the importer takes an argument `cut`.
      by_name: the importer picks bands by name, and takes sensors with some of the bands, as s2_l2a:B02+B03+B04.
    """

    sensors: Mapping[str, tuple[str, ...]]
    default: tuple[str, ...]
    size: int
    label: LabelSpec | None
    source: Mapping[str, str]
    other_labels: Mapping[str, LabelSpec] = dataclasses.field(default_factory=dict)
    any_size: bool = False
    by_name: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the usual label; () without a label."""
        return self.label.classes if self.label else ()


@dataclasses.dataclass(frozen=True, slots=True)
class Reject:
    """Something that should be a record and cannot be: an id to find it by, and the reason in one line."""

    id: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Unmatched(Reject):
    """Files beside the matches that no record takes; they are no fault. `_unmatched.py` counts them.

    Attributes:
      id: the first of them.
      reason: what was expected, in one line.
      count: how many.
      examples: the first ones.
    """

    count: int
    examples: tuple[str, ...]


class Importer(Protocol):
    """The interface of each module's class `Importer`."""

    @staticmethod
    def layout(kind: str, raw: pathlib.Path | None) -> Layout:
        """Returns the layout of 'pairs' or 'tiles'; UserError if there is no such kind or `raw` is needed."""

    def __init__(self, raw: pathlib.Path, kind: str, sensors: Mapping[str, str]):
        """Prepares to read the folder `raw`, fast: every worker process does it.

        An importer with `other_labels` takes the name of one as a fourth argument `labels`; '' = the usual label.

        Args:
          raw: the raw folder.
          kind: 'pairs' or 'tiles'.
          sensors: the images to read, feature -> sensor name out of `Layout.sensors`.
        """

    def entries(self) -> Iterator[Entry | Reject]:
        """Lists the entries in a stable order in which reading is fast (neighbours in one file together).

        Memory must not grow with the pixels. UserError for missing folders and tables; a Reject for a missing partner
        or an unusable name; an Unmatched for files beside the matches that fit no pattern.
        """

    def read(self, entry: Entry) -> Pair | Tile:
        """Reads one entry. UserError for damaged or missing files; the builder counts it as a reject."""


def names() -> list[str]:
    """Returns the names of all importers."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> type[Importer]:
    """Returns the `Importer` of module `name`; UserError with the nearest name otherwise."""
    if name not in names():
        raise UserError(f"unknown importer '{name}'; {nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}").Importer


def open_raw(name: str, raw: pathlib.Path, kind: str, sensors: Mapping[str, str], labels: str = "", cut: bool = False
             ) -> Importer:
    """Returns importer `name`, ready to read; arguments as of `Importer`, `labels` out of `Layout.other_labels`.

    `cut`: images of any size are wanted, to cut patches from them; only for a layout with `any_size`.
    """
    options = {**({"labels": labels} if labels else {}), **({"cut": cut} if cut else {})}
    # GDAL takes a relative path like 'zip+file:x' or 'GTIFF_DIR:1:x' for something else than a folder.
    return load(name)(raw.absolute(), kind, sensors, **options)


def no_such_kind(importer: str, kind: str, instead: str) -> UserError:
    """Returns the error of `layout` for a kind that a data set does not have."""
    return UserError(f"importer '{importer}' has no {kind}; {instead}")
