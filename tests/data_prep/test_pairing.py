"""Times from names, nearest pairs against a slow search, counts of time gaps."""

import datetime
import json

import numpy as np
import pytest

from data_prep.dates import acquisition_time
from data_prep.pairing import DAY, GapHistogram, nearest_in_time
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name, time", [
    ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57", (2017, 6, 13, 10, 10, 31)),
    ("S1A_IW_GRDH_1SDV_20200510T174031_20200510T174056_032506_03C3BC_30A2", (2020, 5, 10, 17, 40, 31)),  # the start
    ("20200330T052649_20200330T053037_T44RKT", (2020, 3, 30, 5, 26, 49)),
    ("S2B_MSIL2A_20170924T93020_5_55", (2017, 9, 24, 9, 30, 20)),  # BigEarthNet v1 drops the zero of the hour
    ("S2A_20160229T000000", (2016, 2, 29, 0, 0, 0)),
    ("S2A_20161231T235960", (2017, 1, 1, 0, 0, 0)),  # the leap second
])
def test_times_in_names(name, time):
    assert acquisition_time(name) == datetime.datetime(*time, tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize("name", ("S2A_26_57", "", "S2A_20170613", "S2A_20170613T1010", "S2A_120170613T101031",
                                  "S2A_20170613T1010311"))
def test_names_without_a_time(name):
    with pytest.raises(UserError, match=f"no acquisition time in the name '{name}'; expected one like"):
        acquisition_time(name)


@pytest.mark.parametrize("time", ("20171301T101031", "20170013T101031", "20170632T101031", "20170600T101031",
                                  "20170613T241031", "20170613T106031", "20170613T101061", "20180204T94161",
                                  "20170230T101031", "00000613T101031"))
def test_impossible_times(time):
    with pytest.raises(UserError, match=f"'{time}' in the name 'S2A_{time}_26_57' is no time"):
        acquisition_time(f"S2A_{time}_26_57")


def slow_pairs(s1_times, s2_times):
    """Takes the closest pair that is left, again and again."""
    left_1, left_2, pairs = set(range(len(s1_times))), set(range(len(s2_times))), []
    while left_1 and left_2:
        best = min(((i, j) for i in left_1 for j in left_2),
                   key=lambda ij: (abs(s1_times[ij[0]] - s2_times[ij[1]]), s2_times[ij[1]], s1_times[ij[0]], ij))
        pairs.append(best)
        left_1.remove(best[0])
        left_2.remove(best[1])
    return pairs


def test_nearest_pairs_are_those_of_a_slow_search():
    random = np.random.default_rng(0)
    for _ in range(200):
        s1, s2 = (random.integers(0, 12, random.integers(0, 7)).tolist() for _ in range(2))  # many ties
        pairs = nearest_in_time(s1, s2)
        assert sorted(pairs) == sorted(slow_pairs(s1, s2)) and len(pairs) == min(len(s1), len(s2))
        assert [s2[j] for _, j in pairs] == sorted(s2[j] for _, j in pairs)


def test_names_out_of_time_order_are_paired_by_time():
    """Four seasons in the order of their names, S1A before S1B: the order of a list would pair spring with autumn."""
    s1 = ["S1A_IW_20200510T174031", "S1A_IW_20201101T174031", "S1B_IW_20200201T174031", "S1B_IW_20200802T174031"]
    s2 = ["20200203T052649_T44RKT", "20200511T052649_T44RKT", "20200730T052649_T44RKT", "20201030T052649_T44RKT"]
    pairs = nearest_in_time([*map(acquisition_time, s1)], [*map(acquisition_time, s2)])
    assert [(s1[i], s2[j]) for i, j in pairs] == list(zip([s1[2], s1[0], s1[3], s1[1]], s2, strict=True))


def test_gap_histogram_counts_and_adds():
    first, second = GapHistogram(), GapHistogram()
    for gap in (0, 0.99, 1, 2.5, 3, 6.9, 7, 14, 29, 30, 89, 90, 4000):
        first.add({"s1": 10**9, "s2": 10**9 + int(gap * DAY)})
        second.add({"s1": 10**9 + int(gap * DAY), "s2": 10**9})  # the sign does not matter
    assert first.counts == second.counts == [2, 1, 1, 2, 1, 2, 2, 2, 0]
    second.add({"s1": -1, "s2": 10**9})
    second.add({"s1": 10**9, "s2": -1})
    stored = GapHistogram(json.loads(json.dumps(first.counts)))
    stored.merge(second)
    assert stored.counts == [4, 2, 2, 4, 2, 4, 4, 4, 2] and first.counts[0] == 2


def test_gap_histogram_as_text():
    histogram = GapHistogram()
    assert list(histogram.lines()) == ["time between S1 and S2"]
    for gap, count in ((0, 30), (20, 9), (100, 1)):
        for _ in range(count):
            histogram.add({"s1": 0, "s2": gap * DAY})
    histogram.add({"s1": -1, "s2": 0})
    assert [line.split() for line in histogram.lines()] == [
        ["time", "between", "S1", "and", "S2"], ["0-1", "days", "30", "#" * 29], ["14-30", "days", "9", "#" * 9],
        [">=", "90", "days", "1", "#"], ["unknown", "1", "#"]]
