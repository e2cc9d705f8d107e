"""Which windows a map is computed from, and their blended sum in bounded memory.

Windows are anchored to the scene, not to the area that is mapped: window (i, j) always begins at the same pixel. So a
pixel's answer does not depend on the area, and a map that was interrupted goes on with the same numbers.

    |margin|ramp|        core        |ramp|margin|        one window: `window` pixels
                              step
                |------------------------|
                             |margin|ramp|        core        |ramp|margin|        the next one

The outer `margin` pixels of a window count nothing: there the zeros that convolutions see around an image change the
answer. Over the `ramp` two windows are blended with the weights sin^2 of `tasks/windows.py`, which add up to 1. Beyond
its border a scene is reflected: where it ends, a model would see no data, and classes there would be wrong.
"""

import dataclasses
from typing import Any

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.tasks.windows import bump

_RAMP = 32
_MARGIN, _WINDOW = 160, 1024  # of convolutions; docs/maps.md has the figures behind 160


@dataclasses.dataclass(frozen=True)
class Windows:
    """Square windows over a scene; block (i, j) is the part of the map that is complete when window (i, j) is added.

    Attributes:
      window: side in pixels.
      margin: see above.
      ramp: see above.
    """

    window: int
    margin: int
    ramp: int = _RAMP

    @property
    def step(self) -> int:
        """Pixels from one window to the next, and the side of a block."""
        return self.window - 2 * self.margin - self.ramp

    def start(self, number: int) -> int:
        """Returns the first pixel of a window along one side; it may lie outside the scene."""
        return number * self.step - self.ramp - self.margin

    def block(self, number: int) -> tuple[int, int]:
        """Returns the first pixel of a block and the one behind its last, along one side."""
        return number * self.step - self.ramp, (number + 1) * self.step - self.ramp

    def blocks(self, first: int, last: int) -> range:
        """Returns the numbers of the blocks that hold the pixels `first` to `last`, which does not count."""
        return range((first + self.ramp) // self.step, (last - 1 + self.ramp) // self.step + 1)

    def weights(self) -> np.ndarray:
        """Returns the weights of the inner pixels of a window, float32 [step + ramp, step + ramp]."""
        slope = bump(2 * self.ramp)
        side = np.concatenate([slope[:self.ramp], np.ones(self.step - self.ramp, np.float32), slope[self.ramp:]])
        return side[:, None] * side[None, :]

    def inner(self, image: Any) -> Any:
        """Returns the pixels of a window [height, width, ...] that count, [step + ramp, step + ramp, ...]."""
        part = slice(self.margin, self.window - self.margin)
        return image[part, part]


def reflected(start: int, side: int, size: int) -> np.ndarray:
    """Returns the pixels that a window shows along one side, int64 [side]; beyond its border a scene is reflected.

    As `np.pad` with mode 'reflect': the border itself comes once. A scene of one pixel is repeated.

    Args:
      start: first pixel of the window; it may lie outside the scene.
      side: of the window.
      size: of the scene.

    >>> reflected(start=-2, side=8, size=4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    period = max(1, 2 * (size - 1))
    at = np.arange(start, start + side) % period
    return np.minimum(at, period - at) if size > 1 else np.zeros(side, np.int64)


def choose(stride: int, transformer: bool, trained_on: int, window: int = 0, margin: int = -1) -> Windows:
    """Returns the windows for a model.

    Args:
      stride: of the model; the side of a window and the step are multiples of it.
      transformer: True: windows have the size of the images of the training, whose positions the model knows.
      trained_on: side of these images in pixels.
      window, margin: those of the user; 0 and -1 = by the model.

    Raises:
      UserError: a window that is no multiple of the stride, or leaves nothing between its margins.
    """
    if not window:
        window = max(4 * _RAMP, round(trained_on / stride) * stride) if transformer else _WINDOW
    if margin < 0:
        margin = window // 8 // stride * stride if transformer else _MARGIN
    if window % stride or window < 1:
        raise UserError(f"--window is {window}, expected a multiple of {stride}, the stride of the model")
    step = max(stride, _RAMP)  # the margins grow until a step is a multiple of the stride
    chosen = Windows(window, margin)
    if chosen.step % stride:
        chosen = Windows(window, margin + chosen.step % stride // 2)
    if chosen.step < 2 * step or chosen.step % stride:
        raise UserError(f"--window={window} with a margin of {margin} on each side leaves steps of {chosen.step} "
                        f"pixels; give a larger --window or a smaller --margin, multiples of {stride}")
    return chosen


class Blend:
    """Adds up the weighted logits of windows, row of windows by row, and gives out what is complete.

    It holds the ramp below one row of windows, and one ramp to the right: memory grows with the width of a scene by
    4 x 32 x classes bytes a pixel column, and not with its height.

    Args:
      windows: which.
      columns: the numbers of the windows in a row, in order.
      classes: number of classes.
    """

    def __init__(self, windows: Windows, columns: range, classes: int):
        self._windows, self._columns = windows, columns
        self._weights = windows.weights()[..., None]
        self._below = np.zeros((windows.ramp, len(columns) * windows.step, classes), np.float32)
        self._right = np.zeros((windows.step + windows.ramp, windows.ramp, classes), np.float32)

    def add(self, column: int, logits: np.ndarray | None) -> np.ndarray:
        """Adds the next window of a row; rows come from top to bottom, columns from left to right.

        Args:
          column: number of the window.
          logits: of its inner pixels, float32 [step + ramp, step + ramp, classes]; None = there is no data.

        Returns:
          the logits of its block, float32 [step, step, classes].
        """
        step, ramp, at = self._windows.step, self._windows.ramp, (column - self._columns.start) * self._windows.step
        side = step + ramp
        seen = np.zeros((side, side, self._below.shape[-1]), np.float32) if logits is None else logits * self._weights
        if column != self._columns.start:
            seen[:, :ramp] += self._right
        self._right = seen[:, step:].copy()
        seen[:ramp, :step] += self._below[:, at:at + step]
        self._below[:, at:at + step] = seen[step:, :step]
        return seen[:step, :step]


def needed(blocks: range) -> range:
    """Returns the numbers of the windows for some blocks along one side.

    The ramp of the window before the first block reaches into that block, so it is computed, too.
    """
    return range(max(0, blocks.start - 1), blocks.stop)
