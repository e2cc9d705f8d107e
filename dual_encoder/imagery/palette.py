"""The colours of classes, and the hatch that stands for no data."""

import re
from collections.abc import Sequence

import numpy as np

from dual_encoder.imagery.sensors import IGNORED

# Any two of these differ by at least 19 in CIELAB, also as a deuteranope or a protanope sees them (matrices of Machado,
# Oliveira and Fernandes 2009, severity 1). The first are the easiest to tell apart. tests/test_pictures.py computes it.
COLOURS = ((196, 178, 142), (33, 102, 200), (24, 84, 36), (228, 132, 24), (24, 60, 84), (168, 180, 228), (24, 36, 216),
           (228, 228, 132), (216, 228, 228), (60, 120, 108), (228, 228, 24), (48, 48, 120), (24, 36, 156),
           (96, 120, 156), (144, 96, 24), (204, 156, 84), (120, 132, 84), (84, 144, 216), (168, 168, 180), (24, 60, 48))
HATCH = ((255, 255, 255), (0, 0, 0))  # ground and lines; no channel of another picture is 0 or 255
_HEX = re.compile(r"#[0-9a-fA-F]{6}")


def is_colour(text: str) -> bool:
    """Returns whether a text is a colour, as '#2166c8'."""
    return bool(_HEX.fullmatch(text))


def class_colours(count: int, chosen: Sequence[str] = ()) -> list[tuple[int, int, int]]:
    """Returns the colours of classes 0, 1, ...: red, green and blue in 0..255 each.

    Args:
      count: number of classes. From the 21st on, the palette repeats.
      chosen: '#rrggbb' for each class, from the description of the data set. '', or nothing: the palette.
    """
    own = [tuple(bytes.fromhex(text[1:])) if is_colour(text) else None for text in chosen[:count]]
    own += [None] * (count - len(own))
    return [(colour[0], colour[1], colour[2]) if colour else COLOURS[number % len(COLOURS)]
            for number, colour in enumerate(own)]


def label_to_rgb(label: np.ndarray, chosen: Sequence[str] = ()) -> np.ndarray:
    """Renders class indices; ignored pixels are hatched.

    Args:
      label: uint8 [height, width]; 255 is ignored.
      chosen: as of `class_colours`.

    Returns:
      uint8 [height, width, 3].
    """
    table = np.array(class_colours(IGNORED + 1, chosen), np.uint8)
    return hatched(table[label], label == IGNORED)


def hatched(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Returns a picture, uint8 [height, width, 3], with the hatch at the pixels of a mask, bool [height, width]."""
    height, width = where.shape
    line = max(1, min(height, width) // 48)  # pixels, so that lines stay visible in a small view of the image
    y, x = np.indices(where.shape)
    ground, lines = (np.array(colour, np.uint8) for colour in HATCH)
    hatch = np.where((((x + y) // line) % 4 == 0)[..., None], lines, ground)
    return np.where(where[..., None], hatch, picture)
