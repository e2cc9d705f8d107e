"""Properties that hold for any input: the order of records, mixtures, TFRecord framing, windows of an image.

Hypothesis chooses the inputs, always the same ones (derandomize), and prints the smallest one that fails.
"""

import collections
import fractions
import pathlib
import tempfile

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as some

from dual_encoder.data import tfrecord
from dual_encoder.data.order import Order, permutation
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster

pytestmark = pytest.mark.quick

few = settings(max_examples=60, derandomize=True, database=None, deadline=None)
seeds = some.integers(0, 2**31 - 1)


@few
@given(seeds, some.integers(0, 2**31), some.integers(1, 500), some.integers(0, 5))
def test_an_epoch_holds_every_record_once(seed, epoch, count, part):
    order = permutation(seed, epoch, count, part)
    assert sorted(order) == list(range(count))
    np.testing.assert_array_equal(order, permutation(seed, epoch, count, part))


@few
@given(seeds, some.integers(1, 80), some.data())
def test_the_batches_of_an_epoch_hold_no_record_twice(seed, count, data):
    batch = data.draw(some.integers(1, count))
    order = Order(seed, [count], (), batch)
    steps = range(order.steps_per_epoch)
    assert len(steps) == count // batch
    numbers = np.concatenate([order.numbers(step) for step in steps])
    assert len(set(numbers)) == len(numbers) and set(numbers) <= set(range(count))


@few
@given(seeds, some.lists(some.tuples(some.integers(1, 40), some.sampled_from([0.1, 0.25, 1, 3, 7.5])), min_size=2,
                         max_size=4),
       some.integers(12, 40), some.integers(1, 12))
def test_a_mixture_keeps_its_shares_exactly(seed, sets, batch, steps):
    counts, weights = zip(*sets, strict=True)
    if sum(counts) < batch:
        with pytest.raises(UserError, match="use a batch of at most"):
            Order(seed, counts, weights, batch)
        return
    order = Order(seed, counts, weights, batch)
    seen, starts = collections.Counter(), np.cumsum([0, *counts])
    for step in range(steps):
        numbers = order.numbers(step)
        assert len(numbers) == batch
        seen.update((np.searchsorted(starts, numbers, side="right") - 1).tolist())
    total = sum(fractions.Fraction(repr(float(weight))) for weight in weights)
    shares = [fractions.Fraction(repr(float(weight))) / total for weight in weights]
    largest = shares.index(max(shares))
    for part, share in enumerate(shares):
        if part != largest:
            assert seen[part] == share * steps * batch // 1
    assert sum(seen.values()) == steps * batch


payloads = some.lists(some.binary(max_size=60), min_size=1, max_size=6)


def frames(records):
    out = b""
    for payload in records:
        length = len(payload).to_bytes(8, "little")
        out += length + tfrecord.masked_crc32c(length).to_bytes(4, "little") + payload
        out += tfrecord.masked_crc32c(payload).to_bytes(4, "little")
    return out


def read(content):
    """The payloads of a file, by `scan` and `read_payload`; None for one that does not match its checksum."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "x.tfrecord")
        path.write_bytes(content)
        with open(path, "rb") as file:
            return [tfrecord.read_payload(file.fileno(), *place) for place in tfrecord.scan(path)]


@few
@given(payloads)
def test_framing_gives_back_what_was_written(records):
    assert read(frames(records)) == records


@few
@given(payloads, some.data())
def test_no_damage_of_a_shard_passes_for_a_record(records, data):
    """A flipped bit is found in its own record; a cut is found unless it falls between two records."""
    content = bytearray(frames(records))
    bit = data.draw(some.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    try:
        seen = read(bytes(content))
    except UserError:
        pass
    else:
        assert [payload for payload in seen if payload is not None] == [
            record for record, payload in zip(records, seen, strict=True) if payload is not None] and None in seen
    cut = data.draw(some.integers(0, len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    try:
        assert read(bytes(content[:cut])) == records[:len(read(bytes(content[:cut])))]
    except UserError:
        pass


@few
@given(some.integers(0, 25), some.integers(0, 25), some.integers(1, 12), some.integers(1, 12),
       some.sampled_from([1, 2, 3]))
def test_a_window_is_that_part_of_the_whole_image(top, left, height, width, coarser):
    """`around`: any place within the image, of pixels of the same or a larger size."""
    values = np.arange(40 * 40, dtype=np.uint16).reshape(1, 40, 40)
    place = rasterio.Affine(10, 0, 600000, 0, -10, 5200000)
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, height=40, width=40, dtype="uint16", crs="EPSG:32632",
                         transform=place) as file:
            file.write(values)
        content = memory.read()
    moved = place @ rasterio.Affine.translation(left, top) @ rasterio.Affine.scale(coarser)
    around = raster.Grid(rasterio.CRS.from_epsg(32632), moved, (height, width))
    part = raster.load(content, "x.tif", around)
    column, row = ~place @ (part.grid.transform.c, part.grid.transform.f)
    row, column = round(row), round(column)
    np.testing.assert_array_equal(part.values, values[:, row:row + part.grid.shape[0],
                                                      column:column + part.grid.shape[1]])
    assert row <= top and column <= left
    assert row + part.grid.shape[0] >= min(40, top + coarser * height)
    assert column + part.grid.shape[1] >= min(40, left + coarser * width)
