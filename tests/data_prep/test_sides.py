"""Neighbours cut edge to edge: sides that continue one another, against a comparison of all of them."""

import csv
import itertools

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from data_prep.look import sides


def scene(seed, size, bands=3):
    """A scene with structure at several scales; uint16 [size, size, bands]."""
    random = np.random.default_rng(seed)
    layers = [scipy.ndimage.gaussian_filter(random.normal(size=(size, size, bands)), (scale, scale, 0)) * scale
              for scale in (1, 2, 6)]
    image = layers[0] + layers[1][..., :1] + layers[2][..., :1]  # bands share the coarse structure
    return (6000 + 3000 * image).clip(1, 60000).astype(np.uint16)


def tiles(image, size):
    count = len(image) // size
    return {(row, column): image[row * size:(row + 1) * size, column * size:(column + 1) * size]
            for row, column in itertools.product(range(count), repeat=2)}


def segments(images):
    return np.array([sides.segments(image, np.ones(image.shape[:2], bool)) for image in images])


def found(ours, theirs):
    """Pairs (ours, theirs) whose sides continue one another."""
    pairs = set()
    for part in sides.Index(segments(ours)).candidates(segments(theirs)):
        for our, their, partners in part.tolist():
            one, other = (sides.profiles(image, np.ones(image.shape[:2], bool))[side] for image, side in zip(
                (ours[our], theirs[their]), sides.PARTNERS[partners], strict=True))
            if sides.continues(one, other, len(ours) * len(theirs)):
                pairs.add((our, their))
    return pairs


def neighbours(places):
    return {(i, j) for i, one in enumerate(places) for j, other in enumerate(places)
            if abs(one[0] - other[0]) + abs(one[1] - other[1]) == 1}


@pytest.mark.parametrize("size", [96, 120])
def test_the_neighbours_of_a_scene_are_found_and_no_others(size):
    cut = tiles(scene(0, 4 * size), size)
    assert found(list(cut.values()), list(cut.values())) == neighbours(list(cut))
    assert not found(list(cut.values()), list(tiles(scene(1, 4 * size), size).values()))


def test_a_stretch_of_each_image_of_its_own_changes_nothing():
    random, cut = np.random.default_rng(0), tiles(scene(0, 384), 96)
    grey = [np.round(255 * ((image - image.min()) / np.ptp(image)) ** random.uniform(0.7, 1.4)).astype(np.uint8)
            for image in cut.values()]
    assert found(grey, grey) == neighbours(list(cut))


def test_the_edge_of_missing_data_alone_joins_nothing():
    ours, theirs = scene(1, 96), scene(2, 96)
    ours[:, :40], theirs[:, :40] = 0, 0  # a step at the same place of bottom and top
    assert not found([ours], [theirs])
    there = (ours != 0).any(axis=-1)
    assert not sides.profiles(ours, there)[0][:, :40].any() and sides.profiles(ours, there)[0][:, 41:].any()


def test_plain_sides_join_nothing():
    plain = [np.full((64, 64, 1), value, np.uint16) for value in (5, 9)]
    assert not found(plain, plain)
    steps = np.zeros((1, 63))
    steps[0, 30] = 1
    assert sides.correlation(steps, steps) == (0, 0)  # one step between different values says nothing


def test_deviations_are_those_of_chance():
    random = np.random.default_rng(0)
    for smooth in (0, 1, 3):
        series = random.normal(size=(4000, 2, 127)) + random.normal(size=(4000, 1, 127))
        series = scipy.ndimage.gaussian_filter1d(series, smooth, axis=-1) if smooth else series
        ours, theirs = series[:2000], series[2000:]
        deviations = [sides.correlation(one, other)[1] for one, other in zip(ours, theirs, strict=True)]
        assert abs(np.std(deviations) - 1) < 0.15, smooth


def test_candidates_are_those_of_a_comparison_of_all():
    images = list(tiles(scene(3, 320), 64).values())
    ours, theirs = segments(images[:15]).astype(np.float64), segments(images[5:]).astype(np.float64)
    expected = {(i, j, k) for k, (one, other) in enumerate(sides.PARTNERS) for i in range(len(ours))
                for j in range(len(theirs)) if ours[i, one] @ theirs[j, other] > sides._LIKELY}
    index = sides.Index(ours.astype(np.float16))
    pairs = [tuple(row) for part in index.candidates(theirs.astype(np.float16)) for row in part.tolist()]
    assert set(pairs) == expected and len(pairs) == len(expected)


def test_cells_lose_few_neighbours(monkeypatch):
    monkeypatch.setattr(sides, "_EXACT", 100)
    monkeypatch.setattr(sides, "_NEAR", 270)
    cut = tiles(scene(4, 1440), 96)  # 225 tiles, 15 cells of which 4 are searched
    expected = neighbours(list(cut))
    some = found(list(cut.values()), list(cut.values()))
    monkeypatch.setattr(sides, "_NEAR", 1000)
    everything = found(list(cut.values()), list(cut.values()))
    assert some <= everything <= expected and len(everything) >= 0.97 * len(expected)
    assert 0.75 * len(expected) <= len(some) < len(everything)


def test_ombria_groups_of_scenes(real_data):
    """Sites that the README's groups join by optical borders; pairs must be neighbours in the radar images, too."""
    with open(real_data / "ombria_extra" / "scene_groups.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "already_held"]
    pairs = {}
    for sensor, bands in (("S2", [1, 2, 0]), ("S1", None)):
        images = []
        for row in rows:
            folder = real_data / "ombria" / f"Ombria{sensor}" / row["split"] / "BEFORE"
            with Image.open(folder / f"{sensor}_before_{row['id']}.png") as image:
                images.append(np.asarray(image)[..., bands or np.newaxis])
        pairs[sensor] = {pair for pair in found(images, images) if pair[0] < pair[1]}
    optical, radar = pairs["S2"], pairs["S1"]
    assert len(optical) > 250 and len(optical & radar) >= 0.99 * len(optical)  # two instruments agree
    assert len(optical & radar) >= 0.98 * len(radar)
    crossing = {pair for pair in optical | radar if {rows[at]["split"] for at in pair} == {"train", "test"}}
    tests = {rows[at]["id"] for pair in crossing for at in pair if rows[at]["split"] == "test"}
    assert len(tests) == 19
