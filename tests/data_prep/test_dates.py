"""Dates: every form against datetime, what is refused and why, and what counts as a date in a name."""

import datetime
import re

import pytest

from data_prep import dates
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick

MIDNIGHT, EVENING = 1591488000, 1591552860  # 7 June 2020, 00:00:00 and 18:01:00 UTC


@pytest.mark.parametrize("day", ("20200607", "2020-06-07", "2020_06_07", "2020/06/07", "2020159", "2020-159",
                                 "2020_159", "07-JUN-2020", "7 June 2020", "2020-W23-7"))
def test_every_day_with_every_clock(day):
    assert dates.parse(day) == dates.parse(f" {day} ") == MIDNIGHT
    for clock in ("T180100", "t180100", "T18:01:00", " 18:01", "_180100", "-180100", "_18-01-00", "T18-01-00", "T1801",
                  "T18:01:00.987654321", "T180100,5"):
        assert dates.parse(day + clock) == EVENING, clock
        for zone, ahead in (("Z", 0), ("z", 0), (" UTC", 0), ("+02:00", 7200), ("-0530", -19800), ("+02", 7200)):
            assert dates.parse(day + clock + zone) == EVENING - ahead, clock + zone


@pytest.mark.parametrize("value, seconds", [
    ("20200607180100", EVENING), ("202006071801", EVENING), ("20200607180100Z", EVENING), ("20200607Z", MIDNIGHT),
    ("20200607.0", MIDNIGHT), (20200607, MIDNIGHT), (EVENING, EVENING), (float(EVENING), EVENING),
    (f"{EVENING}.75", EVENING), (EVENING * 1000, EVENING), (f"{EVENING}000.0", EVENING),
    (EVENING * 1000 + 999, EVENING),
    (EVENING * 10 ** 6, EVENING), (EVENING * 10 ** 9 + 123456789, EVENING), (float(EVENING * 10 ** 9), EVENING),
    (datetime.date(2020, 6, 7), MIDNIGHT), (datetime.datetime(2020, 6, 7, 18, 1), EVENING),
    (datetime.datetime(2020, 6, 7, 20, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2))), EVENING),
    ("20161231T235960", 1483228800), ("2020366", 1609372800), ("20200229", 1582934400)])
def test_numbers_datetimes_and_leaps(value, seconds):
    assert dates.parse(value) == seconds


@pytest.mark.parametrize("value", (None, "", " ", "NaT", "nan", float("nan"), "None", "null", "<NA>", "N/A", -1, "-1",
                                   -1.0))
def test_nothing_is_unknown(value):
    assert dates.parse(value) == -1


@pytest.mark.parametrize("text, reason", [
    ("01/02/2020", "the day or the month may come first"), ("13/06/2020 18:01", "the day or the month may come first"),
    ("07.06.2020", "the day or the month may come first"), ("07/06/20", "its year has two digits"),
    ("20-06-07", "its year has two digits"), ("200607", "its year has two digits"),
    ("1.59155E+12", "a spreadsheet has rounded it"), ("2020-06", "it names no day"),
    ("2020060718", "may be a day with an hour or Unix seconds"), ("20201345", "month must be in 1..12"),
    ("2021-02-29", "day is out of range for month"), ("2021366", "2021 has no day 366"),
    ("2020000", "2020 has no day 0"),
    ("00000607", "the year is 0"), ("2020-06-07T24:00", "hour must be in 0..23"),
    ("2020-06-07T18:61", "minute must be"),
    ("2020-06-07T18:01:61", "second is 61"), ("2020-06-07T18:01+99:00", "no zone is +99:00 ahead of UTC"),
    ("07-XYZ-2020", "no month is called XYZ"), ("2020-06_07", "is no time;"), ("June", "is no time;"),
    ("2020-06-07T18:01 Europe/Berlin", "is no time;"), ("9" * 30, "too large")])
def test_what_is_impossible_or_ambiguous_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        dates.parse(text)
    assert str(raised.value).startswith(f"'{text}' ") and "expected one like 2020-06-07T18:01:00Z" in str(raised.value)


@pytest.mark.parametrize("name, date", [
    ("a_20200607T180100.tif", "20200607T180100"), ("a_20200607t180100Z.tif", "20200607t180100Z"),
    ("a_20200607180100.tif", "20200607180100"), ("a_20200607_180100.tif", "20200607_180100"),
    ("a_2020-06-07T18-01-00.tif", "2020-06-07T18-01-00"), ("a_2020_06_07.tif", "2020_06_07"),
    ("a_2020159.tif", "2020159"), ("a_2020-159T1801.tif", "2020-159T1801"),
    ("a_20200607T180100.5.tif", "20200607T180100.5"),
    ("a_20200607T180100+0200.tif", "20200607T180100+0200"), (f"a_{EVENING}.tif", str(EVENING)),
    ("a_20200607_185999_x.tif", "20200607"),  # 18:59:99 is no clock: an orbit, perhaps
    ("a_2020-06-07-00_00_2020-06-07-23_59_x.tif", "2020-06-07"), ("a_20200607t180100-20200607t180125-001.tif",
                                                                  "20200607t180100"),
    ("a_2020.06.07.tif", "2020.06.07"), ("a_2020-06-07 180100.tif", "2020-06-07 180100"),
    ("a_1234567.tif", None), ("a_120200607.tif", None), ("a_202006071.tif", None)])
def test_dates_in_names(name, date):
    match = re.fullmatch(rf"(?P<place>[^/]+?)_(?P<date>{dates.IN_NAMES})(?:[-_].*)?\.tif", name)
    assert (match and match["date"]) == date
    if date:
        assert dates.parse(date) >= MIDNIGHT


def test_product_names_may_have_a_small_t():
    name = "s1c-iw-grd-vv-20200607t180100-20200607t180125-001234-00abcd-001"
    assert dates.acquisition_time(name) == dates.acquisition_time(name.upper()) == EVENING
    with pytest.raises(UserError, match="'20200631t180100' in the name"):
        dates.acquisition_time("s1c-20200631t180100")
