"""Stored images as pictures for people: contact sheets, retrieval galleries, segmentation panels."""

import numpy as np
from PIL import Image

from dual_encoder.imagery.sensors import SensorSpec

# Class colours of label pictures: 0 land or other, 1 water, 2 vegetation, ...; 255 (ignored) is white.
_LABEL_COLOURS = ((196, 178, 142), (33, 102, 200), (56, 142, 60), (211, 47, 47), (123, 31, 162), (251, 192, 45),
                  (0, 150, 136), (96, 125, 139), (255, 112, 67), (141, 110, 99))
_NO_DATA_COLOUR = (255, 0, 255)  # magenta


def image_to_rgb(image: np.ndarray, spec: SensorSpec) -> np.ndarray:
    """Renders a stored image.

    Red, green and blue are the bands `rgb` of the sensor. Without these: VV, VH and VV-VH (dB) of radar; the first
    three bands of others; the first band as grey if there are not enough. Each channel is stretched between its 2nd
    and 98th percentile; no-data is magenta.

    Args:
      image: [height, width, bands] stored integers of `spec`.
      spec: the sensor.

    Returns:
      uint8 [height, width, 3].
    """
    values = image.astype(np.float32) * spec.scale
    valid = spec.holds_data(image)
    bands = {name: values[..., at] for at, name in enumerate(spec.bands)}
    first = list(bands.values())
    if spec.rgb:
        channels = [bands[name] for name in spec.rgb]
    elif spec.modality == "sar" and len(first) >= 2:
        channels = [first[0], first[1], first[0] - first[1]]
    else:
        channels = first[:3] if len(first) >= 3 else [first[0]] * 3
    rgb = np.stack([_stretch(channel, valid) for channel in channels], axis=-1)
    return np.where(valid[..., None], rgb, np.array(_NO_DATA_COLOUR, np.uint8))


def class_colour(number: int) -> tuple[int, int, int]:
    """Returns red, green and blue, 0 to 255, of a class in label pictures and maps; classes from 10 on repeat them."""
    return _LABEL_COLOURS[number % len(_LABEL_COLOURS)]


def label_to_rgb(label: np.ndarray) -> np.ndarray:
    """Renders class indices, uint8 [height, width] (255 = ignored, white), as uint8 [height, width, 3]."""
    table = np.full((256, 3), 255, np.uint8)
    for value in range(255):
        table[value] = class_colour(value)
    return table[label]


def grid(rows: list[list[np.ndarray]], tile: int, gap: int = 4) -> Image.Image:
    """Lays pictures (uint8 [h, w, 3] each) out in rows, every one scaled to `tile` pixels, on white."""
    width = max(len(row) for row in rows) * (tile + gap) + gap
    sheet = Image.new("RGB", (width, len(rows) * (tile + gap) + gap), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            scaled = Image.fromarray(picture).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(scaled, (gap + x * (tile + gap), gap + y * (tile + gap)))
    return sheet


def _stretch(channel: np.ndarray, valid: np.ndarray) -> np.ndarray:
    if not valid.any():
        return np.zeros(channel.shape, np.uint8)
    low, high = np.percentile(channel[valid], (2, 98))
    return (np.clip((channel - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
