"""Finds own GeoTIFFs by the patterns of geotiff.json, and counts the files beside them that fit none.

Names are literal, letter case and brackets included; only {place}, {date}, {band} and * stand for other text. The two
forms in which Unicode writes an accent count as one.
"""

import dataclasses
import functools
import os
import pathlib
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from data_prep import dates
from data_prep.importers import Unmatched
from data_prep.importers import _geotiff_bands as geotiff_bands
from data_prep.importers._geotiff_json import Description
from data_prep.importers._unmatched import UnmatchedFiles, is_data
from dual_encoder.errors import UserError
from dual_encoder.imagery.geotiff_json import NAME

_TOKEN = re.compile(r"\{\w*\}|\*")
_GROUPS = {"place": "[^/]+?", "date": dates.IN_NAMES, "star": "[^/]*?"}


@dataclasses.dataclass(frozen=True)
class Found:
    """A file.

    Attributes:
      place: NFC.
      date: its text, '' = none.
      path: with {band} if each band has a file.
      bits: of the band, 0 = all bands are in the file.
      stars: the text of each *, with a '/' after each.
    """

    place: str
    date: str
    path: str
    bits: int
    stars: str


class Pattern:
    """The names of one section: `files` of geotiff.json, part by part of the path."""

    def __init__(self, section: str, files: str, tokens: Mapping[str, str], bands: Sequence[str] = ()):
        """Compiles a pattern. UserError for unknown parts, or no {place}.

        Args:
          section: 's1', 's2' or 'label'.
          files: the pattern.
          tokens: band -> text in place of {band}.
          bands: of the sensor.
        """
        self.section, self.files = section, files
        self._tokens, self._bands = tokens, bands
        text = unicodedata.normalize("NFC", files.replace("\\", "/"))
        self.parts = [part for part in text.split("/") if part not in ("", ".")]
        self._pieces = [[piece for piece in re.split(rf"({_TOKEN.pattern})", part) if piece] for part in self.parts]
        self._groups = _GROUPS | {"band": "|".join(re.escape(unicodedata.normalize("NFC", token))
                                                   for token in tokens.values())}
        names = [piece.strip("{}") for part in self._pieces for piece in part if _is_wild(piece) and piece != "*"]
        if strange := sorted(set(names) - set(self._groups)):
            raise UserError(f"'{NAME}': {section}.files has '{{{strange[0]}}}'; it may hold {{place}}, {{date}}, "
                            "{band} and *")
        if "place" not in names and section != "label":
            raise UserError(f"'{NAME}': {section}.files is '{files}'; it must hold {{place}}, by which images are "
                            "paired")

    def is_listed(self, depth: int) -> bool:
        """Returns True if the folder that holds part number `depth` is listed, False if that part is plain text."""
        return depth == len(self.parts) - 1 or any(_is_wild(piece) for piece in self._pieces[depth])

    def fits(self, path: str, parts: int, *, whole: bool) -> bool:
        """Returns True if a path of so many parts fits the pattern's beginning, or if `whole` all of it."""
        if parts > len(self.parts) or whole != (parts == len(self.parts)):
            return False
        return self.regex(parts).fullmatch(_composed(path)) is not None

    @functools.lru_cache(maxsize=16)  # noqa: B019 (patterns live as long as a listing)
    def regex(self, parts: int, flags: int = 0) -> re.Pattern[str]:
        """Returns the expression of the first `parts` parts; the second {place} must be the text of the first one."""
        seen: set[str] = set()
        texts = []
        for number, pieces in enumerate(self._pieces[:parts]):
            text = "/" * (number > 0)
            for at, piece in enumerate(pieces):
                name = "star" if piece == "*" else piece.strip("{}")
                if not _is_wild(piece):
                    text += re.escape(piece)
                elif name in seen:
                    text += f"(?P={name})"
                else:
                    text += f"(?P<{name}{f'{number}_{at}' if name == 'star' else ''}>{self._groups[name]})"
                    seen |= {name} - {"star"}
            texts.append(text)
        return re.compile("".join(texts), flags)

    @functools.cached_property
    def tokens(self) -> list[str]:
        """The text of each band of the sensor; [] if a file holds all bands."""
        return [self._tokens[band] for band in self._bands] if any("{band}" in part for part in self._pieces) else []

    def found(self, path: str) -> Found | None:
        """Returns what a file is, None if its path does not fit."""
        match = self.regex(len(self.parts)).fullmatch(_composed(path))
        if match is None:
            return None
        texts = match.groupdict()
        if not self.tokens:
            return Found(texts.get("place", ""), texts.get("date", ""), path, 0, "")
        stars = "".join(text + "/" for name, text in texts.items() if name.startswith("star"))
        bits = geotiff_bands.bits(texts.get("band", ""), self._tokens, self._bands)
        texts["band"] = geotiff_bands.BAND
        template = []
        for number, (pieces, seen) in enumerate(zip(self._pieces, path.split("/"), strict=True)):
            text = "".join(texts[f"star{number}_{at}"] if piece == "*" else texts[piece.strip("{}")]
                           if _is_wild(piece) else piece for at, piece in enumerate(pieces))
            template.append(text if "{band}" in pieces and seen.isascii() else seen if "{band}" not in pieces
                            else unicodedata.normalize("NFD" if seen == unicodedata.normalize("NFD", seen) else "NFC",
                                                       text))
        return Found(texts.get("place", ""), texts.get("date", ""), "/".join(template), bits, stars)


