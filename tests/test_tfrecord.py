"""Random access against the framing read byte by byte; damage is named."""

import contextlib
import io
import json
import os
import pickle
import struct

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from dual_encoder.data import tfrecord
from dual_encoder.data.manifest import load_info
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick


def payloads(path):
    """The slow reference: walks through the file, trusting nothing but the framing."""
    blob, start = path.read_bytes(), 0
    while start < len(blob):
        (length,) = struct.unpack_from("<Q", blob, start)
        yield blob[start + 12:start + 12 + length]
        start += 16 + length


def test_masked_crc_of_known_value():
    # crc32c("123456789") = 0xE3069283 (RFC 3720, appendix B.4 lists the polynomial); masked as TensorFlow does.
    crc = 0xE3069283
    assert tfrecord.masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_every_record_equals_the_slow_reference(write_dataset):
    folder = write_dataset(train=7, shards=3)
    records = tfrecord.ShardedRecords(folder, "train")
    expected = [p for shard in sorted(folder.glob("*-train.*")) for p in payloads(shard)]
    assert len(records) == len(expected) == 7
    for number in np.random.default_rng(0).permutation(7):
        assert records.payload(int(number)) == expected[number]
    record = records[4]
    assert record["id"] == b"train004" and record["s1"].shape == (40, 40, 2) and record["s1"].dtype == np.int16


def test_a_missing_index_is_rebuilt_from_the_headers(write_dataset, capsys):
    folder = write_dataset(train=70, shards=30)
    stored = np.load(folder / "train.index.npy")
    (folder / "train.index.npy").unlink()
    rebuilt = tfrecord.ShardedRecords(folder, "train")._index
    np.testing.assert_array_equal(rebuilt, stored)
    out = capsys.readouterr().out
    assert f"'{folder}/train.index.npy' is missing: rebuilt from the headers of 30 shards in" in out
    assert f"`python -m data_prep verify --rewrite {folder}` writes it" in out and out.count("\n") == 1


def damaged_indices(file):
    """Damages of an index file, each with the text that says it."""
    whole, index = file.read_bytes(), np.load(file)
    yield from ((whole[:keep], "it cannot be read: ") for keep in (0, 5, -7))
    # An opening parenthesis in the header becomes another character.
    yield whole.replace(b"(", b")", 1), "it cannot be read: "
    yield whole.replace(b"'<i8'", b"'<f8'"), "it holds 1 dimensions of "
    for field, value in (("shard", 2), ("shard", -1), ("shard", 67108864), ("offset", -5), ("offset", 2**62),
                         ("length", -1), ("length", 0), ("length", 2**31 - 1)):
        other = index.copy()
        other[field][3] = value
        buffer = io.BytesIO()
        np.save(buffer, other)
        yield buffer.getvalue(), "row "
    buffer = io.BytesIO()
    np.save(buffer, index[:-1])
    yield buffer.getvalue(), "it has 15 rows, the manifest says 16 records"


def test_a_damaged_index_is_rebuilt(write_dataset, capsys):
    folder = write_dataset()
    file = folder / "train.index.npy"
    expected = np.load(file)
    for data, reason in list(damaged_indices(file)):
        file.write_bytes(data)
        np.testing.assert_array_equal(tfrecord.ShardedRecords(folder, "train")._index, expected)
        out = capsys.readouterr().out
        assert f"'{file}' is damaged ({reason}" in out and "rebuilt from the headers of 2 shards" in out, reason
        assert out.count("\n") == 1


def test_a_lost_index_and_shards_of_another_data_set_are_refused(write_dataset):
    folder = write_dataset()
    manifest = folder / "manifest.json"
    values = json.loads(manifest.read_text())
    values["shards"]["train"][0]["records"] += 1
    manifest.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"it has 16 rows, the manifest says 17 records\); run"):
        tfrecord.ShardedRecords(folder, "train")


def rows_of(records, features=("s1", "s2")):
    tensors = {name: records.info.tensors[name] for name in features}
    return {name.encode(): np.zeros(np.prod(info.shape) * np.dtype(info.dtype).itemsize, np.uint8)
            for name, info in tensors.items()}


