"""Manifest and index: every damage is found and named; a lost manifest comes back as it was."""

import json

import numpy as np
import pytest

from data_prep.build import finish, verify
from dual_encoder.data.manifest import load_info
from dual_encoder.data.tfrecord import ShardedRecords
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick


def test_written_index_reads_every_record(tiny):
    folder, images = tiny
    info = load_info(folder)
    assert [entry["records"] for entry in info.shards["train"]] == [4, 3]
    rows = 0
    for split, count in (("train", 7), ("test", 2)):
        records = ShardedRecords(folder, split)
        assert len(records) == count
        for record in (records[i] for i in range(count)):
            assert record["id"] == f"tile_{rows}".encode()
            for name, array in images.items():
                np.testing.assert_array_equal(record[name], array[rows])
            rows += 1
    assert list(verify.verify(folder)) == []


def test_every_flipped_byte_is_found(tiny):
    folder, _ = tiny
    shard = folder / "tiny-train.tfrecord-00001-of-00002"
    whole = shard.read_bytes()
    index = np.load(folder / "train.index.npy")
    index = index[index["shard"] == 1]
    for row in range(3):
        start, length = int(index["offset"][row]), int(index["length"][row])
        # length, checksum of the length, payload, checksum of the payload
        for position in (start - 12, start - 2, start, start + length // 2, start + length + 3):
            damaged = bytearray(whole)
            damaged[position] ^= 0x10
            shard.write_bytes(damaged)
            found = list(verify.verify(folder))
            assert len(found) == 1 and f"{shard.name} record {row} " in found[0], (position, found)
    shard.write_bytes(whole)
    assert list(verify.verify(folder)) == []


def test_truncated_missing_and_swapped_shards_are_found(tiny):
    folder, _ = tiny
    first, second = (folder / f"tiny-train.tfrecord-0000{i}-of-00002" for i in range(2))
    whole = first.read_bytes()
    first.write_bytes(whole[:len(whole) * 5 // 8])  # in the third of four records
    found = "\n".join(verify.verify(folder))
    assert "bytes" in found and f"{first.name} records 2 to 3 are cut off" in found
    first.unlink()
    assert list(verify.verify(folder)) == [f"{first.name} is missing; restore it or rebuild the data set"]
    # Sound records, but not those that were built: only the digest tells.
    first.write_bytes(whole)
    index = np.load(folder / "test.index.npy")
    test = folder / "tiny-test.tfrecord-00000-of-00001"
    data = test.read_bytes()
    cut = int(index["offset"][1]) - 12
    test.write_bytes(data[cut:] + data[:cut])
    found = list(verify.verify(folder))
    assert len(found) == 1 and "sha256 differs" in found[0]
    assert second.is_file()


def test_damaged_header_without_index_says_what_was_not_checked(tiny):
    folder, _ = tiny
    shard = folder / "tiny-train.tfrecord-00000-of-00002"
    start = int(np.load(folder / "train.index.npy")["offset"][1]) - 12
    data = bytearray(shard.read_bytes())
    data[start] ^= 1
    shard.write_bytes(data)
    (folder / "train.index.npy").unlink()
    found = "\n".join(verify.verify(folder))
    assert "train.index.npy is missing" in found and "record 1" in found and "were not checked" in found


def test_lost_manifest_and_index_come_back_as_they_were(tiny):
    folder, _ = tiny
    names = ("manifest.json", "train.index.npy", "test.index.npy")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    assert list(verify.verify(folder)) == ["manifest.json is missing; write it again with --rewrite"]
    finish.write(folder)
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_wrong_index_and_fingerprint_are_found(tiny):
    folder, _ = tiny
    index = np.load(folder / "train.index.npy")
    index["offset"][2] += 4
    np.save(folder / "train.index.npy", index)
    found = "\n".join(verify.verify(folder))
    assert "train.index.npy is damaged: row 2 says shard 0" in found
    assert "train.index.npy does not match its digest in SHA256SUMS" in found
    finish.write(folder)
    values = json.loads((folder / "manifest.json").read_text())
    values["fingerprint"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(values))
    assert any("fingerprint" in line for line in verify.verify(folder))


def test_rewrite_refuses_damaged_and_lost_shards(tiny):
    folder, _ = tiny
    before = (folder / "manifest.json").read_bytes()
    shard = folder / "tiny-train.tfrecord-00000-of-00002"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    with pytest.raises(UserError, match="is damaged at record 3 .*not rewritten"):
        finish.write(folder)
    shard.unlink()
    with pytest.raises(UserError, match="lacks shard 0 of 2 of split 'train'"):
        finish.write(folder)
    shard.write_bytes(whole)
    (folder / "tiny-test.tfrecord-00000-of-00001").unlink()
    with pytest.raises(UserError, match="dataset_info.json counts"):
        finish.write(folder)
    assert (folder / "manifest.json").read_bytes() == before


def test_fingerprint_follows_content_and_order(tiny):
    folder, _ = tiny
    shards = load_info(folder).shards
    turned = {"train": shards["train"][::-1], "test": shards["test"]}
    assert finish.fingerprint(shards) == finish.fingerprint(dict(reversed(shards.items())))
    assert finish.fingerprint(shards) != finish.fingerprint(turned)


def test_verify_command_exits_with_one_on_damage(tiny, cli):
    folder, _ = tiny
    process = cli("verify", folder)
    assert process.returncode == 0 and "sound: 9 records in 3 shards" in process.stdout
    shard = folder / "tiny-test.tfrecord-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    process = cli("verify", folder)
    assert process.returncode == 1 and "damaged: tiny-test.tfrecord-00000-of-00001 record 0" in process.stdout
    assert process.stderr == ""
    process = cli("verify", "--rewrite", folder)
    assert process.returncode == 2 and process.stderr.count("\n") == 1 and process.stderr.startswith("error: shard")
    process = cli("verify", folder.parent / "nothing")
    assert process.returncode == 2 and "does not exist" in process.stderr
