"""The one grammar of dates, of names and of tables: a text -> Unix seconds UTC.

    day       20200607  2020-06-07  2020_06_07  2020/06/07  2020159  2020-159 (day of the year)  07-JUN-2020  2020-W23-7
    clock     180100  18:01:00  18-01-00  18_01_00  1801  18:01, each perhaps with a fraction; after T, t, _, - or a
              space, or directly after eight digits: 20200607180100
    zone      Z, UTC, +02:00, +0200, -05:00; without one it is UTC
    Unix      seconds, milliseconds, microseconds or nanoseconds, told by their size

A day without a clock is its midnight. Fractions of a second are dropped. Text that can be read in two ways is refused:
01/02/2020 (day or month first), two-digit years, ten digits that are a day and an hour.
"""

import datetime
import functools
import math
import re
from typing import Any

from data_prep.record import UNKNOWN_TIME
from dual_encoder.errors import UserError

LATEST_TIME = 4102444800  # the year 2100: larger Unix times count milliseconds or less
_EXAMPLE = "expected one like 2020-06-07T18:01:00Z"
_NOTHING = {"", "nan", "nat", "none", "null", "na", "n/a", "<na>", "-", str(UNKNOWN_TIME), f"{UNKNOWN_TIME}.0"}
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_DAY = (r"(?P<year>\d{4})(?:(?P<sep>[-_/.]?)(?P<month>\d\d)(?P=sep)(?P<day>\d\d)|[-_]?(?P<doy>\d{3})"
        r"|-?W(?P<week>\d\d)-?(?P<weekday>\d))")
_TEXT_DAY = r"(?P<day>\d\d?)[-/ ](?P<name>[A-Za-z]{3,9})[-/ ](?P<year>\d{4})"
_CLOCK = (r"(?P<hour>\d\d)(?:(?P<colon>[:_-]?)(?P<minute>\d\d)(?:(?P=colon)(?P<second>\d\d)(?:[.,]\d+)?)?"
          r"(?:\s?(?P<zone>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?))?)?(?P<z>Z)?")
_FULL = [re.compile(rf"{day}(?:(?:[T_ -]|(?<=\d{{8}})(?=\d{{4}})){_CLOCK}|(?P<only>Z))?", re.IGNORECASE)
         for day in (_DAY, _TEXT_DAY)]

# In a name the text around a date is anything, so fewer forms count there: the year is one of a satellite's, a clock
# after '_' or '-' has six digits that can be a clock, and '-' begins no zone unless it has a colon.
_TIGHT = r"(?:[01]\d|2[0-3])[0-5]\d(?:[0-5]\d|60)"
_ZONE = r"(?:[Zz]|\+\d\d:?\d\d|-\d\d:\d\d)?"
_NAMED_CLOCK = (r"(?:[Tt](?:\d\d-\d\d-\d\d|\d\d_\d\d_\d\d|\d\d:\d\d:\d\d|\d{6}|\d{4})(?:\.\d+)?" + _ZONE
                + rf"|[_ -](?:{_TIGHT}|\d\d-\d\d-\d\d(?!-?\d)|\d\d_\d\d_\d\d(?!_?\d)|\d\d:\d\d:\d\d){_ZONE}|[Zz])?")
IN_NAMES = (rf"(?<!\d)(?:(?:\d{{8}}|(?:19|20)\d\d-\d\d-\d\d|(?:19|20)\d\d_\d\d_\d\d"
            rf"|(?:19|20)\d\d\.\d\d\.\d\d|(?:19|20)\d\d[-_]?\d{{3}}(?!\d))"
            rf"{_NAMED_CLOCK}|(?:19|20)\d{{12}}{_ZONE}|\d{{13}}|\d{{10}})(?!\d)")  # pattern of a date in a name


def parse(value: Any) -> int:
    """Returns Unix seconds UTC of a text, a number or a datetime; -1 of nothing ('', NaN, NaT, None, -1).

    Raises:
      ValueError: an impossible date, one that can be read in two ways, other text. The message is whole.
    """
    if isinstance(value, float) and math.isfinite(value):
        value = repr(int(value)) if value == int(value) else f"{value:.6f}"  # no exponent: nothing was rounded
    return UNKNOWN_TIME if value is None else _parse(str(value).strip())


