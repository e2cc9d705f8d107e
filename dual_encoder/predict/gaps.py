"""Fills pixels without data that lie next to data. Only the model sees the filled values; the map has no data there.

A network that sees no data next to a pixel gives it another class than in the middle of a scene. So a pixel without
data gets the value on the other side of the nearest pixel with data, as in a mirror.
"""

import numpy as np
from scipy import ndimage

REACH = 32  # pixels into a gap that are filled; docs/maps.md has the figures
HALO = 2 * REACH  # pixels around a window on which its filled pixels depend


def fill(image: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Returns an image whose gaps are filled up to `REACH` pixels from data.

    Args:
      image: [height, width, bands].
      shown: bool [height, width], True for pixels with data.
    """
    if shown.all() or not shown.any():
        return image
    distance, (rows, columns) = ndimage.distance_transform_edt(~shown, return_indices=True)
    near = np.nonzero((distance > 0) & (distance <= REACH))
    nearest = rows[near], columns[near]
    mirrored = tuple(np.clip(2 * at - own, 0, size - 1)
                     for at, own, size in zip(nearest, near, shown.shape, strict=True))
    seen = shown[mirrored]
    filled = image.copy()
    filled[near] = image[tuple(np.where(seen, one, other) for one, other in zip(mirrored, nearest, strict=True))]
    return filled
