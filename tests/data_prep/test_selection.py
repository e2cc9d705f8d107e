"""Filters and splits by area."""

import collections
import math

import numpy as np
import pytest

from data_prep.build.selection import Filters, area, hashed_split
from data_prep.importers import Entry
from data_prep.record import Pair
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick

DAY = 86400


def pair(**facts):
    images = {"s1": np.full((10, 10, 2), -1000, np.int16), "s2": np.full((10, 10, 12), 500, np.uint16)}
    times = {feature: facts.pop(f"{feature}_time", 0) for feature in images}
    return Pair(**{"id": "p", "images": images, "times": times, "location_id": "here", "lat": 1.0,
                   "lon": 2.0, "source": "S",
                   "s2_offset_removed": 0, "split": ""} | facts)


def test_gap_counts_in_both_directions_and_the_bound_is_allowed():
    filters = Filters(max_gap_days=2)
    assert filters.refuse(pair(s1_time=2 * DAY)) == "" == filters.refuse(pair(s2_time=2 * DAY))
    assert filters.refuse(pair(s1_time=2 * DAY + 3600)) == "2.04 days between S1 and S2, --max-gap-days=2"
    assert filters.refuse(pair(s2_time=2 * DAY + 3600)) != ""


def test_unknown_times_and_clouds_cannot_pass_a_filter():
    Filters().require_known(pair(s1_time=-1))
    assert Filters(max_gap_days=2).refuse(pair(s1_time=-1, s2_time=9 * DAY)) == ""  # not to be told before reading
    with pytest.raises(UserError, match="acquisition time of S1 is unknown, --max-gap-days cannot be checked"):
        Filters(max_gap_days=2).require_known(pair(s1_time=-1))
    with pytest.raises(UserError, match="acquisition time of S2 is unknown"):
        Filters(max_gap_days=2).require_known(pair(s2_time=-1))
    with pytest.raises(UserError, match="cloud is unknown"):
        Filters(max_cloud=20).require_known(pair())
    Filters(max_gap_days=2, max_cloud=20).require_known(pair(cloud=90.0))


def test_cloud_and_valid_pixels():
    assert Filters(max_cloud=20).refuse(pair(cloud=20.0)) == ""
    assert Filters(max_cloud=20).refuse(pair(cloud=20.5)) == "20.5 % cloud, --max-cloud=20"
    specs = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}
    gappy = pair()
    gappy.images["s1"][:3] = -32768
    assert Filters(min_valid=0.7).refuse_pixels(gappy, specs) == ""
    reason = Filters(min_valid=0.71).refuse_pixels(gappy, specs)
    assert reason == "70.0% of the pixels of s1 hold data, --min-valid=0.71"


@pytest.mark.parametrize("values", [{"max_gap_days": -1}, {"min_valid": 1.5}, {"max_cloud": 101},
                                    {"max_gap_days": math.nan}])
def test_impossible_filters_are_refused(values):
    with pytest.raises(UserError, match=f"--{next(iter(values)).replace('_', '-')}=.* must be between"):
        Filters(**values)


def test_text_names_only_the_filters_that_are_on():
    assert Filters().to_text() == ""
    assert Filters(max_gap_days=3, max_cloud=10).to_text() == "max_gap_days=3 max_cloud=10"


def test_hashed_split_is_stable_and_about_80_10_10():
    counts = collections.Counter(hashed_split(f"place_{i}") for i in range(20_000))
    assert abs(counts["train"] - 16_000) < 300
    assert abs(counts["validation"] - 2_000) < 200 and abs(counts["test"] - 2_000) < 200
    assert [hashed_split(f"T33UUP_{i}_0") for i in range(6)] == [
        "train", "validation", "train", "test", "validation", "test"]


def test_areas_are_cells_of_the_earth_or_places():
    def at(lat, lon, degrees=1.0):
        return area(Entry("i", "place", "", {}, lat=lat, lon=lon), degrees)

    assert at(0.5, 0.5) == at(0.99, 0.01) != at(-0.01, 0.5)
    assert at(0.5, 0.5) != at(0.5, -0.5) and at(0.5, 0.5) != at(1.0, 0.5)
    assert at(0.5, 0.5, 2.0) == at(1.5, 1.5, 2.0) and at(0.5, 0.5) != at(0.5, 0.5, 2.0)
    assert at(math.nan, 3.0) == at(3.0, math.nan) == "place"
    assert area(Entry("i", "place", "", {}, block="scene"), 1.0) == "scene"
    assert area(Entry("i", "place", "", {}, block="scene", lat=0.5, lon=0.5), 1.0) == at(0.5, 0.5)
