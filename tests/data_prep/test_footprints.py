"""Footprints that intersect, against a comparison of every pair."""

import numpy as np
import pytest

from data_prep.look import footprints


def brute(ours, our_metres, theirs, their_metres):
    reach = (our_metres + their_metres) / 2 - footprints.MARGIN
    return {(i, j) for i, one in enumerate(ours) for j, other in enumerate(theirs)
            if (footprints.metres_apart(one, other) < reach).all()}


def found(ours, our_metres, theirs, their_metres):
    index = footprints.Index(ours, our_metres, their_metres)
    pairs = [tuple(pair) for part in index.pairs(theirs) for pair in part.tolist()]
    assert len(pairs) == len(set(pairs))
    return set(pairs)


@pytest.mark.parametrize("lat, lon, spread", [(0, 0, 0.05), (52, 13, 0.05), (-71, 180, 0.2), (89.97, 40, 0.05),
                                              (-89.99, -170, 0.02), (10, -179.99, 0.05)])
def test_all_pairs_are_found_and_no_others(lat, lon, spread):
    random = np.random.default_rng(1)
    def points(count):
        lats = np.clip(lat + random.uniform(-spread, spread, count), -90, 90)
        lons = lon + random.uniform(-spread, spread, count) * (40 if abs(lat) > 89 else 1)
        return np.stack([lats, (lons + 180) % 360 - 180], axis=1)
    ours, theirs = points(200), points(150)
    ours[3], theirs[5, 1] = np.nan, np.nan
    for sizes in ((1200.0, 1200.0), (640.0, 2640.0)):
        expected = brute(ours, sizes[0], theirs, sizes[1])
        assert found(ours, sizes[0], theirs, sizes[1]) == expected and expected


def test_tiles_that_only_touch_share_nothing():
    step = 1200 / footprints.METRES
    ours = np.array([[50.0, 8.0]])
    theirs = np.array([[50 + step, 8.0], [50.0, 8 + step / np.cos(np.radians(50))], [50 + 0.95 * step, 8.0]])
    assert found(ours, 1200.0, theirs, 1200.0) == {(0, 2)}
    assert found(ours, 1200.0, theirs.astype(np.float32).astype(float), 1200.0) == {(0, 2)}  # as they are stored
    assert not found(ours, 10.0, ours, 10.0)  # smaller than the margin


def test_many_records_of_one_place_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr(footprints, "_PAIRS", 50)
    ours, theirs = np.full((40, 2), 7.0), np.full((30, 2), 7.0)
    assert len(found(ours, 1000.0, theirs, 1000.0)) == 1200