def read_into(records, number, rows):
    """As a batch is read: by the layout, if it is known and fits."""
    reading = records.prepare(number, rows)
    return reading.location if reading and reading.run() else records.read_into(number, rows)


def assert_read_into_equals_the_slow_way(records, numbers, features=("s1", "s2")):
    for number in numbers:
        rows, expected = rows_of(records, features), records[number]
        assert read_into(records, number, rows) == expected["location_id"]
        for name in features:
            assert rows[name.encode()].tobytes() == expected[name].tobytes(), (number, name)


@pytest.mark.parametrize("features", [("s1", "s2"), ("s2", "s1"), ("label",), ("s2",)])
def test_reading_into_place_equals_the_slow_way(write_dataset, features, monkeypatch):
    records = tfrecord.ShardedRecords(write_dataset(train=30, shards=3, labels=True), "train")
    assert_read_into_equals_the_slow_way(records, range(30), features)
    # Records whose place has one digit or two: two lengths, both learnt.
    assert len(records._layouts) == 2 and all(records._layouts.values())
    monkeypatch.setattr(records, "_read", None)
    assert read_into(records, 3, rows_of(records, features))  # at once, by the learnt layout


def write_shard(folder, payloads):
    """Replaces split 'train' by one shard of these records."""
    blob, index = b"", []
    for payload in payloads:
        header = struct.pack("<Q", len(payload))
        index.append((0, len(blob) + 12, len(payload)))
        blob += header + struct.pack("<I", tfrecord.masked_crc32c(header)) + payload
        blob += struct.pack("<I", tfrecord.masked_crc32c(payload))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"]["train"] = [{"file": "shard", "bytes": len(blob), "records": len(index), "sha256": ""}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "shard").write_bytes(blob)
    np.save(folder / "train.index.npy", np.array(index, tfrecord.INDEX_DTYPE))
    return tfrecord.ShardedRecords(folder, "train")


def respelt(payload, **texts):
    example = tf_example_pb2.Example.FromString(payload)
    for name, text in texts.items():
        example.features.feature[name].bytes_list.value[:] = [text]
    return example.SerializeToString(deterministic=True)


def test_records_of_one_length_and_different_layouts(write_dataset):
    """The id grows by what the source shrinks: the images move, the length stays."""
    folder = write_dataset(train=4, shards=1)
    payload = next(payloads(next(folder.glob("*-train.*"))))
    variants = [respelt(payload, id=b"i" * (4 + n), source=b"s" * (9 - n), location_id=b"%d" % n) for n in (0, 3, 0, 5)]
    assert len({len(variant) for variant in variants}) == 1
    records = write_shard(folder, [*variants, payload])
    assert_read_into_equals_the_slow_way(records, [0, 2, 0, 1, 3, 2, 1, 4, 0])
    assert list(records._layouts.values()).count(None) == 1, "given up for that length, not read twice each time"


def test_a_record_that_only_the_protobuf_library_can_read(write_dataset):
    folder = write_dataset(train=2, shards=1)
    payload = next(payloads(next(folder.glob("*-train.*"))))
    example = tf_example_pb2.Example.FromString(payload)
    parts = [tf_example_pb2.Example() for _ in range(2)]
    for number, (name, feature) in enumerate(sorted(example.features.feature.items())):
        parts[number % 2].features.feature[name].CopyFrom(feature)
    split = b"".join(part.SerializeToString() for part in parts)  # protobuf merges the two
    records = write_shard(folder, [payload, split, payload])
    assert_read_into_equals_the_slow_way(records, [1, 0, 1, 2, 1])


@pytest.mark.parametrize("change, message", [
    (lambda example: example.features.feature.pop("s2"), "feature 's2' has no single value of bytes"),
    (lambda example: example.features.feature["s2"].bytes_list.value.append(b""), "feature 's2' has no single value"),
    (lambda example: example.features.feature["s1"].Clear(), "feature 's1' has no single value"),
    (lambda example: example.features.feature.pop("location_id"), "feature 'location_id' is None, expected one text"),
])
def test_a_record_without_what_a_step_needs_is_named(write_dataset, change, message):
    folder = write_dataset(train=2, shards=1)
    good = next(payloads(next(folder.glob("*-train.*"))))
    example = tf_example_pb2.Example.FromString(good)
    change(example)
    records = write_shard(folder, [good, example.SerializeToString(deterministic=True), good[:-1]])
    read_into(records, 0, rows_of(records))
    for _ in range(2):
        with pytest.raises(UserError, match=rf"shard '{folder}/shard' record 1 \(byte \d+\): {message}"):
            read_into(records, 1, rows_of(records))
        with pytest.raises(UserError, match=r"record 2 \(byte \d+\): \d+ bytes are not a tf.train.Example"):
            read_into(records, 2, rows_of(records))
    read_into(records, 0, rows_of(records))


