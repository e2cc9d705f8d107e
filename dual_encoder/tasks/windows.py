"""Prediction in windows that overlap: for images that are larger than those of the training."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np


def in_windows(predict: Callable[[Mapping[str, jax.Array]], jax.Array], images: Mapping[str, jax.Array], classes: int,
               window: int, overlap: float) -> jax.Array:
    """Returns the logits of whole images, blended from those of windows.

    In a window, a pixel counts with the weight sin^2(pi (i + 1/2) / rows) of its row i, times that of its column: the
    border of a window, where a network sees the least of the surroundings, counts least. The result of a pixel is the
    mean of the logits of its windows with these weights; see `starts` for the windows.

    Args:
      predict: images of a window -> logits [batch, rows, columns, classes] float32; pure.
      images: name -> [batch, ..., height, width, bands], all of one height and width.
      classes: number of classes.
      window: side in pixels; 0, or a side that covers the image, predicts the whole image at once.
      overlap: share of a window that the next one covers, too, at least; in [0, 1).

    Returns:
      [batch, height, width, classes] float32.
    """
    batch, (height, width) = len(next(iter(images.values()))), next(iter(images.values())).shape[-3:-1]
    if not window or (height <= window and width <= window):
        return predict(images)
    rows, columns = min(window, height), min(window, width)
    tops, lefts = starts(height, rows, overlap), starts(width, columns, overlap)
    corners = np.array([(top, left) for top in tops for left in lefts], np.int32)
    weight = bump(rows)[:, None] * bump(columns)[None, :]
    total_weight = np.zeros((height, width), np.float32)
    for top, left in corners:
        total_weight[top:top + rows, left:left + columns] += weight

    def add(total, corner):
        parts = {name: _cut(image, corner, rows, columns) for name, image in images.items()}
        at = (0, corner[0], corner[1], 0)
        seen = jax.lax.dynamic_slice(total, at, (batch, rows, columns, classes))
        seen += predict(parts) * jnp.asarray(weight)[None, :, :, None]
        return jax.lax.dynamic_update_slice(total, seen, at), None

    total, _ = jax.lax.scan(add, jnp.zeros((batch, height, width, classes)), jnp.asarray(corners))
    return total / jnp.asarray(total_weight)[None, :, :, None]


def starts(size: int, window: int, overlap: float) -> list[int]:
    """Returns the first pixels of windows along one side, evenly spaced from border to border.

    >>> starts(size=512, window=256, overlap=0.5)
    [0, 128, 256]
    """
    step = max(1, round(window * (1 - overlap)))
    count = -(-(size - window) // step) + 1
    return [round(start) for start in np.linspace(0, size - window, count).tolist()]


def bump(size: int) -> np.ndarray:
    """Returns the weights along one side of a window: sin^2(pi (i + 1/2) / size) of pixel i.

    Those of two windows that overlap by half add up to 1.

    Args:
      size: of the window, in pixels.

    Returns:
      float32 [size], more than 0 everywhere.
    """
    return np.sin(np.pi * (np.arange(size, dtype=np.float32) + 0.5) / size) ** 2


def _cut(image: jax.Array, corner: jax.Array, rows: int, columns: int) -> jax.Array:
    axis = image.ndim - 3
    image = jax.lax.dynamic_slice_in_dim(image, corner[0], rows, axis)
    return jax.lax.dynamic_slice_in_dim(image, corner[1], columns, axis + 1)
