"""Labels of whole images that a table gives: the class of each image, or several classes; see geotiff.py."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep import tables
from data_prep.importers import Entry, Reject
from data_prep.importers._geotiff_labels import class_values
from data_prep.importers._unmatched import shown
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery import geotiff_keys as keys

KINDS = ("image_class", "image_classes")
_KEYS = {"kind", "table", "classes"}


@dataclasses.dataclass(frozen=True)
class ImageLabels:
    """The section 'label' of geotiff.json if it is about whole images.

    Attributes:
      spec: kind and classes.
      table: path of the table with the columns id and label.
      numbers: text in the table, a name or a value -> number of the class.
    """

    spec: LabelSpec
    table: str
    numbers: Mapping[str, int]

    def read(self, raw: pathlib.Path) -> tuple[dict[str, list[int]], list[Reject]]:
        """Returns id -> numbers of its classes, and the rows that cannot be used; UserError for an unreadable table."""
        path = raw / self.table
        if not path.is_file():
            raise UserError(f"'{path}' is missing; label.table of geotiff.json names it, with the columns id and label")
        found: dict[str, list[int]] = {}
        rejects = []
        for row in tables.read(path, ("id", "label"), ("id", "label")):
            if isinstance(row, tables.Fault):
                rejects.append(Reject(row.where, row.reason))
                continue
            name = tables.text(row.cells["id"])
            try:
                if name in found:
                    raise ValueError("the id stands in two rows; keep one")
                found[name] = self._classes(row.cells["label"])
            except ValueError as error:
                rejects.append(Reject(shown(name) or row.where, f"{row.where} of '{self.table}': {error}"))
        return found, rejects

    def add(self, entry: Entry, found: Mapping[str, Sequence[int]]) -> Entry | Reject:
        """Returns an entry with the classes of its id, or else of its place; a Reject if the table has neither."""
        classes = found.get(entry.id, found.get(entry.location_id))
        if classes is None:
            return Reject(shown(entry.id), f"'{self.table}' has no usable row with this id, or that of its place")
        return dataclasses.replace(entry, where={**entry.where, "label": classes})

    def array(self, entry: Entry) -> np.ndarray:
        """Returns the stored label of an entry."""
        if self.spec.kind == "image_class":
            return np.array(entry.where["label"][0], np.int32)
        present = np.zeros(len(self.spec.classes), np.uint8)
        present[entry.where["label"]] = 1
        return present

    def _classes(self, cell: Any) -> list[int]:
        """Returns the numbers of the classes in a cell; ValueError for another text or another count."""
        several = self.spec.kind == "image_classes"
        texts = [tables.text(item) for item in cell] if isinstance(cell, list) else (
            re.split(r"[;|]", tables.text(cell)) if several else [tables.text(cell)])
        names = [re.sub(r"^(-?\d+)\.0*$", r"\1", text.strip()) for text in texts if text.strip()]
        if strange := [name for name in names if name not in self.numbers]:
            raise ValueError(f"label is '{shown(strange[0])}', which is no class of geotiff.json "
                             f"({', '.join(self.spec.classes[:8])}{' ...' * (len(self.spec.classes) > 8)})")
        if not several and len(names) != 1:
            raise ValueError(f"label has {len(names)} classes, expected one; several are kind 'image_classes'")
        return sorted({self.numbers[name] for name in names})


def parse_image_labels(said: Mapping[str, Any], faults: list[str]) -> ImageLabels | None:
    """Reads the section 'label' of geotiff.json, of a kind out of `KINDS`; adds its faults to `faults`."""
    keys.check_keys(said, "label", _KEYS, faults)
    before, values = len(faults), class_values(said.get("classes"), faults)
    table: Any = said.get("table")
    if not isinstance(table, str) or not table.endswith((".csv", ".parquet")) or ".." in table or table[0] == "/":
        faults.append(f"label.table is {keys.shown(table)}, expected a .csv or .parquet file relative to the folder of "
                      "that file, such as 'labels.csv'")
    if len(faults) > before:
        return None
    numbers = {str(value): number for number, of_class in enumerate(values.values()) for value in of_class}
    return ImageLabels(LabelSpec(said["kind"], tuple(values)), table,
                       numbers | {name.strip(): number for number, name in enumerate(values)})
