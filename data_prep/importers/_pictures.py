"""Reads PNG and JPEG pictures of published data sets: grey levels of 8 bits, checked before they take memory."""

import pathlib
import struct
import warnings
import zlib
from collections.abc import Collection

import numpy as np
import PIL
from PIL import Image

from dual_encoder.errors import UserError
from dual_encoder.imagery import file_kinds

KINDS = (file_kinds.PNG, file_kinds.JPEG)
_LARGEST = 1 << 24  # bytes of a file
_LARGEST_SIDE = 4096  # pixels


def read(path: pathlib.Path, modes: Collection[str], size: int = 0, kinds: Collection[str] = KINDS) -> np.ndarray:
    """Reads a picture.

    Args:
      path: the file.
      modes: 'L' (grey) and/or 'RGB'.
      size: height and width that it must have; 0 = any, up to 4096.
      kinds: of files, out of `KINDS`.

    Returns:
      uint8 [height, width, 1] of grey, [height, width, 3] of red, green and blue.

    Raises:
      UserError: missing, damaged, or a picture of another kind, mode or size.
    """
    kind = ""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST)
        kind = file_kinds.kind_of(data[:file_kinds.HEAD])
        if kind not in kinds:
            raise UserError(f"'{path}' is {kind or 'no picture'}, expected {' or '.join(kinds)}; fetch it again")
        if kind == file_kinds.PNG:
            _check_chunks(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked below
            opened = Image.open(path)
        with opened as image:
            _check(path, image, modes, size)
            values = np.asarray(image)
            return values[..., None] if values.ndim == 2 else values
    except UserError:
        raise
    except (PIL.UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, OverflowError, struct.error,
            zlib.error, Image.DecompressionBombError) as error:
        raise UserError(f"'{path}' cannot be read as {kind or 'a picture'} ({error}); fetch it again") from error


def _check(path: pathlib.Path, image: Image.Image, modes: Collection[str], size: int) -> None:
    """Raises UserError for a picture of another size or mode, before its pixels take memory."""
    if size and image.size != (size, size):
        raise UserError(f"'{path}' is {image.height}x{image.width} pixels, expected {size}x{size}; is it a file of "
                        "another data set?")
    if max(image.size) > _LARGEST_SIDE:
        raise UserError(f"'{path}' is {image.height}x{image.width} pixels, expected at most {_LARGEST_SIDE} a side; "
                        "cut it into smaller images")
    if image.mode not in modes:
        raise UserError(f"'{path}' has mode {image.mode}, expected {' or '.join(modes)}; is it a file of another data "
                        "set?")


def _check_chunks(data: bytes) -> None:
    """Raises ValueError unless the chunks of a PNG have their checksums, to the last one: Pillow passes over some."""
    at, name = 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        content = data[at + 4:at + 8 + length]
        if length > len(data) or zlib.crc32(content) != struct.unpack_from(">I", data, at + 8 + length)[0]:
            raise ValueError(f"the checksum of a chunk at byte {at} is wrong")
        at += 12 + length
