"""Random access against the framing read byte by byte; damage is named."""

import json
import pickle
import struct

import numpy as np
import pytest

from dual_encoder import tfrecord
from dual_encoder.errors import UserError


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


def test_a_missing_index_is_rebuilt_from_the_headers(write_dataset):
    folder = write_dataset(train=7, shards=3)
    stored = np.load(folder / "train.index.npy")
    (folder / "train.index.npy").unlink()
    rebuilt = tfrecord.ShardedRecords(folder, "train")._index
    np.testing.assert_array_equal(rebuilt, stored)


def test_records_survive_pickling(write_dataset):
    records = tfrecord.ShardedRecords(write_dataset(), "train")
    first = records.payload(0)
    assert pickle.loads(pickle.dumps(records)).payload(0) == first


@pytest.mark.parametrize("position", [20, -2])  # in the payload; in its checksum
def test_a_flipped_byte_is_named(write_dataset, position):
    folder = write_dataset(train=2, shards=2)
    shard = sorted(folder.glob("*-train.*"))[1]
    blob = bytearray(shard.read_bytes())
    blob[position] ^= 1
    shard.write_bytes(blob)
    records = tfrecord.ShardedRecords(folder, "train")
    records.payload(0)
    with pytest.raises(UserError, match=rf"{shard.name}.*record 1 .*verify"):
        records.payload(1)


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
        tfrecord.load_info("nowhere")
    folder = write_dataset()
    with pytest.raises(UserError, match=f"holds no manifest.json; it is in '{folder}'"):
        tfrecord.load_info(folder.parent)
    with pytest.raises(UserError, match="no split 'valid'; it has"):
        tfrecord.ShardedRecords(folder, "valid")
    next(folder.glob("*-train.*")).unlink()
    with pytest.raises(UserError, match="is missing; restore it"):
        tfrecord.ShardedRecords(folder, "train")


def test_an_index_that_disagrees_is_refused(write_dataset):
    folder = write_dataset()
    np.save(folder / "train.index.npy", np.load(folder / "train.index.npy")[:-1])
    with pytest.raises(UserError, match="has 15 rows, the manifest says 16"):
        tfrecord.ShardedRecords(folder, "train")


def test_a_tensor_of_another_size_is_refused(write_dataset):
    folder = write_dataset()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["tensors"]["s1"]["shape"][0] = 41
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="'s1' has 6400 bytes"):
        tfrecord.ShardedRecords(folder, "train")[0]
