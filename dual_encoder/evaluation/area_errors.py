"""The shares of classes in squares of labelled images, true and as mapped; and the errors of areas by their size."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from dual_encoder.evaluation.conformal import places_needed, radius, scores
from dual_encoder.imagery.sensors import IGNORED

LEVELS = 0.8, 0.9, 0.95
_SMALLEST = 16  # side of a square in pixels
_HALVINGS = 3
_LABELLED = 0.5  # share of the pixels of a square that need a label


@dataclasses.dataclass(frozen=True)
class AreaErrors:
    """What was found on squares of one size.

    Attributes:
      side: of the squares, in pixels.
      places, squares: how many there were.
      radii: of each level of `LEVELS`: `conformal.radius` of each class, or () if there are too few places.
    """

    side: int
    places: int
    squares: int
    radii: tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class Squares:
    """Squares of one size in some images.

    Attributes:
      side: in pixels.
      images: number of the image of each square.
      places: of each square.
      true, mapped: shares of the classes among its labelled pixels, float64 [squares, classes].
    """

    side: int
    images: tuple[int, ...]
    places: tuple[str, ...]
    true: np.ndarray
    mapped: np.ndarray

    def errors(self) -> AreaErrors:
        """Returns the quantiles of the errors."""
        error = scores(self.mapped, self.true)
        places = len(set(self.places))
        radii = tuple(tuple(radius(of_class, self.places, level) for of_class in error.T)
                      if places >= places_needed(level) else () for level in LEVELS)
        return AreaErrors(self.side, places, len(self.places), radii)


def sides(height: int, width: int) -> list[int]:
    """Returns the sides of squares in images of a size, in pixels: the whole image, its half, quarter and eighth.

    >>> sides(512, 512), sides(120, 120), sides(8, 8)
    ([512, 256, 128, 64], [120, 60, 30], [8])
    """
    side = min(height, width)
    return [side, *(side >> by for by in range(1, _HALVINGS + 1) if side >> by >= _SMALLEST)]


def shares(label: np.ndarray, mapped: np.ndarray, classes: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the true and the mapped shares of the squares of an image that are at least half labelled.

    Args:
      label: class indices, uint8 [height, width]; 255 = not labelled.
      mapped: class indices, uint8 [height, width].
      classes: number of classes C.
      side: of the squares in pixels; a rest at the right and the lower border is left out.

    Returns:
      two float64 [squares, C]; the shares of a square add up to 1.
    """
    rows, columns = label.shape[0] // side, label.shape[1] // side

    def cut(image: np.ndarray) -> np.ndarray:
        squares = image[:rows * side, :columns * side].reshape(rows, side, columns, side)
        return squares.transpose(0, 2, 1, 3).reshape(rows * columns, side * side)

    label, mapped = cut(label), cut(mapped)
    known = label != IGNORED
    kept = known.mean(axis=1) >= _LABELLED
    label, mapped, known = label[kept], mapped[kept], known[kept]
    count = np.maximum(known.sum(axis=1), 1)[:, None]
    return tuple(np.stack([((image == number) & known).sum(axis=1) for number in range(classes)], axis=1) / count
                 for image in (label, mapped))


def radii_for(errors: Sequence[AreaErrors], side: float, level: float) -> tuple[float, ...]:
    """Returns the radius of each class from the largest squares that are not larger than an area; () if there is none.

    Args:
      errors: of all sizes.
      side: square root of the pixels of the area.
      level: one of `LEVELS`.
    """
    fitting = [one for one in errors if one.side <= side and one.radii[LEVELS.index(level)]]
    return max(fitting, key=lambda one: one.side).radii[LEVELS.index(level)] if fitting else ()
