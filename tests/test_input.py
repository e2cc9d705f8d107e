"""Batch t is a function of (seed, t): whoever reads it, wherever a run starts."""

import json
import re

import numpy as np
import pytest

from dual_encoder.data.batches import batches, in_order
from dual_encoder.data.manifest import load_sensors
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick

FEATURES = ("s1", "s2")


def read(records, batch_size=6, start=0, stop=7, rows=None, threads=2, processes=0, seed=3):
    stream = batches(records, seed=seed, batch_size=batch_size, rows=rows or range(batch_size), start=start,
                               stop=stop, threads=threads, processes=processes)
    return list(stream)


@pytest.fixture
def records(write_dataset):
    return Records(write_dataset(train=16, shards=3), "train", FEATURES)


def test_batches_equal_the_slow_reference(records):
    batches = read(records)
    assert len(batches) == 7
    for step, batch in enumerate(batches):
        epoch, within = divmod(step, 2)  # 16 records make two whole batches of 6
        order = np.random.Generator(np.random.Philox(key=[3, epoch])).permutation(16)
        expected = order[within * 6:within * 6 + 6]
        np.testing.assert_array_equal(batch["record"], expected)
        np.testing.assert_array_equal(records.order(3, 6).numbers(step), expected)
        for row, number in enumerate(expected):
            np.testing.assert_array_equal(batch["s1"][row], records.record(int(number))["s1"])
            np.testing.assert_array_equal(batch["s2"][row], records.record(int(number))["s2"])


def test_an_epoch_sees_no_record_twice_and_epochs_differ(records):
    order = records.order(0, 4)
    epochs = [np.concatenate([order.numbers(step) for step in range(4 * e, 4 * e + 4)]) for e in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(16))
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 8}, pytest.param({"processes": 2}, id="processes")])
def test_readers_do_not_change_the_batches(records, options):
    for one, other in zip(read(records), read(records, **options), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_hosts_share_the_global_batch(records):
    whole = read(records)
    for hosts in (2, 3):
        share = 6 // hosts
        parts = [read(records, rows=range(h * share, (h + 1) * share)) for h in range(hosts)]
        for step, batch in enumerate(whole):
            for name in batch:
                np.testing.assert_array_equal(np.concatenate([part[step][name] for part in parts]), batch[name])


def test_a_stream_that_starts_later_continues_exactly(records):
    whole, tail = read(records), read(records, start=3)
    for one, other in zip(whole[3:], tail, strict=True):
        np.testing.assert_array_equal(one["record"], other["record"])
        np.testing.assert_array_equal(one["s2"], other["s2"])


def test_location_marks_records_of_one_place(write_dataset):
    records = Records(write_dataset(train=8, places=4), "train", FEATURES)
    location = np.array([records[number]["location"] for number in range(8)])
    assert location.dtype == np.int32
    np.testing.assert_array_equal(location[:4], location[4:])
    assert len(set(location.tolist())) == 4


def damage(folder, *numbers, split="train"):
    """Flips a byte in the middle of records."""
    shards = sorted(folder.glob(f"*-{split}.*"))
    for shard, offset, length in np.load(folder / f"{split}.index.npy")[list(numbers)].tolist():
        blob = bytearray(shards[shard].read_bytes())
        blob[offset + length // 2] ^= 1
        shards[shard].write_bytes(blob)


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 4}, pytest.param({"processes": 2}, id="processes")])
def test_a_damaged_record_stops_the_stream_with_one_line(write_dataset, options):
    folder = write_dataset(train=16, shards=3)
    damage(folder, 9)
    with pytest.raises(UserError, match=r"is damaged at record 9 \(byte \d+\): the payload does not match") as error:
        read(Records(folder, "train", FEATURES), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 4}, pytest.param({"processes": 2}, id="processes")])
