"""The results of an evaluation, as tables that describe themselves.

A table names its rows and columns and gives the unit of each column. It says whether more is better, which cells are
the headlines, and where its numbers stand in scores.json. The workdir and the report handle every table by these facts
alone, so a new evaluation changes neither of them.
"""

import dataclasses
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from PIL import Image

from dual_encoder.evaluation.per_image import PerImage

T = TypeVar("T", bound=Hashable)
Value = float | int | None  # None: could not be computed
Scores = dict[str, "Value | Scores"]  # nested dictionaries of numbers
Unit = Literal["share", "percent", "rank", "count", "number"]
Better = Literal["higher", "lower"]

ROW, COLUMN = "{row}", "{column}"  # in Table.keys: the name of the row, of the column


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
      name: key in the scores; unique in the table.
      title: heading.
      unit: how a number is written. 'share': in [0, 1], as 0.750; 'percent': in [0, 1], as 75.0%; 'rank' (1 is best),
        'count' and 'number': with four significant digits.
      better: which direction is better. None: the column describes the data; the report draws no curve of it.
      in_scores: False for a column that follows from the others; scores.json leaves it out.
    """

    name: str
    title: str
    unit: Unit
    better: Better | None = None
    in_scores: bool = True

    def __post_init__(self):
        if self.unit not in get_args(Unit):
            raise ValueError(f"column '{self.name}' has unit {self.unit!r}; expected one of {list(get_args(Unit))}")
        if self.better not in (*get_args(Better), None):
            raise ValueError(f"column '{self.name}' has better={self.better!r}; expected 'higher', 'lower' or None")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: one value per column.

    Attributes:
      name: key in the scores; unique in the table.
      title: text of the first cell.
      values: Python numbers, or None for what could not be computed.
    """

    name: str
    title: str
    values: tuple[Value, ...]

    def __post_init__(self):
        for value in self.values:
            if value is not None and not isinstance(value, int | float):
                raise ValueError(f"row '{self.name}' holds a {type(value).__name__}; expected int, float or None "
                                 "(float(x) makes a Python number of a NumPy one)")


