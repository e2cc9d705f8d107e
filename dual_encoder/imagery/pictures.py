"""Stored images as pictures for people, and sheets of pictures with titles and a legend."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dual_encoder.imagery.palette import class_colours, hatched
from dual_encoder.imagery.sensors import SensorSpec

Legend = Mapping[str, tuple[int, int, int] | None]  # text -> colour; None: the hatch

NO_DATA, IGNORED_LABEL = "no data", "no label"
_DEVIATIONS = 2.0  # half of the range of a radar picture
_LOWEST, _HIGHEST = 1, 254  # of a channel; the hatch takes 0 and 255
_TEXT, _LINE, _INK, _GAP, _SWATCH = 13, 16, (29, 39, 51), 4, 14
_LEGEND_WIDTH, _SIDE_WIDTH = 190, 150


def image_to_rgb(image: np.ndarray, spec: SensorSpec) -> np.ndarray:
    """Renders a stored image.

    Red, green and blue are the bands `rgb` of the sensor. Without these: VV, VH and VV-VH (dB) of radar; the first
    three bands of others; the first band as grey if there are not enough. Pixels without data are hatched.

    All radar images of a sensor have the same stretch, two standard deviations around the mean of each band, so that
    equal colours are equal backscatter, in one sheet and in another. Other images are stretched one by one, between
    the 2nd and the 98th percentile of each channel.

    Args:
      image: [height, width, bands] stored integers of `spec`.
      spec: the sensor, with its mean and std.

    Returns:
      uint8 [height, width, 3]; 0 and 255 occur in the hatch alone.
    """
    valid = spec.holds_data(image)
    names = spec.rgb or (spec.bands[:3] if len(spec.bands) >= 3 else spec.bands[:1] * 3)
    if spec.modality == "sar":
        channels = _radar_channels(image.astype(np.float32), spec)
    else:
        values = image.astype(np.float32)
        channels = [_by_percentiles(values[..., spec.bands.index(name)], valid) for name in names]
    return hatched(np.stack(channels, axis=-1), ~valid)


def grid(rows: Sequence[Sequence[np.ndarray]], tile: int, columns: Sequence[str] = (), sides: Sequence[str] = (),
         legend: Legend | None = None) -> Image.Image:
    """Lays pictures out in rows, on white.

    Args:
      rows: pictures, uint8 [height, width, 3] each.
      tile: side of a shown picture in pixels.
      columns: titles over the columns.
      sides: texts to the left of the rows.
      legend: the meaning of the colours, to the right of the pictures.
    """
    legend = legend or {}
    left, top = _SIDE_WIDTH * bool(sides), (_TEXT + 2 * _GAP) * bool(columns)
    right = left + max(len(row) for row in rows) * (tile + _GAP) + _GAP
    height = max(top + len(rows) * (tile + _GAP) + _GAP, bool(legend) * (top + len(legend) * 2 * _SWATCH))
    sheet = Image.new("RGB", (right + _LEGEND_WIDTH * bool(legend), height), "white")
    draw = ImageDraw.Draw(sheet)
    for x, title in enumerate(columns):
        _write(draw, (left + _GAP + x * (tile + _GAP), _GAP), title, tile, 1)
    for y, row in enumerate(rows):
        if sides:
            _write(draw, (_GAP, top + _GAP + y * (tile + _GAP)), sides[y], left - 2 * _GAP, tile // _LINE)
        for x, picture in enumerate(row):
            scaled = Image.fromarray(picture).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(scaled, (left + _GAP + x * (tile + _GAP), top + _GAP + y * (tile + _GAP)))
    for number, (text, colour) in enumerate(legend.items()):
        y = top + _GAP + number * 2 * _SWATCH
        sheet.paste(_swatch(colour), (right + _GAP, y))
        _write(draw, (right + 2 * _GAP + _SWATCH, y), text, _LEGEND_WIDTH - _SWATCH - 3 * _GAP, 1)
    return sheet


def class_legend(names: Sequence[str], chosen: Sequence[str] = (), hatch: str = f"{NO_DATA}, {IGNORED_LABEL}"
                 ) -> dict[str, tuple[int, int, int] | None]:
    """Returns the legend of label pictures.

    Args:
      names: of the classes.
      chosen: their own colours, as of `palette.class_colours`.
      hatch: what the hatch means.
    """
    return dict(zip(names, class_colours(len(names), chosen), strict=True)) | {hatch: None}


def _radar_channels(values: np.ndarray, spec: SensorSpec) -> list[np.ndarray]:
    """Returns the channels of a radar image by the stretch of its sensor; `values` are stored numbers, float32."""
    bands = {name: (values[..., at], spec.mean[at], spec.std[at]) for at, name in enumerate(spec.bands)}
    if spec.rgb:
        return [_within(*bands[name]) for name in spec.rgb]
    first, *others = bands.values()
    if not others:
        return [_within(*first)] * 3
    second = others[0]
    # VV and VH rise and fall together. Their ratio varies less than they do, about as much as one of them alone.
    ratio = first[0] - second[0], first[1] - second[1], (first[2] + second[2]) / 2
    return [_within(*first), _within(*second), _within(*ratio)]


def _within(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    return _stretch(values, mean - _DEVIATIONS * std, mean + _DEVIATIONS * std)


def _by_percentiles(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    if not valid.any():
        return np.full(values.shape, _LOWEST, np.uint8)
    low, high = np.percentile(values[valid], (2, 98))
    return _stretch(values, low, high)


def _stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    return (_LOWEST + share * (_HIGHEST - _LOWEST)).astype(np.uint8)


def _swatch(colour: tuple[int, int, int] | None) -> Image.Image:
    square = np.full((_SWATCH, _SWATCH, 3), colour or 255, np.uint8)
    return Image.fromarray(square if colour else hatched(square, np.ones(square.shape[:2], bool)))


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int, lines: int) -> None:
    """Writes a text in at most `lines` lines of `width` pixels; the middle of what does not fit is left out."""
    font, rest = ImageFont.load_default(_TEXT), " ".join(text.split())

    def fits(part: str) -> bool:
        return draw.textlength(part, font=font) <= width

    for number in range(lines):
        count = len(rest)
        if number == lines - 1:
            while count > 1 and not fits(_shortened(rest, count)):
                count -= 1
            draw.text((at[0], at[1] + number * _LINE), _shortened(rest, count), font=font, fill=_INK)
            return
        while count > 1 and not fits(rest[:count]):
            count -= 1
        draw.text((at[0], at[1] + number * _LINE), rest[:count], font=font, fill=_INK)
        rest = rest[count:]


def _shortened(text: str, count: int) -> str:
    """Returns `count` characters of a text, from its start and its end: ids often differ in their ends alone."""
    return text if count >= len(text) else f"{text[:count // 2]}…{text[len(text) - (count - count // 2):]}"