def patterns(said: Description) -> list[Pattern]:
    """Returns the patterns of all sections, also of those that are not built."""
    made = [Pattern(name, images.files, images.tokens, images.spec.bands) for name, images in said.images.items()]
    return made + ([Pattern("label", said.labels.files, {})] if said.labels is not None else [])


class Listing:
    """Lists the files of patterns; see the head of this file."""

    def __init__(self, raw: pathlib.Path, every: Sequence[Pattern]):
        """Prepares to list below `raw`; `every`: all patterns, a file that fits one of them is not unmatched."""
        self._raw, self._every = raw, every
        self._done: list[Pattern] = []  # their folders are not counted again
        self.beside: dict[str, UnmatchedFiles] = {}  # by section

    def find(self, pattern: Pattern) -> Iterator[Found]:
        """Yields the files of a pattern, in any order; all bands of an image have one path and come one by one."""
        self.beside[pattern.section] = UnmatchedFiles(f"a name like '{pattern.files}' ({pattern.section}.files of "
                                                      f"{NAME})")
        yield from self._below(pattern, "", 0)
        self._done.append(pattern)

    def _below(self, pattern: Pattern, folder: str, depth: int) -> Iterator[Found]:
        last = depth == len(pattern.parts) - 1
        if not pattern.is_listed(depth):
            name = self._on_disk(folder, pattern.parts[depth])
            if (self._raw / folder / name).is_dir():
                yield from self._below(pattern, posixpath.join(folder, name), depth + 1)
            return
        counted = not any(done.is_listed(depth) and (depth == 0 or done.fits(folder, depth, whole=False))
                          for done in self._done if depth < len(done.parts))
        with os.scandir(self._raw / folder) as items:
            for item in items:
                if item.name[0] == "." and pattern.parts[depth][0] != ".":  # hidden: '._a.tif' is no image
                    continue
                path = posixpath.join(folder, item.name)
                is_folder = item.is_dir()
                if last and not is_folder and (found := pattern.found(path)):
                    yield found
                elif not last and is_folder and pattern.fits(path, depth + 1, whole=False):
                    yield from self._below(pattern, path, depth + 1)
                elif counted and is_data(item.name) and not any(
                        other.fits(path, depth + 1, whole=not is_folder) for other in self._every):
                    self.beside[pattern.section].add(path + "/" * is_folder)

    def unmatched(self) -> Iterator[Unmatched]:
        """Yields the counts of the files that fit no pattern, of all folders listed so far."""
        for files in self.beside.values():
            for item in files.result():
                near = any(pattern.regex(len(pattern.parts), re.IGNORECASE).fullmatch(item.id)
                           for pattern in self._every)
                yield dataclasses.replace(item, reason=item.reason + ", in this letter case" * near)

    def _on_disk(self, folder: str, name: str) -> str:
        """Returns a plain name in the Unicode form that the folder has."""
        other = unicodedata.normalize("NFD", name)
        return name if (self._raw / folder / name).exists() or not (self._raw / folder / other).exists() else other


def _composed(path: str) -> str:
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def _is_wild(piece: str) -> bool:
    return _TOKEN.fullmatch(piece) is not None
