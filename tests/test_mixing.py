"""Several data sets by weight: exact shares after any number of steps, and still a function of (seed, step)."""

import fractions
import json

import numpy as np
import pytest

from dual_encoder.data.batches import batches
from dual_encoder.data.order import Order, permutation
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick

FEATURES = ("s1", "s2")


def walk(seed, part, count, start, stop):
    """The slow reference: the records at positions start, ..., stop - 1 of the epochs of one set."""
    return [int(permutation(seed, position // count, count, part)[position % count]) for position in range(start, stop)]


@pytest.mark.parametrize("counts, weights, batch_size", [
    ((50, 7, 20), (0.5, 0.3, 0.2), 16), ((50, 7, 20), (), 16), ((10, 30), (0.1, 0.2), 5), ((3, 100), (1, 2), 8),
    ((9, 9, 9, 9), (1, 1, 1, 1), 12), ((5, 6), (3, 1e-3), 4),
])
def test_shares_are_exact_after_any_number_of_steps(counts, weights, batch_size):
    order = Order(3, counts, weights, batch_size)
    exact = [fractions.Fraction(str(weight)) for weight in weights or counts]
    largest = max(range(len(counts)), key=lambda part: (exact[part], -part))
    starts = np.cumsum((0, *counts))
    seen = [[] for _ in counts]
    for step in range(60):
        numbers = order.numbers(step)
        assert numbers.shape == (batch_size,) and numbers.dtype == np.int64
        for part in range(len(counts)):
            mine = numbers[(numbers >= starts[part]) & (numbers < starts[part + 1])] - starts[part]
            given = len(seen[part])
            assert sorted(mine.tolist()) == sorted(walk(3, part, counts[part], given, given + len(mine)))
            seen[part] += mine.tolist()
        total = (step + 1) * batch_size
        for part in range(len(counts)):
            if part != largest:
                assert len(seen[part]) == int(exact[part] / sum(exact) * total), (step, part)
        assert sum(map(len, seen)) == total


def test_rows_of_a_mixed_batch_are_in_an_order_of_their_own():
    """Hosts take blocks of rows: a host must not get one set only."""
    order = Order(0, (64, 64), (), 32)
    sets = np.array([order.numbers(step) < 64 for step in range(40)])
    assert len(np.unique(sets, axis=0)) == 40, "each step has an order of its own"
    share = sets[:, :16].mean(axis=1)
    assert 0.4 < share.mean() < 0.6 and 0 < share.min() and share.max() < 1
    assert (Order(0, (64, 64), (), 32).numbers(0) != Order(1, (64, 64), (), 32).numbers(0)).any()


def test_sets_of_one_size_have_orders_of_their_own():
    orders = [walk(0, part, 40, 0, 40) for part in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_one_set_has_the_order_that_it_always_had():
    """Runs that were started before mixing existed go on with the same batches."""
    order = Order(7, (20,), (), 6)
    assert order.steps_per_epoch == 3
    for step in range(9):
        expected = np.random.Generator(np.random.Philox(key=[7, step // 3])).permutation(20)
        np.testing.assert_array_equal(order.numbers(step), expected[step % 3 * 6:step % 3 * 6 + 6])


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("nan")), (1.0, 1.0, 1.0)])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(UserError, match=r"config.data.weights is .*, config.data.dir names 2 data set\(s\); give one"):
        Order(0, (10, 10), weights, 4)


def test_a_batch_too_small_to_mix_is_refused():
    """Five equal sets, two rows: four sets would be due for a row in the same batch."""
    with pytest.raises(UserError, match="batch_size is 2, too small to mix 5 data sets by weight; use at least 20"):
        Order(0, (10,) * 5, (), 2)
    Order(0, (10,) * 5, (), 20)
    with pytest.raises(UserError, match="config.batch_size is 21, the split has 20 records; use a batch of at most 20"):
        Order(0, (10, 10), (), 21)


@pytest.fixture
def folders(write_dataset):
    return write_dataset(train=11, test=3, seed=1), write_dataset(train=30, test=5, seed=2)


def joined(folders):
    return ",".join(map(str, folders))


def read(records, rows=range(8), start=0, stop=9, **options):
    options = {"threads": 2, "processes": 0, **options}
    return list(batches(records, seed=3, batch_size=8, rows=rows, start=start, stop=stop, **options))


def assert_equal_batches(ones, others):
    for one, other in zip(ones, others, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_numbers_count_through_the_folders(folders):
    records = Records(joined(folders), "train", FEATURES)
    apart = [Records(folder, "train", FEATURES) for folder in folders]
    assert len(records) == 41
    for number, (one, within) in {0: (0, 0), 10: (0, 10), 11: (1, 0), 40: (1, 29)}.items():
        np.testing.assert_array_equal(records[number]["s2"], apart[one][within]["s2"])
        assert records.record(number)["id"] == apart[one].record(within)["id"]


def test_hosts_readers_and_restarts_do_not_change_a_mixed_batch(folders):
    records = Records(joined(folders), "train", FEATURES, weights=(0.7, 0.3))
    whole = read(records)
    for batch in whole:
        for row, number in enumerate(batch["record"]):
            np.testing.assert_array_equal(batch["s1"][row], records[number]["s1"])
    for hosts in (2, 4):
        parts = [read(records, rows=range(h * 8 // hosts, (h + 1) * 8 // hosts)) for h in range(hosts)]
        assert_equal_batches(whole, [{name: np.concatenate([part[step][name] for part in parts]) for name in batch}
                                     for step, batch in enumerate(whole)])
    assert_equal_batches(whole[5:], read(records, start=5))
    assert_equal_batches(whole, read(records, threads=1, processes=2))
    first_set = sum((batch["record"] < 11).sum() for batch in whole)
    assert first_set == 9 * 8 - 9 * 8 * 3 // 10


def test_evaluation_takes_the_folders_that_have_the_split(folders, write_dataset):
    without = write_dataset(train=4, test=0, seed=4)
    manifest = json.loads((without / "manifest.json").read_text())
    del manifest["shards"]["test"]
    (without / "manifest.json").write_text(json.dumps(manifest))
    everything = joined((folders[0], without, folders[1]))
    records = Records(everything, "test", FEATURES, partial=True)
    assert len(records) == 8
    assert [records.record(n)["id"] for n in (0, 2, 3, 7)] == ["test000", "test002", "test000", "test004"]
    with pytest.raises(UserError, match=f"'{without}' has no split 'test'"):
        Records(everything, "test", FEATURES)
    with pytest.raises(UserError, match=r"has no split 'none'; it has \['test', 'train'\]"):
        Records(everything, "none", FEATURES, partial=True)
    assert records.info == Records(everything, "train", FEATURES).info, "a run compares the fingerprints of the two"


def test_the_description_of_a_mixture(folders):
    one, other = (Records(folder, "train", FEATURES).info for folder in folders)
    both = Records(joined(folders), "train", FEATURES).info
    assert (both.name, both.config, both.version) == ("s1s2_pairs", "synthetic", "1.0.0")
    assert both.source == one.source and both.sensors == one.sensors and both.tensors == one.tensors
    assert sum(entry["records"] for entry in both.shards["train"]) == 41
    assert len({one.fingerprint, other.fingerprint, both.fingerprint,
                Records(joined(folders[::-1]), "train", FEATURES).info.fingerprint}) == 4
    assert Records(folders[0], "train", FEATURES).info.fingerprint == one.fingerprint


@pytest.mark.parametrize("options, message", [
    ({"size": 50}, r"'{}' stores 's1' as int16\[40, 40, 2\], '{}' as int16\[50, 50, 2\]; mix data sets of one size"),
    ({"sensors": ("s1_grd", "s2_l1c")}, r"'{}' stores 's2' as uint16\[40, 40, 12\], '{}' as uint16\[40, 40, 13\]"),
    ({"sensors": ("s1_rtc", "s2_l2a")}, r"sensor unit differ: '{1}' has 's1_rtc' .* '{0}' expects 's1_grd'"),
])
def test_data_sets_that_differ_are_refused_with_both_names(folders, write_dataset, options, message):
    other = write_dataset(**options)
    with pytest.raises(UserError, match=message.format(folders[0], other)):
        Records(joined((folders[0], other)), "train", FEATURES)


def test_labelled_and_unlabelled_folders_mix_for_what_both_have(folders, write_dataset):
    labelled = write_dataset(labels=True)
    assert len(Records(joined((folders[0], labelled)), "train", FEATURES)) == 27
    with pytest.raises(UserError, match=f"data set '{folders[0]}' has no feature 'label'"):
        Records(joined((labelled, folders[0])), "train", ("s1", "label"))
    others = write_dataset(labels=True)
    manifest = json.loads((others / "manifest.json").read_text())
    manifest["classes"] = ["wet", "dry"]
    (others / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=rf"'{labelled}' has classes \['dry', 'wet'\], '{others}' has \['wet', 'dry'\]"):
        Records(joined((labelled, others)), "train", ("s1", "label"))


def test_places_of_two_importers_stay_apart_and_those_of_one_meet(folders):
    def places():
        records = Records(joined(folders), "train", FEATURES)
        return [int(records[number]["location"]) for number in (0, 11)]  # 'place0' in both
    one, other = places()
    assert one == other
    manifest = json.loads((folders[1] / "manifest.json").read_text())
    manifest["source"]["importer"] = "another"
    (folders[1] / "manifest.json").write_text(json.dumps(manifest))
    one, other = places()
    assert one != other
