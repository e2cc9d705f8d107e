"""The pixels of a scene that lie in labelled polygons."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery.grid import Grid
from dual_encoder.predict.aoi import read_polygons, to_scene
from dual_encoder.predict.windows import Windows

_PIXELS = 2000  # of a class, at most; pixels of one polygon are alike


@dataclasses.dataclass(frozen=True)
class Labels:
    """Polygons with classes, in the coordinate system of a scene.

    Attributes:
      classes: their names, sorted.
      shapes: the polygons.
      numbers: the class of each polygon.
    """

    classes: tuple[str, ...]
    shapes: tuple[Any, ...]
    numbers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Labelled pixels in the block of one window.

    Attributes:
      row, column: numbers of the window.
      rows, columns: of the pixels within the window, int [n].
      classes, polygons: the number of the class, and of the polygon, of each pixel, int [n].
    """

    row: int
    column: int
    rows: np.ndarray
    columns: np.ndarray
    classes: np.ndarray
    polygons: np.ndarray


def read_labels(path: str, key: str, scene: Grid) -> Labels:
    """Reads labelled polygons.

    Args:
      path: GeoJSON, GeoPackage, or another format of GDAL.
      key: name of the property that holds the class, a text or a number.
      scene: grid of the scene.

    Raises:
      UserError: the file cannot be read or has no such property, or the polygons are of fewer than two classes.
    """
    polygons, crs, values = read_polygons(path, "--labels", key, "with the classes by --class-key")
    names = ["" if value is None else str(value).strip() for value in values]
    kept = [(polygon, name) for polygon, name in zip(polygons, names, strict=True) if name]
    classes = tuple(sorted({name for _, name in kept}))
    if len(classes) < 2:
        raise UserError(f"--labels={path} names {len(classes)} class{'es' * (len(classes) != 1)} in '{key}', "
                        f"{', '.join(classes) or 'none'}; draw polygons of at least two")
    return Labels(classes, tuple(to_scene(polygon, crs, scene) for polygon, _ in kept),
                  tuple(classes.index(name) for _, name in kept))


def draw_pixels(labels: Labels, scene: Grid, windows: Windows, seed: int = 0) -> list[Pixels]:
    """Returns labelled pixels by window, 2,000 of a class at most; where polygons overlap, the last one counts.

    Raises:
      UserError: a class has no pixel in the scene.
    """
    found = list(_pixels(labels, scene, windows))
    random = np.random.default_rng(seed)
    classes = np.concatenate([block.classes for block in found]) if found else np.zeros(0, int)
    kept = np.zeros(len(classes), bool)
    for number, name in enumerate(labels.classes):
        at = np.flatnonzero(classes == number)
        if not len(at):
            raise UserError(f"no pixel of the scene lies in a polygon of class '{name}'; the scene covers "
                            f"{scene.extent()}: draw one there")
        kept[random.choice(at, min(_PIXELS, len(at)), replace=False)] = True
    result, start = [], 0
    for block in found:
        some = kept[start:start + len(block.classes)]
        start += len(block.classes)
        if some.any():
            result.append(dataclasses.replace(block, **{name: getattr(block, name)[some] for name in (
                "rows", "columns", "classes", "polygons")}))
    return result


def _pixels(labels: Labels, scene: Grid, windows: Windows) -> Iterator[Pixels]:
    import shapely
    from rasterio.features import rasterize

    shapes = [(shape, number) for number, shape in enumerate(labels.shapes)]
    numbers = np.array(labels.numbers)
    for row in windows.blocks(0, scene.shape[0]):
        for column in windows.blocks(0, scene.shape[1]):
            top, left = windows.block(row)[0], windows.block(column)[0]
            transform = scene.transform @ type(scene.transform).translation(left, top)
            corners = [transform @ corner for corner in ((0, 0), (0, windows.step), (windows.step,) * 2,
                                                         (windows.step, 0))]
            here = [one for one in shapes if one[0].intersects(shapely.Polygon(corners))]
            if not here:
                continue
            drawn = rasterize(here, (windows.step,) * 2, fill=-1, transform=transform, dtype=np.int32)
            inside = np.zeros(drawn.shape, bool)
            inside[max(0, -top):scene.shape[0] - top, max(0, -left):scene.shape[1] - left] = True
            rows, columns = np.nonzero((drawn >= 0) & inside)
            if len(rows):
                polygons = drawn[rows, columns]
                yield Pixels(row, column, rows + windows.margin, columns + windows.margin, numbers[polygons], polygons)