def test_records_survive_pickling(write_dataset):
    records = tfrecord.ShardedRecords(write_dataset(), "train")
    first = records.payload(0)
    copy = pickle.loads(pickle.dumps(records))
    assert copy.payload(0) == first
    assert_read_into_equals_the_slow_way(copy, range(16))


@pytest.mark.parametrize("position", [20, -2])  # in the payload; in its checksum
def test_a_flipped_byte_is_named(write_dataset, position):
    folder = write_dataset(train=2, shards=2)
    shard = sorted(folder.glob("*-train.*"))[1]
    blob = bytearray(shard.read_bytes())
    blob[position] ^= 1
    shard.write_bytes(blob)
    records = tfrecord.ShardedRecords(folder, "train")
    records.payload(0)
    with pytest.raises(tfrecord.DamagedRecord, match=rf"{shard.name}.*record 1 .*verify"):
        records.payload(1)
    for before in (1, 0, 0, 1):  # by the index, and by the layout that the first record taught
        with contextlib.suppress(tfrecord.DamagedRecord):
            read_into(records, before, rows_of(records))
        with pytest.raises(tfrecord.DamagedRecord, match=rf"{shard.name}.*record 1 \(byte 12\).*verify"):
            read_into(records, 1, rows_of(records))


def test_a_shard_cut_off_while_it_is_read_is_named(write_dataset):
    folder = write_dataset(train=4, shards=1)
    records, shard = tfrecord.ShardedRecords(folder, "train"), next(folder.glob("*-train.*"))
    read_into(records, 0, rows_of(records))
    os.truncate(shard, shard.stat().st_size - 10)
    read_into(records, 2, rows_of(records))
    with pytest.raises(tfrecord.DamagedRecord, match="record 3 "):
        read_into(records, 3, rows_of(records))


def test_a_truncated_shard_is_named(write_dataset):
    folder = write_dataset(train=4, shards=1)
    shard = next(folder.glob("*-train.*"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(UserError, match=rf"{shard.name}.*bytes, the manifest says"):
        tfrecord.ShardedRecords(folder, "train")
    with pytest.raises(UserError, match="damaged at record 3"):
        list(tfrecord.scan(shard))


def test_a_flipped_header_is_named(write_dataset):
    folder = write_dataset(train=1, shards=1)
    shard = next(folder.glob("*-train.*"))
    blob = bytearray(shard.read_bytes())
    blob[1] ^= 1
    shard.write_bytes(blob)
    with pytest.raises(UserError, match="record 0 .*header does not match"):
        list(tfrecord.scan(shard))


def test_missing_folder_manifest_split_shard(write_dataset):
    with pytest.raises(UserError, match="'nowhere' does not exist"):
        load_info("nowhere")
    folder = write_dataset()
    with pytest.raises(UserError, match=f"holds no manifest.json; it is in '{folder}'"):
        load_info(folder.parent)
    with pytest.raises(UserError, match="no split 'valid'; it has"):
        tfrecord.ShardedRecords(folder, "valid")
    next(folder.glob("*-train.*")).unlink()
    with pytest.raises(UserError, match="is missing; restore it"):
        tfrecord.ShardedRecords(folder, "train")


def test_a_tensor_of_another_size_is_refused(write_dataset):
    folder = write_dataset()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["tensors"]["s1"]["shape"][0] = 41
    (folder / "manifest.json").write_text(json.dumps(manifest))
    records = tfrecord.ShardedRecords(folder, "train")
    for read in (records.__getitem__, lambda number: read_into(records, number, rows_of(records))):
        with pytest.raises(UserError, match=r"record 0 \(byte 12\): feature 's1' has 6400 bytes, int16\[41, 40, 2\]"):
            read(0)
