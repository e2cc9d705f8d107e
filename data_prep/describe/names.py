"""Finds the patterns of names, such as 's1/{place}_{date}.tif', that pair the files of several roles."""

import collections
import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

from data_prep import dates
from data_prep.describe.roles import Role, band_of

_SEPARATOR = re.compile(r"[_\-. ]+")
_YEARS = (1388534400, 2082758400)  # 2014 to 2035: Sentinel's; other numbers of eight digits are ids


@dataclasses.dataclass(frozen=True)
class Column:
    """What stands at one position of all names.

    Attributes:
      kind: 'text', 'separator', 'date', 'band' or 'end' (the last letters, '.tif').
      texts: of each file.
      part: number of the folder or file name in the path.
    """

    kind: str
    texts: tuple[str, ...]
    part: int

    @property
    def varies(self) -> bool:
        """True for a text that is not that of all files."""
        return self.kind == "text" and len(set(self.texts)) > 1


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A pattern that fits all names.

    Attributes:
      pattern: of the names.
      places: of the files.
    """

    pattern: str
    places: frozenset[str]


def choose(roles: Mapping[str, Role]) -> dict[str, str]:
    """Returns role -> pattern: those whose places are in all roles, as many as possible, with the fewest '*'.

    {} if the names of two roles have no text in common that could be the place.
    """
    candidates = {name: list(_candidates(role, wild=name != "label")) for name, role in roles.items()}
    images = [name for name in roles if name != "label"]
    best: dict[str, Candidate] = {}
    best_key: tuple[int, int, int] = (0, 0, 0)
    for chosen in itertools.product(*(candidates[name] for name in images)):
        shared = len(frozenset.intersection(*(one.places for one in chosen)))
        stars = sum(one.pattern.count("*") for one in chosen)
        key = (shared, -stars, -sum(one.pattern.count("{place}") for one in chosen))
        if shared and key > best_key:
            best, best_key = dict(zip(images, chosen, strict=True)), key
    if not best:
        return {}
    if "label" in roles:
        places = frozenset.intersection(*(one.places for one in best.values()))
        label = max(candidates["label"], key=lambda one: len(one.places & places), default=None)
        if label is not None and label.places & places:
            best["label"] = label
    return {name: one.pattern for name, one in best.items()}


def usual(role: Role) -> tuple[str, ...]:
    """Returns the paths of the depth and the ending that most files of a role have."""
    def form(path: str) -> tuple[int, str]:
        return path.count("/"), pathlib.PurePosixPath(path).suffix

    (common, _), = collections.Counter(map(form, role.paths)).most_common(1)
    return tuple(path for path in role.paths if form(path) == common)


def _candidates(role: Role, wild: bool) -> Iterator[Candidate]:
    """Yields the patterns of a role, one for each text that may be {place}; without '*' unless `wild`."""
    columns = _columns(usual(role), role.per_band)
    runs = list(_runs(columns))
    for _, _, texts in runs:
        same = [(first, last) for first, last, other in runs if other == texts]
        pattern = _pattern(columns, same)
        if wild or "*" not in pattern:
            yield Candidate(pattern, frozenset(texts))


def _runs(columns: Sequence[Column]) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Yields (first column, last column, their texts) of what may be {place}.

    It begins and ends with a text that varies. If nothing varies (a single image), any text may be it.
    """
    ends = [at for at, column in enumerate(columns) if column.varies]
    ends = ends or [at for at, column in enumerate(columns) if column.kind == "text"]
    for first, last in itertools.combinations_with_replacement(ends, 2):
        part = columns[first:last + 1]
        if all(column.kind in ("text", "separator") and column.part == part[0].part for column in part):
            yield first, last, tuple(map("".join, zip(*(column.texts for column in part), strict=True)))


