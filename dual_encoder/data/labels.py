"""The label of a record: a class for each pixel, or classes or a number for the whole image."""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery.palette import is_colour
from dual_encoder.imagery.sensors import IGNORED

_DTYPES = {"pixel_classes": "uint8", "change": "uint8", "image_class": "int32", "image_classes": "uint8",
           "number": "float32"}
_PER_PIXEL = ("pixel_classes", "change")


@dataclasses.dataclass(frozen=True)
class LabelSpec:
    """The kind, the classes and the stored form of a data set's labels.

    Kinds, with dtype and shape of the stored label:
      'pixel_classes': the class of each pixel, uint8 [height, width]; 255 is ignored.
      'change': the class of the change of each pixel between two dates, stored as 'pixel_classes'.
      'image_class': the one class of the image, int32 [].
      'image_classes': each class that occurs in the image, uint8 [classes], 1 or 0.
      'number': a number for the image, float32 [], finite.

    Attributes:
      kind: one of the above.
      classes: names of the classes 0, 1, ...; empty for a number.
      unit: unit of a number; empty for classes.
      colours: '#rrggbb' of each class in pictures, '' = the colour of the palette; empty: the palette alone.

    Raises:
      UserError: unknown kind, a number with classes, a name that occurs twice, or a text that is no colour.
    """

    kind: str
    classes: tuple[str, ...] = ()
    unit: str = ""
    colours: tuple[str, ...] = dataclasses.field(default=(), compare=False)  # no value depends on them

    def __post_init__(self):
        if self.kind not in _DTYPES:
            raise UserError(f"label kind '{self.kind}' is unknown; valid kinds: {', '.join(_DTYPES)}")
        if self.kind == "number" and self.classes:
            raise UserError(f"a label of kind 'number' has classes {list(self.classes)}; give a number no classes")
        if len(set(self.classes)) < len(self.classes):
            raise UserError(f"label classes {list(self.classes)} hold a name twice; give each class a name of its own")
        wrong = [text for text in self.colours if text and not is_colour(text)]
        if wrong or len(self.colours) not in (0, len(self.classes)):
            raise UserError(f"the colours of the label's classes are {list(self.colours)}, expected one for each of "
                            f"{len(self.classes)} classes, such as '#2166c8'")

    @property
    def dtype(self) -> str:
        """The NumPy name of the stored dtype."""
        return _DTYPES[self.kind]

    @property
    def per_pixel(self) -> bool:
        """True if the label has height and width, and so moves with the pixels of the images."""
        return self.kind in _PER_PIXEL

    def shape(self, size: int | tuple[int, int]) -> tuple[int, ...]:
        """Returns the shape of the label of an image of `size` x `size` pixels, or of (height, width)."""
        if self.per_pixel:
            return size if isinstance(size, tuple) else (size, size)
        return (len(self.classes),) if self.kind == "image_classes" else ()

    def fault(self, label: np.ndarray, size: int | tuple[int, int]) -> tuple[str, object, object] | None:
        """Returns (part, seen, expected) for a label that does not fit this spec; None if it fits.

        Args:
          label: of one record.
          size: height and width of its images in pixels, or both as (height, width).
        """
        if label.dtype != self.dtype or label.shape != self.shape(size):
            return "label", f"{label.dtype}{list(label.shape)}", f"{self.dtype}{list(self.shape(size))}"
        if self.kind == "number":
            return None if math.isfinite(label) else ("label", float(label), "a finite number")
        last = 1 if self.kind == "image_classes" else len(self.classes) - 1
        seen = np.unique(label[label != IGNORED] if self.per_pixel else label)
        if seen.size and not 0 <= seen[0] <= seen[-1] <= last:
            wrong = seen[-1] if seen[-1] > last else seen[0]
            return "label value", int(wrong), f"0..{last}" + f" or {IGNORED} (ignored)" * self.per_pixel
        return None

    def to_json(self) -> dict[str, str]:
        """Returns kind, unit and colours; the classes are stored on their own, as before labels had a spec."""
        colours = {"colours": ",".join(self.colours)} if any(self.colours) else {}
        return {"kind": self.kind, "unit": self.unit, **colours}

    @classmethod
    def from_json(cls, values: Mapping[str, str], classes: Iterable[str]) -> "LabelSpec":
        """Returns the spec of `classes` and of the values that `to_json` returned."""
        colours = tuple(values["colours"].split(",")) if "colours" in values else ()
        return cls(values["kind"], tuple(classes), values.get("unit", ""), colours)
