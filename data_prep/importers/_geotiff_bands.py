"""Finds the images of which each band has a file, among the paths of all bands."""

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dual_encoder.imagery.geotiff_json import BAND


class Part(NamedTuple):
    """A path with {band}, the numbers of the bands found for it as bits, and the texts of each * in it."""

    path: str
    bits: int
    stars: str


def whole_images(parts: Sequence[Part], tokens: Sequence[str]) -> Iterator[str]:
    """Yields the path of each image of a place and date.

    A path for which all bands were found is an image. The others belong together if they differ in one * and each band
    is there once, such as the folders R10m and R20m or the numbers at the end of radar names. If a band is missing
    there, an image is yielded all the same: the check of its files names the band.

    Args:
      parts: of one place and date.
      tokens: the text of each band, in the order of the bits.
    """
    complete = (1 << len(tokens)) - 1  # 0: a file holds all bands
    yield from (part.path for part in parts if not complete or part.bits & complete == complete)
    left = [part for part in parts if complete and part.bits & complete != complete]
    stars = range(max((part.stars.count("/") for part in left), default=0))
    for all_bands, varied in itertools.product((True, False), stars):
        def others(part: Part, varied: int = varied) -> list[str]:
            return [text for number, text in enumerate(part.stars.split("/")[:-1]) if number != varied]

        for _, grouped in itertools.groupby(sorted(left, key=others), key=others):
            group = list(grouped)
            bits = [part.bits & complete for part in group]
            once = len(group) > 1 and not any(a & b for a, b in itertools.combinations(bits, 2))
            if once and (sum(bits) == complete or not all_bands) and (joined := _joined(group, tokens)):
                left = [part for part in left if part not in group]
                yield joined
    yield from (part.path for part in left)


def _joined(group: Sequence[Part], tokens: Sequence[str]) -> str:
    """Returns one path with the alternatives of all bands; '' if a name has a character that would confuse it."""
    paths = [next((part for part in group if part.bits >> number & 1), group[0]).path.replace(BAND, token)
             for number, token in enumerate(tokens)]
    if re.search(r"[{}|]", "".join(paths)):
        return ""
    start = os.path.commonprefix(paths)
    ends = [path.removeprefix(start) for path in paths]
    end = os.path.commonprefix([text[::-1] for text in ends])[::-1]
    return f"{start}{{{'|'.join(text.removesuffix(end) for text in ends)}}}{end}"


def bits(token: str, tokens: Mapping[str, str], bands: Sequence[str]) -> int:
    """Returns the bit of the band that has a token; 0 of a band that the sensor does not use."""
    return next((1 << number for number, band in enumerate(bands) if tokens.get(band) == token), 0)
