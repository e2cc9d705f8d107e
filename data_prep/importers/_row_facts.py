"""The facts that a row of one's own table states about a record: its place on Earth, its times and its cloud."""

import math
from collections.abc import Collection

from data_prep import dates, tables
from data_prep.tables import Row

_LIMITS = {"lat": (-90, 90, "degrees"), "lon": (-360, 360, "degrees"), "cloud": (0, 100, "percent")}


def numbers(row: Row) -> dict[str, float]:
    """Returns lat, lon (degrees) and cloud (percent) of a row, NaN if it does not say; ValueError beyond the limits."""
    return {column: _number(row, column) for column in _LIMITS}


def times(row: Row, features: Collection[str]) -> dict[str, int]:
    """Returns feature -> Unix seconds UTC of the columns s1_time, s2_time; ValueError for what is no time."""
    return {feature: _time(row, feature) for feature in features}


def _number(row: Row, column: str) -> float:
    low, high, unit = _LIMITS[column]
    value = tables.number(row.cells.get(column), column)
    if not (math.isnan(value) or low <= value <= high):
        raise ValueError(f"{column} is {value}, expected {unit}")
    return value


def _time(row: Row, feature: str) -> int:
    try:
        return dates.parse(row.cells.get(f"{feature}_time"))
    except ValueError as error:
        raise ValueError(f"{feature}_time {error}") from error