@dataclasses.dataclass(frozen=True)
class Headline:
    """A cell that the report shows at the top of the page.

    Attributes:
      row, column: names of the cell's row and column.
      title: text below the number.
    """

    row: str
    column: str
    title: str


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that the report shows below a table.

    Attributes:
      name: key in Evaluation.images; the file is WORKDIR/evaluation/<name>.png.
      title: heading.
      caption: what the picture shows.
    """

    name: str
    title: str
    caption: str = ""


class Cell(NamedTuple):
    """One number of a table, with its place in the scores."""

    path: tuple[str, ...]  # keys of the nested dictionaries, outermost first
    row: Row
    column: Column
    value: Value


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
      name: identifies the table among all tables of a run, as 'retrieval'.
      title: heading in the report; tables with one title share a section.
      row_title: heading of the first column, which holds the titles of the rows.
      columns, rows: the table itself.
      keys: place of a number in the nested scores, outermost key first. ROW and COLUMN stand for the names of the
        number's row and column. Empty: (name, ROW, COLUMN).
      references: rows to compare with, as 'by chance'; they are no scores.
      headlines: the cells that matter most.
      note: how to read the table.
      class_colours: row i has the colour that class i has in label pictures.
      colours: with `class_colours`, the colours of the classes, as of `palette.class_colours`.
      pictures: shown below the table.
    """

    name: str
    title: str
    row_title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    keys: tuple[str, ...] = ()
    references: tuple[Row, ...] = ()
    headlines: tuple[Headline, ...] = ()
    note: str = ""
    class_colours: bool = False
    pictures: tuple[Picture, ...] = ()
    colours: tuple[str, ...] = ()

    def __post_init__(self):
        for row in (*self.rows, *self.references):
            if len(row.values) != len(self.columns):
                raise ValueError(f"table '{self.name}': row '{row.name}' has {len(row.values)} values; expected "
                                 f"{len(self.columns)}, one per column")
        for headline in self.headlines:
            self.value(headline.row, headline.column)
        if twice := _repeated(cell.path for cell in self.cells()):
            raise ValueError(f"table '{self.name}': two cells have the keys {'/'.join(twice[0])!r} in the scores; give "
                             "each row and each column its own name, and use ROW and COLUMN in `keys`")

    def value(self, row: str, column: str) -> Value:
        """Returns the value of a cell; ValueError if there is no such row or column."""
        values = [cell.value for cell in self._all_cells() if (cell.row.name, cell.column.name) == (row, column)]
        if not values:
            raise ValueError(f"table '{self.name}' has no cell in row '{row}' and column '{column}'")
        return values[0]

    def by_chance(self, row: str, column: str) -> tuple[str, float] | None:
        """Returns title and value of the reference that says what chance gives in a cell; None if there is none.

        References of chance have names that start with 'chance'. If there are several, as for galleries of several
        sizes, the one that shares most values with the row counts.
        """
        at = [one.name for one in self.columns].index(column)
        known = next(one for one in self.rows if one.name == row).values
        found = [(sum(a == b for a, b in zip(one.values, known, strict=True)), one) for one in self.references
                 if one.name.startswith("chance") and one.values[at] is not None]
        if not found:
            return None
        best = max(found, key=lambda pair: pair[0])[1]
        value = best.values[at]
        assert value is not None
        return best.title, float(value)

    def cells(self) -> Iterator[Cell]:
        """Yields the cells that stand in the scores, row by row."""
        return (cell for cell in self._all_cells() if cell.column.in_scores)

    def _all_cells(self) -> Iterator[Cell]:
        for row in self.rows:
            names = {ROW: row.name}
            for column, value in zip(self.columns, row.values, strict=True):
                names[COLUMN] = column.name
                path = tuple(names.get(key, key) for key in self.keys or (self.name, ROW, COLUMN))
                yield Cell(path, row, column, value)

    def to_json(self) -> dict[str, Any]:
        """Returns the table as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Table":
        """Returns the table that `to_json` turned into JSON values.

        Raises:
          ValueError: the values are no table.
        """
        try:
            rows, references = (tuple(Row(**row | {"values": tuple(row["values"])}) for row in values[key])
                                for key in ("rows", "references"))
            return cls(**dict(values) | {
                "columns": tuple(Column(**column) for column in values["columns"]), "rows": rows,
                "references": references, "keys": tuple(values["keys"]),
                "colours": tuple(values.get("colours", ())),
                "headlines": tuple(Headline(**headline) for headline in values["headlines"]),
                "pictures": tuple(Picture(**picture) for picture in values["pictures"])})
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a table of results: {error}") from error


class Goal(NamedTuple):
    """The number that says which of several states is the best.

    Attributes:
      path: its place in the scores, outermost key first.
      sign: 1 if higher is better, -1 if lower is better.
      title: for people.
    """

    path: tuple[str, ...]
    sign: int
    title: str


def goal(tables: Iterable[Table]) -> Goal:
    """Returns the first headline of tables.

    Raises:
      ValueError: no table has a headline in a column with a better direction.
    """
    for table in tables:
        for line in table.headlines:
            for cell in table.cells():
                if (cell.row.name, cell.column.name) == (line.row, line.column) and cell.column.better:
                    return Goal(cell.path, 1 if cell.column.better == "higher" else -1, line.title)
    raise ValueError("no table has a headline in a column with a better direction")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that an evaluation found.

    Attributes:
      tables: with distinct names; no two cells have the same keys in the scores.
      images: file stem -> picture. Table.pictures says below which table the report shows it.
      per_image: name of a table -> what each image adds to its scores.
    """

    tables: tuple[Table, ...]
    images: Mapping[str, Image.Image] = dataclasses.field(default_factory=dict)
    per_image: Mapping[str, PerImage] = dataclasses.field(default_factory=dict)

    def scores(self) -> Scores:
        """Returns the numbers of the tables as nested dictionaries; see `scores`."""
        return scores(self.tables)


def scores(tables: Iterable[Table]) -> Scores:
    """Returns the numbers of tables as nested dictionaries, by the keys that each table gives.

    Raises:
      ValueError: two numbers have the same keys.
    """
    nested: Scores = {}
    for table in tables:
        for cell in table.cells():
            group = nested
            for key in cell.path[:-1]:
                inner = group.setdefault(key, {})
                if not isinstance(inner, dict):
                    raise ValueError(f"table '{table.name}': '{'/'.join(cell.path)}' is below a number of the scores")
                group = inner
            if cell.path[-1] in group:
                raise ValueError(f"table '{table.name}': '{'/'.join(cell.path)}' is in the scores of another table; "
                                 "choose other `keys`")
            group[cell.path[-1]] = cell.value
    return nested


def join(evaluations: Iterable[Evaluation]) -> Evaluation:
    """Returns several evaluations as one, in their order.

    Raises:
      ValueError: two tables or two pictures have one name, or two numbers have the same keys in the scores.
    """
    parts = list(evaluations)
    joined = Evaluation(tuple(table for part in parts for table in part.tables),
                        {name: image for part in parts for name, image in part.images.items()},
                        {name: values for part in parts for name, values in part.per_image.items()})
    for kind, given in (("tables", [table.name for table in joined.tables]),
                        ("pictures", [name for part in parts for name in part.images])):
        if twice := _repeated(given):
            raise ValueError(f"two {kind} have the name '{twice[0]}'; rename one of them")
    scores(joined.tables)
    return joined


def _repeated(values: Iterable[T]) -> list[T]:
    return [value for value, count in Counter(values).items() if count > 1]