@functools.lru_cache(maxsize=4096)  # the dates of one pass occur again and again
def _parse(text: str) -> int:
    if text.lower() in _NOTHING:
        return UNKNOWN_TIME
    if match := re.fullmatch(r"([0-9]{7,8})\.0*", text):  # a day that became a decimal number
        text = match[1]
    if re.fullmatch(r"[0-9]{9,}(\.[0-9]*)?", text) and not re.fullmatch(r"(19|20)[0-9]{10}([0-9]{2})?", text):
        return _unix(text)
    for pattern in _FULL:
        if match := pattern.fullmatch(text):
            return _seconds(text, {key: found for key, found in match.groupdict().items() if found})
    raise ValueError(f"'{text}' is no time{_why(text)}; {_EXAMPLE}")


def acquisition_time(name: str) -> int:
    """Returns the first time in a product or patch name, as Unix seconds UTC; UserError if there is none."""
    match = re.search(r"(?<!\d)(\d{4})(\d\d)(\d\d)[Tt](\d{5,6})(?!\d)", name)
    if match is None:
        raise UserError(f"no acquisition time in the name '{name}'; expected one like 20170613T101031")
    clock = match[4].zfill(6)  # BigEarthNet v1 names drop the leading zero of the hour
    try:
        return _seconds(match[0], {"year": match[1], "month": match[2], "day": match[3], "hour": clock[:2],
                                   "minute": clock[2:4], "second": clock[4:]})
    except ValueError as error:
        raise UserError(f"'{match[0]}' in the name '{name}' is no time; expected one like 20170613T101031") from error


def _seconds(text: str, found: dict[str, str]) -> int:
    """Returns Unix seconds of the parts of a date; ValueError for an impossible one."""
    number = {key: int(part) for key, part in found.items() if part.isdecimal()}
    try:
        if number["year"] < 1900:
            raise ValueError(f"the year is {number['year']}")
        if "doy" in number:
            day = datetime.date(number["year"], 1, 1) + datetime.timedelta(number["doy"] - 1)
            if day.year != number["year"]:
                raise ValueError(f"{number['year']} has no day {number['doy']}")
        elif "week" in number:
            day = datetime.date.fromisocalendar(number["year"], number["week"], number["weekday"])
        else:
            day = datetime.date(number["year"], number["month"] if "month" in number else _month(found["name"]),
                                number["day"])
        second = number.get("second", 0)
        if second > 60:  # 60 is a leap second
            raise ValueError(f"second is {second}")
        whole = datetime.datetime.combine(day, datetime.time(number.get("hour", 0), number.get("minute", 0)),
                                          datetime.UTC)
        return int(whole.timestamp()) + second - _zone(found.get("zone", ""))
    except ValueError as error:
        raise ValueError(f"'{text}' is no time ({error}); {_EXAMPLE}") from error


def _zone(text: str) -> int:
    """Returns the seconds by which a zone, '+02:00', is ahead of UTC."""
    if text[:1] not in ("+", "-"):
        return 0
    digits = text[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 14 or minutes > 59:
        raise ValueError(f"no zone is {text} ahead of UTC")
    return (hours * 3600 + minutes * 60) * (1 if text[0] == "+" else -1)


def _month(name: str) -> int:
    if name[:3].lower() not in _MONTHS:
        raise ValueError(f"no month is called {name}")
    return _MONTHS.index(name[:3].lower()) + 1


def _unix(text: str) -> int:
    """Returns seconds of a Unix time in seconds or in a thousandth, a millionth, a billionth of them."""
    whole = int(text.partition(".")[0])
    if re.fullmatch(r"(19[7-9]|20[0-9])[0-9](0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])([01][0-9]|2[0-3])", text):
        raise ValueError(f"'{text}' may be a day with an hour or Unix seconds; {_EXAMPLE}")
    for unit in (1, 10 ** 3, 10 ** 6, 10 ** 9):
        if whole // unit < LATEST_TIME:
            return whole // unit
    raise ValueError(f"'{text}' is no time (too large for Unix nanoseconds); {_EXAMPLE}")


def _why(text: str) -> str:
    """Returns what is wrong with a text of no known form, ': ...'; '' if nothing can be said."""
    if re.match(r"\d\d?[-/._]\d\d?[-/._]\d{4}(?!\d)", text):
        return ": the day or the month may come first"
    if re.match(r"\d\d?[-/._]\d\d?[-/._]\d\d(?!\d)|\d{6}(?!\d)", text):
        return ": its year has two digits"
    if re.fullmatch(r"\d+([.,]\d+)?[eE][+-]?\d+", text):
        return ": a spreadsheet has rounded it"
    if re.fullmatch(r"\d{4}-?\d\d", text):
        return ": it names no day"
    return ""
