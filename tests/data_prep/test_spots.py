"""Near-duplicates by their spots: hashes that survive flips, turns, shifts and stretches, against slow references."""

import collections

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from data_prep.look import spots


def texture(seed, size=96, bands=2):
    """An image with structure at several scales, as fields have it; uint16 [size, size, bands]."""
    random = np.random.default_rng(seed)
    layers = [scipy.ndimage.gaussian_filter(random.normal(size=(size, size)), sigma) * sigma for sigma in (1, 2, 5)]
    base = sum(layers)
    image = np.stack([base + 0.2 * random.normal(size=base.shape) for _ in range(bands)], axis=-1)
    return (3000 + 1500 * image).clip(1, 60000).astype(np.uint16)


def stretched(image, random):
    """To 8 bit, each band between two of its percentiles and with a gamma of its own."""
    low, high = (np.percentile(image, share, axis=(0, 1)) for share in (random.uniform(0, 2), random.uniform(98, 100)))
    grey = np.clip((image - low) / np.maximum(high - low, 1e-9), 0, 1) ** random.uniform(0.5, 2, image.shape[-1])
    return np.round(grey * 255).astype(np.uint8)


def planted(image, random, pixels=8):
    """A flipped or turned, shifted and stretched copy; new pixels at the border are mirrored ones."""
    down, right = random.permutation([random.choice([-pixels, pixels]), random.choice([-pixels, 0, pixels])])
    size = len(image)
    wide = np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode="reflect")
    moved = wide[pixels - down:pixels - down + size, pixels - right:pixels - right + size]
    number = int(random.integers(8))
    return stretched(np.stack([spots.turn(moved[..., band], number) for band in range(image.shape[-1])], -1), random)


def described(images):
    codes, motions = zip(*map(spots.describe, images), strict=True)
    return np.array(codes), np.array(motions)


def found(ours, theirs):
    """Pairs (their number, our number) that are near-duplicates."""
    pairs = spots.Index(*described(ours), len(ours[0])).candidates(*described(theirs), len(theirs[0]))
    return {(their, our) for their, our, *motion in pairs.tolist()
            if spots.similarity(ours[our], theirs[their], *motion) >= spots.SAME}


def test_windows_are_those_of_scipy():
    values = np.random.default_rng(0).normal(size=(40, 53))
    for width in (3, 5, 7, 9):
        np.testing.assert_allclose(spots.window(values, width, np.add) / width**2,
                                   scipy.ndimage.uniform_filter(values, width), atol=1e-12)
        for ours, theirs in ((np.maximum, scipy.ndimage.maximum_filter), (np.minimum, scipy.ndimage.minimum_filter)):
            np.testing.assert_array_equal(spots.window(values, width, ours), theirs(values, width))


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8"])
def test_ranks_are_those_of_scipy(dtype):
    info = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(info.min, info.max, (30, 20), dtype, endpoint=True)
    values[0] = info.min
    expected = (scipy.stats.rankdata(values).reshape(values.shape) - 1) / values.size
    np.testing.assert_allclose(spots.ranks(values), expected, atol=1e-6)


@pytest.mark.parametrize("position", range(8))
def test_the_motion_between_two_images_is_found_to_the_pixel(position):
    image = texture(1, 120, 1)
    ours, theirs = image[:100, :100], spots.turn(image[11:111, 4:104, 0], position)[..., None]
    pairs = spots.Index(*described([ours]), 100).candidates(*described([theirs]), 100)
    assert len(pairs) == 1 and pairs[0, 2] == position
    one, other = spots.overlap(ours[..., 0], theirs[..., 0], *pairs[0, 2:].tolist())
    np.testing.assert_array_equal(one, other)
    assert one.size == 89 * 96


def test_images_of_other_sizes_are_compared():
    image = texture(2, 128)
    assert found([image], [image[40:110, 30:100]]) == {(0, 0)}
    assert found([image[40:110, 30:100]], [image]) == {(0, 0)}


def test_candidates_are_those_of_a_dictionary():
    images = [texture(seed, 64) for seed in range(6)]
    others = [images[0], images[3][::-1], texture(9, 64)]
    (codes, motions), (other_codes, other_motions) = described(images), described(others)
    votes = collections.Counter()
    for other in range(len(others)):
        for code, motion in zip(other_codes[other], other_motions[other], strict=True):
            for ours, at in zip(*np.nonzero(codes == code), strict=True):
                if code:
                    position, (down, right) = spots._motion(motions[ours, at][None], 64, motion[None], 64)
                    votes[other, int(ours), int(position[0]), int(down[0]), int(right[0])] += 1
    expected = {key[:2] for key, count in votes.items() if count >= spots.LEAST}
    pairs = spots.Index(codes, motions, 64).candidates(other_codes, other_motions, 64)
    assert {tuple(pair[:2]) for pair in pairs.tolist()} == expected and {(0, 0), (1, 3)} <= expected
    for pair in pairs.tolist():
        assert votes[tuple(pair)] == max(count for key, count in votes.items() if key[:2] == tuple(pair[:2]))


def test_planted_duplicates_are_found_and_others_are_not():
    random = np.random.default_rng(3)
    images = [texture(seed) for seed in range(40)]
    assert found(images, [planted(image, random) for image in images]) == {(at, at) for at in range(40)}
    assert not found(images, [texture(seed) for seed in range(100, 140)])


def test_images_without_texture_have_no_spots():
    for image in (np.full((64, 64, 2), 7, np.uint16), texture(0, spots.least_size() - 1)):
        codes, _ = spots.describe(image)
        assert not codes.any()
    assert spots.describe(texture(0, spots.least_size() + 8))[0].any()
    assert spots.similarity(np.full((64, 64, 1), 7), np.full((64, 64, 1), 9), 0, 0, 0) == 0


def test_many_copies_of_an_image_are_looked_at_in_part_only(monkeypatch):
    monkeypatch.setattr(spots, "_SHARED", 5)
    image = texture(4, 64)
    pairs = spots.Index(*described([image] * 20), 64).candidates(*described([image]), 64)
    assert len(pairs) == 5


def test_real_places_planted_copies_are_found_and_no_false_alarm(real_data):
    with np.load(real_data / "bigearthnet" / "pairs.npz") as file:
        bands = file["s2_bands"].tolist()
        images = list(np.moveaxis(file["s2"], 1, -1)[..., [bands.index("B08"), bands.index("B03")]])
    assert not {(one, other) for one, other in found(images, images) if one != other}  # of 6,555 pairs
    random, hits = np.random.default_rng(5), 0
    for _ in range(3):
        pairs = found(images, [planted(image, random) for image in images])
        hits += len({(at, at) for at in range(len(images))} & pairs)
        assert len({one for one, other in pairs if one != other}) <= 0.01 * len(images)
    assert hits >= 0.99 * 3 * len(images)
