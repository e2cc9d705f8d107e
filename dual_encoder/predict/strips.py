"""Computes the strips of a map: a thread reads the next windows and one writes strips while the device works."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from dual_encoder.imagery.grid import Grid
from dual_encoder.inference.frozen_maps import PixelModel
from dual_encoder.predict import gaps
from dual_encoder.predict.aoi import Area
from dual_encoder.predict.layers import Layers
from dual_encoder.predict.part import Part
from dual_encoder.predict.scene import OnGrid, Scene
from dual_encoder.predict.windows import Blend, Windows, needed, reflected

_AHEAD = 3  # windows that are read before the device needs them
_IN_FLIGHT = 2  # windows that the device has been given and that are not fetched yet

PermanentWater = Callable[[Grid], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a map is made of.

    Attributes:
      segmenter: the model.
      scenes: its images, by name; all on `grid`.
      grid: of the first scene.
      windows, area, layers: see there.
      permanent: grid -> bool [height, width], True for permanent water; None = no mask.
    """

    segmenter: PixelModel
    scenes: Mapping[str, Scene | OnGrid]
    grid: Grid
    windows: Windows
    area: Area
    layers: Layers
    permanent: PermanentWater | None

    @property
    def rows(self) -> range:
        """The rows of blocks that hold the area."""
        return self.windows.blocks(*self.area.rows)

    @property
    def columns(self) -> range:
        """The columns of blocks that hold the area."""
        return self.windows.blocks(*self.area.columns)


@dataclasses.dataclass
class Counts:
    """How far a map has come, for the progress: pixels of the area that are done."""

    pixels: int = 0


@dataclasses.dataclass(frozen=True)
class _Window:
    row: int
    column: int
    counts: bool  # False: only its ramps are used
    images: Mapping[str, np.ndarray] | None  # None = no pixel of it is wanted
    shown: np.ndarray  # bool [step, step] of its block
    permanent: np.ndarray | None


def compute(job: Job, part: Part, counts: Counts) -> None:
    """Computes all strips that `part` lacks.

    Raises:
      UserError: a file cannot be read, or the disk refuses.
    """
    first = next((row for row in job.rows if not part.done(row)), job.rows.stop)
    counts.pixels = sum(_height(job, row) for row in range(job.rows.start, first)) * job.area.shape[1]
    if first == job.rows.stop:
        return
    blend, strip = Blend(job.windows, needed(job.columns), len(job.segmenter.classes)), np.empty(0, np.uint8)
    with concurrent.futures.ThreadPoolExecutor(1) as writer:
        saving: concurrent.futures.Future | None = None
        for window, logits in _computed(job, range(first, job.rows.stop)):
            if window.counts and window.column == job.columns.start:
                strip = np.empty((job.layers.count, _height(job, window.row), job.area.shape[1]), np.uint8)
            block = blend.add(window.column, logits)
            if not window.counts:
                continue
            counts.pixels += _place(job, window, job.layers.make(block, window.shown, window.permanent), strip)
            if window.column == job.columns.stop - 1:
                if saving is not None:
                    saving.result()
                saving = writer.submit(part.save, window.row, strip, _faults(job))
        if saving is not None:
            saving.result()


def _computed(job: Job, rows: range) -> Iterator[tuple[_Window, np.ndarray | None]]:
    """Yields the windows with the logits of their inner pixels; the device works ahead."""
    waiting: collections.deque[tuple[_Window, Any]] = collections.deque()
    for window in _read_ahead(job, rows):
        logits = None
        if window.images is not None:
            images = {name: image[None] for name, image in window.images.items()}
            logits = job.windows.inner(job.segmenter.logits(images)[0])
        waiting.append((window, logits))
        if len(waiting) > _IN_FLIGHT:
            yield _fetched(*waiting.popleft())
    for item in waiting:
        yield _fetched(*item)


def _fetched(window: _Window, logits: Any) -> tuple[_Window, np.ndarray | None]:
    return window, None if logits is None else np.asarray(logits)


def _read_ahead(job: Job, rows: range) -> Iterator[_Window]:
    places = ((row, column, row in rows and column in job.columns) for row in needed(rows)
              for column in needed(job.columns))
    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        try:
            for place in places:
                waiting.append(reader.submit(_read, job, *place))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _read(job: Job, row: int, column: int, counts: bool) -> _Window:
    windows, side = job.windows, job.windows.window
    top, left = windows.start(row), windows.start(column)
    rows, columns = (reflected(start - gaps.HALO, side + 2 * gaps.HALO, size)
                     for start, size in zip((top, left), job.grid.shape, strict=True))
    around = (slice(gaps.HALO, -gaps.HALO),) * 2
    whole = {name: _reflected(scene, rows, columns) for name, scene in job.scenes.items()}
    held = {name: job.scenes[name].spec.holds_data(image) for name, image in whole.items()}
    shown = windows.inner(np.logical_and.reduce(list(held.values()))[around])
    images = {name: gaps.fill(image, held[name])[around] for name, image in whole.items()}
    first_row, first_column = windows.block(row)[0], windows.block(column)[0]
    inner = shown.shape[0]
    shown = shown & job.area.wanted(job.grid, first_row, first_column, inner, inner)
    block = shown[:windows.step, :windows.step]
    permanent = None
    if job.permanent is not None and counts and block.any():
        moved = job.grid.transform @ type(job.grid.transform).translation(first_column, first_row)
        permanent = job.permanent(Grid(job.grid.crs, moved, block.shape))
    return _Window(row, column, counts, images if shown.any() else None, block, permanent)


def _reflected(scene: Scene | OnGrid, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns pixels of a scene, [rows, columns, bands]."""
    first, left = int(rows.min()), int(columns.min())
    part = scene.read(first, left, int(rows.max()) + 1 - first, int(columns.max()) + 1 - left)
    return part[np.ix_(rows - first, columns - left)]


def _faults(job: Job) -> dict[str, Any]:
    faults = {name: scene.scene.faults for name, scene in job.scenes.items()}
    return {name: {"lost": dict(of_scene.lost), "strange": of_scene.strange} for name, of_scene in faults.items()}


def _height(job: Job, row: int) -> int:
    """Returns how many rows of the area a row of blocks holds."""
    top, bottom = job.windows.block(row)
    return min(bottom, job.area.rows[1]) - max(top, job.area.rows[0])


def _place(job: Job, window: _Window, layers: np.ndarray, strip: np.ndarray) -> int:
    """Puts the layers of a block into its strip; returns how many pixels of the area it holds."""
    (top, bottom), (left, right) = job.windows.block(window.row), job.windows.block(window.column)
    (first, last), (west, east) = job.area.rows, job.area.columns
    rows = slice(max(top, first) - top, min(bottom, last) - top)
    columns = slice(max(left, west) - left, min(right, east) - left)
    strip[:, :, max(left, west) - west:min(right, east) - west] = layers[:, rows, columns]
    return (rows.stop - rows.start) * (columns.stop - columns.start)