def _pattern(columns: Sequence[Column], places: Sequence[tuple[int, int]]) -> str:
    """Returns the pattern with {place} for some columns, {date}, {band}, and * for the other texts that vary."""
    text, at = "", 0
    date: tuple[str, ...] = ()
    for number, column in enumerate(columns):
        text += "/" * (number > 0 and column.part != columns[number - 1].part)
        if number < at:  # inside a place
            continue
        if last := max((last for first, last in places if first == number), default=-1) + 1:
            text, at = text + "{place}", last
        elif column.kind == "band":
            text += "{band}"
        elif column.kind == "date" and date in ((), column.texts):
            text, date = text + "{date}", column.texts
        elif column.kind == "date" or column.varies:
            text += "*"
        else:
            text += column.texts[0]
    return re.sub(r"\*([_\-. ]*\*)+", "*", text)


def _columns(paths: Sequence[str], per_band: bool) -> list[Column]:
    """Returns the columns of paths of one depth."""
    parts = list(zip(*(pathlib.PurePosixPath(path).parts for path in paths), strict=True))
    columns: list[Column] = []
    for number, names in enumerate(parts):
        last = number == len(parts) - 1
        end = pathlib.PurePosixPath(names[0]).suffix if last else ""
        stems = [name.removesuffix(end) for name in names]
        columns += [Column(kind, texts, number) for kind, texts in _aligned([_atoms(stem, per_band) for stem in stems])]
        if end:
            columns.append(Column("end", (end,) * len(names), number))
    return columns


def _aligned(names: Sequence[list[tuple[str, str]]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (kind, texts) of each position of some names, each a list of (kind, text).

    Names of several lengths have their first and last positions in common; what is between is one text.
    """
    def form(atoms: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(kind, text if kind == "separator" else "") for kind, text in atoms]

    if all(form(atoms) == form(names[0]) for atoms in names):
        head, tail = len(names[0]), 0
    else:
        head, tail = _equal(names), _equal([atoms[::-1] for atoms in names])
        tail = min(tail, min(map(len, names)) - head)
    for at in range(head):
        yield names[0][at][0], tuple(atoms[at][1] for atoms in names)
    between = ["".join(text for _, text in atoms[head:len(atoms) - tail]) for atoms in names]
    if any(between):
        yield "text", tuple(between)
    for at in range(-tail, 0):
        yield names[0][at][0], tuple(atoms[at][1] for atoms in names)


def _equal(names: Sequence[list[tuple[str, str]]]) -> int:
    """Returns how many first positions are the same in all names; two dates, or two bands, count as the same."""
    def form(atom: tuple[str, str]) -> tuple[str, str]:
        return (atom[0], "") if atom[0] in ("date", "band") else atom

    count = 0
    for position in zip(*names, strict=False):
        if len({form(atom) for atom in position}) > 1:
            break
        count += 1
    return count


def _atoms(name: str, per_band: bool) -> list[tuple[str, str]]:
    """Returns (kind, text) of each part of a name: dates, bands, separators, and the texts between."""
    atoms: list[tuple[str, str]] = []
    at = 0
    for match in re.finditer(dates.IN_NAMES, name):
        if _is_date(match[0]):
            atoms += _split(name[at:match.start()], per_band) + [("date", match[0])]
            at = match.end()
    return atoms + _split(name[at:], per_band)


def _split(text: str, per_band: bool) -> list[tuple[str, str]]:
    pieces = [piece for piece in re.split(rf"({_SEPARATOR.pattern})", text) if piece]
    return [("separator" if _SEPARATOR.fullmatch(piece) else "band" if per_band and band_of(piece) else "text", piece)
            for piece in pieces]


def _is_date(text: str) -> bool:
    try:
        return _YEARS[0] <= dates.parse(text) < _YEARS[1]
    except ValueError:
        return False


def bands(paths: Sequence[str]) -> dict[str, str]:
    """Returns band -> its text in the names of files of one band each, in the order of the sensors' bands."""
    found = {band_of(text): text for path in paths
             for kind, text in _atoms(pathlib.PurePosixPath(path).stem, per_band=True) if kind == "band"}
    return dict(sorted(found.items(), key=lambda item: item[0].replace("B8A", "B08A")))