def test_damaged_records_are_replaced_by_the_next_sound_one(write_dataset, options, capsys):
    folder = write_dataset(train=16, shards=3)
    sound = read(Records(folder, "train", FEATURES))
    damage(folder, 2, 3, 15)
    records = Records(folder, "train", FEATURES, max_bad_records=3)
    replacement = {2: 4, 3: 4, 15: 0}
    assert {number for batch in sound for number in batch["record"]} >= set(replacement)
    source = Records(folder, "train", FEATURES, max_bad_records=3)
    for before, after in zip(sound, read(records, **options), strict=True):
        expected = [replacement.get(number, number) for number in before["record"].tolist()]
        assert after["record"].tolist() == expected
        for row, number in enumerate(expected):
            for name in ("s1", "s2", "location"):
                np.testing.assert_array_equal(after[name][row], source[number][name])
    assert sorted(records.bad) == [2, 3, 15]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("train.tfrecord-" in line and "replaced, " in line for line in lines)
    assert any(re.search(r"record 15 \(byte \d+\) .* of at most 3", line) for line in lines)


@pytest.mark.parametrize("options", [{"threads": 2}, pytest.param({"processes": 1}, id="processes")])
def test_more_damage_than_allowed_stops_the_stream(write_dataset, options):
    folder = write_dataset(train=16, shards=3)
    damage(folder, 1, 6, 12)
    with pytest.raises(UserError, match="3 damaged records, the last is shard .*; 2 are allowed: "):
        read(Records(folder, "train", FEATURES, max_bad_records=2), **options)
    damage(folder, 5, 7)
    with pytest.raises(UserError, match="is damaged at record 7 "):
        Records(folder, "train", FEATURES, max_bad_records=2)[5]


def test_a_replacement_comes_from_the_same_folder(write_dataset):
    folders = [write_dataset(train=6, seed=seed) for seed in (1, 2)]
    damage(folders[0], 5)
    damage(folders[1], 5)
    records = Records(",".join(map(str, folders)), "train", FEATURES, max_bad_records=2)
    assert [int(records[number]["record"]) for number in (4, 5, 6, 11)] == [4, 0, 6, 6]
    assert records.record(11)["id"] == records.record(6)["id"] == "train000"


def test_the_ordered_pass_leaves_damaged_records_out(write_dataset, capsys):
    folder = write_dataset(train=10, shards=2)
    damage(folder, 4, 5, 6, 7, 9)
    with pytest.raises(UserError, match="is damaged at record 4 "):
        list(in_order(Records(folder, "train", FEATURES), 4))
    records = Records(folder, "train", FEATURES, max_bad_records=5)
    for _ in range(2):
        passes = list(in_order(records, 4))
        assert [batch["record"][:valid].tolist() for batch, valid in passes] == [[0, 1, 2, 3], [8]]
        assert all(len(batch["s1"]) == 4 for batch, _ in passes)
    assert capsys.readouterr().out.count("\n") == 5, "each is named once"


def test_joined_splits_and_the_ordered_pass(write_dataset):
    records = Records(write_dataset(train=5, test=4), "train+test", FEATURES)
    assert [records.record(n)["id"] for n in range(9)] == [f"train{n:03d}" for n in range(5)] + [
        f"test{n:03d}" for n in range(4)]
    seen = [batch["record"][:valid] for batch, valid in in_order(records, 4)]
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(9))
    assert [len(batch["record"]) for batch, _ in in_order(records, 4)] == [4, 4, 4]


def test_a_batch_larger_than_the_split_is_refused(records):
    with pytest.raises(UserError, match="config.batch_size is 17, the split has 16"):
        records.order(0, 17)


def test_a_feature_that_is_not_stored_is_refused(write_dataset):
    with pytest.raises(UserError, match="no feature 'label', it has"):
        Records(write_dataset(), "train", ("s1", "label"))


def test_statistics_file_replaces_mean_and_std(write_dataset, tmp_path):
    info = Records(write_dataset(), "train", FEATURES).info
    assert load_sensors(info, "") == info.sensors
    changed = {name: spec.to_json() | {"mean": [1.0] * len(spec.bands)} for name, spec in info.sensors.items()}
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"sensors": changed}))
    assert load_sensors(info, str(file))["s1"].mean == (1.0, 1.0)
    changed["s1"]["bands"] = ["VH", "VV"]
    file.write_text(json.dumps({"sensors": changed}))
    with pytest.raises(UserError, match="sensor bands differ"):
        load_sensors(info, str(file))
    with pytest.raises(UserError, match="cannot be read"):
        load_sensors(info, str(tmp_path / "none.json"))
