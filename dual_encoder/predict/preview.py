"""A picture of a map, with a legend, a scale bar and an arrow to the north."""

import io
import pathlib
from collections.abc import Sequence

import numpy as np

from dual_encoder.imagery import gdal
from dual_encoder.imagery.grid import Grid, to_crs
from dual_encoder.predict.layers import NO_DATA
from dual_encoder.storage import atomic

_SIDE = 1600  # pixels of the longer side of the map in the picture
_INCHES, _DPI = 8.0, 150
_EDGE, _ABOVE, _NARROWEST = 0.15, 0.35, 3.5  # inches
_LINE, _ENTRY = 0.22, 1.7  # inches: height and width of an entry of the legend


def write_preview(out: pathlib.Path, path: pathlib.Path, classes: Sequence[str],
                  colours: Sequence[tuple[int, int, int]], title: str) -> None:
    """Draws a map from its overviews.

    Args:
      out: the PNG to write.
      path: the map.
      classes, colours: names and red, green, blue of its values.
      title: above the map.
    """
    import matplotlib.figure
    import matplotlib.patches

    rasterio = gdal.load()
    with rasterio.open(path) as file:
        factor = max(1.0, max(file.shape) / _SIDE)
        shape = max(1, round(file.height / factor)), max(1, round(file.width / factor))
        values = file.read(1, out_shape=shape, resampling=rasterio.enums.Resampling.mode)
        grid = Grid(file.crs, file.transform, file.shape)
    table = np.full((256, 3), 255, np.uint8)
    table[:len(colours)] = colours
    width, height = (_INCHES * side / max(shape) for side in (shape[1], shape[0]))
    across = max(width, _NARROWEST) + 2 * _EDGE
    columns = max(1, int(across / _ENTRY))
    below = _LINE * -(-(len(classes) + 1) // columns) + 0.15
    page = across, height + _ABOVE + below
    figure = matplotlib.figure.Figure(figsize=page, dpi=_DPI)
    axes = figure.add_axes((_EDGE / page[0], below / page[1], 1 - 2 * _EDGE / page[0], height / page[1]))
    axes.imshow(table[values], interpolation="nearest")
    axes.set_axis_off()
    figure.text(_EDGE / page[0], 1 - _ABOVE / 2 / page[1], title, fontsize=8, va="center")
    counts = np.bincount(values[values != NO_DATA], minlength=len(classes))
    patches = [matplotlib.patches.Patch(facecolor=(colour[0] / 255, colour[1] / 255, colour[2] / 255),
                                        edgecolor="black", linewidth=0.4,
                                        label=f"{name} {count / max(1, counts.sum()):.1%}")
               for name, colour, count in zip(classes, colours, counts, strict=True)]
    patches.append(matplotlib.patches.Patch(facecolor="white", edgecolor="black", linewidth=0.4, label="no data"))
    figure.legend(handles=patches, loc="lower left", ncols=min(columns, len(patches)), fontsize=8,
                  frameon=False, bbox_to_anchor=(0.0, 0.0))
    _scale_bar(axes, grid, shape)
    _north(axes, grid, shape)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", facecolor="white")
    atomic.write(out, picture.getvalue())


def _scale_bar(axes, grid: Grid, shape: tuple[int, int]) -> None:
    """Draws a bar of 1, 2 or 5 x 10^n metres, a fifth of the width at most, measured in the middle of the map."""
    metres = _metres(grid, across=1, down=0) * grid.shape[1] / shape[1]  # of a pixel of the picture
    longest = 0.2 * shape[1] * metres
    power = 10 ** np.floor(np.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    left, bottom, thick = 0.03 * shape[1], 0.96 * shape[0], 0.008 * max(shape)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 2}
    axes.text(left + length / metres / 2, bottom - 2 * thick, text, ha="center", va="bottom", fontsize=8, bbox=box)
    axes.add_patch(_rectangle(left, bottom - thick, length / metres, thick))


def _rectangle(left: float, top: float, width: float, height: float):
    import matplotlib.patches

    return matplotlib.patches.Rectangle((left, top), width, height, facecolor="black", edgecolor="white", linewidth=0.8)


def _north(axes, grid: Grid, shape: tuple[int, int]) -> None:
    """Draws an arrow to the north of the middle of the map: not up in a rotated or turned scene."""
    rows, columns = grid.shape
    x, y = grid.transform @ (columns / 2, rows / 2)
    (longitude,), (latitude,) = to_crs(grid.crs, "EPSG:4326", [x], [y])
    (there_x,), (there_y,) = to_crs("EPSG:4326", grid.crs, [longitude], [latitude + 1e-3])
    column, row = ~grid.transform @ (there_x, there_y)
    towards = np.array([column - columns / 2, row - rows / 2])
    towards = towards / np.hypot(*towards) * 0.08 * max(shape)
    middle = np.array([shape[1] - 0.09 * max(shape), 0.1 * max(shape)])
    tail, head = middle - towards / 2, middle + towards / 2
    axes.annotate("", xy=head, xytext=tail, arrowprops={"arrowstyle": "-|>", "linewidth": 1.8, "color": "black"})
    axes.text(*(head + towards * 0.25), "N", ha="center", va="center", fontsize=9, fontweight="bold",
              bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})


def _metres(grid: Grid, across: float, down: float) -> float:
    """Returns the length on the ellipsoid of a step of some pixels, in the middle of the map."""
    from pyproj import Geod

    rows, columns = grid.shape
    points = [grid.transform @ (columns / 2, rows / 2), grid.transform @ (columns / 2 + across, rows / 2 + down)]
    longitudes, latitudes = to_crs(grid.crs, "EPSG:4326", [x for x, _ in points], [y for _, y in points])
    return Geod(ellps="WGS84").inv(longitudes[0], latitudes[0], longitudes[1], latitudes[1])[2]
