"""Every file of a data set has a digest: one flipped bit anywhere is found, or the right records are read.

S1S2_FLIPS is the number of flips; the default takes seconds.
"""

import hashlib
import json
import os
import subprocess

import numpy as np
import pytest

from data_prep.build import finish, verify
from data_prep.look import inspection, statistics
from dual_encoder.data import digests, manifest_form
from dual_encoder.data.manifest import load_info
from dual_encoder.data.tfrecord import ShardedRecords
from dual_encoder.errors import UserError
from tests.bit_flips import flipped, places

pytestmark = pytest.mark.quick
FLIPS = int(os.environ.get("S1S2_FLIPS", "120"))


@pytest.fixture
def tiny(tiny):
    """The small data set with all the files of a build."""
    folder, images = tiny
    (folder / "features.json").write_text('{"name": "tiny"}\n')
    (folder / "rejected.jsonl").write_text('{"id": "a", "kind": "fault", "reason": "b"}\n')
    (folder / "build.json").write_text('{"raw": "/a", "size": 8}\n')
    digests.write(folder)
    return folder, images


def content(folder):
    """All facts and records of a data set, as training reads them."""
    info = load_info(folder)
    records = {split: ShardedRecords(folder, split) for split in info.shards}
    return info, [part.payload(number) for part in records.values() for number in range(len(part))]


def test_one_flipped_bit_is_found_or_does_no_harm(tiny):
    folder, _ = tiny
    expected = content(folder)
    refused = 0
    for path, rng in places(folder, FLIPS, seed=1):
        with flipped(path, rng) as place:
            where = f"{path.name} {place}"
            try:
                found = list(verify.verify(folder))
            except UserError as error:
                found = [str(error)]
            assert found and all("\n" not in line for line in found), where
            try:
                assert content(folder) == expected, where
            except UserError as error:
                refused += 1
                assert "\n" not in str(error), where
    assert list(verify.verify(folder)) == [] and content(folder) == expected
    assert 0 < refused < FLIPS, "a damaged index is made anew"


def test_the_sums_are_those_of_sha256sum(tiny):
    folder, _ = tiny
    sums = digests.load(folder)
    assert sums is not None and set(sums) == {"manifest.json", "metadata.json", "dataset_info.json", "features.json",
                                              "build.json", "rejected.jsonl", "train.index.npy",
                                              "test.index.npy"}
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


@pytest.mark.parametrize("name", ["manifest.json", "metadata.json", "dataset_info.json", "features.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_each_reader_names_the_file(tiny, tmp_path, name, damage):
    folder, _ = tiny
    if damage == "changed":
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"tiny", b"tinz", 1) + b" ")
    else:
        (folder / name).unlink()
    said = f"{name} does not match its digest in SHA256SUMS" if damage == "changed" else f"{name} is missing"
    for read in (load_info, lambda folder: ShardedRecords(folder, "train"),
                 lambda folder: list(inspection.inspect(folder, "", 4, tmp_path / "sheet.png")),
                 lambda folder: statistics.compute(folder, "train")):
        with pytest.raises(UserError, match=said):
            read(folder)
    if damage == "changed" or name != "manifest.json":
        assert any(said in line for line in verify.verify(folder))


def test_rewrite_makes_manifest_and_index_anew_but_accepts_no_other_damage(tiny):
    folder, _ = tiny
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("manifest.json", "train.index.npy"):
        (folder / name).write_bytes(before[name].replace(b"8", b"9"))
        finish.write(folder)
        assert (folder / name).read_bytes() == before[name]
    (folder / "metadata.json").write_bytes(before["metadata.json"].replace(b"-1254.8", b"-3254.8"))
    with pytest.raises(UserError, match=r"metadata.json does not match its digest .* \(or delete SHA256SUMS"):
        finish.write(folder)
    (folder / "metadata.json").write_bytes(before["metadata.json"])
    for text in (b"", b"0", before["SHA256SUMS"] + b"x\n", before["SHA256SUMS"][:-1]):
        (folder / "SHA256SUMS").write_bytes(text)
        for read in (load_info, finish.write, lambda folder: list(verify.verify(folder))):
            with pytest.raises(UserError, match="SHA256SUMS' is damaged"):
                read(folder)
    (folder / "SHA256SUMS").unlink()
    finish.write(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_data_set_without_digests_opens_and_verify_says_so(tiny, cli):
    folder, _ = tiny
    expected = content(folder)
    (folder / "SHA256SUMS").unlink()
    assert content(folder) == expected

    done = cli("verify", folder)
    assert done.returncode == 0 and "no digests of the small files (SHA256SUMS); write with --rewrite" in done.stdout
    done = cli("verify", folder, "--rewrite")
    assert done.returncode == 0 and "no digests" not in done.stdout and (folder / "SHA256SUMS").exists()
    index = np.load(folder / "train.index.npy")
    index["shard"][4] = 67108865
    np.save(folder / "train.index.npy", index)
    digests.write(folder)
    done = cli("verify", folder)
    assert done.returncode == 1 and "train.index.npy is damaged: row 4 says shard 67108865" in done.stdout
    (folder / "manifest.json").write_text("[]")
    done = cli("verify", folder)
    assert (done.returncode, done.stderr.count("\n"), "Traceback" in done.stderr) == (2, 1, False)


WRONG = (None, [], {}, 3, -1, 10**400, 1.5, float("nan"), float("inf"), True, "x", "\ud800", [[]], {"a": 1}, "\0")


def variants(values):
    """Yields a manifest with each of its values, at any depth, replaced by wrong ones, and each key left out."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in list(items):
        for other in WRONG:
            values[key] = other
            yield values
        values[key] = value
        if isinstance(values, dict):
            kept = dict(values)
            del values[key]
            yield values
            values.clear()
            values.update(kept)
        for _ in variants(value):
            yield values


def test_a_manifest_of_any_form_is_read_or_refused_in_one_line(tiny):
    """Without digests, as of a data set that was built before."""
    folder, _ = tiny
    (folder / "SHA256SUMS").unlink()
    manifest = folder / "manifest.json"
    values = json.loads(manifest.read_text())
    for spec in values["sensors"].values():  # a few values of each kind are enough
        assert len(spec["bands"]) == len(spec["mean"])
    refused = tried = 0
    for _ in variants(values):
        tried += 1
        manifest.write_text(json.dumps(values))
        try:
            content(folder)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).isprintable()
    assert tried > 500 and refused > tried // 3
    for text in (b"", b"{", b"\xff", b"[" * 100000, b"1" * 5000, b'{"a": NaN}', b"null"):
        manifest.write_bytes(text)
        with pytest.raises(UserError, match="manifest.json' is damaged"):
            load_info(folder)


def test_the_form_names_key_and_value(tiny):
    folder, _ = tiny
    whole = json.loads((folder / "manifest.json").read_text())

    def fault(change):
        values = json.loads(json.dumps(whole))
        change(values)
        with pytest.raises(ValueError) as caught:
            manifest_form.parse(json.dumps(values).encode())
        return str(caught.value)

    assert fault(lambda v: v["shards"]["train"][0].update(bytes="7")) == ("shards.train[0].bytes is '7', expected a "
                                                                          "count")
    for name in ("../../x", "/etc/passwd", "a/b", "..", "a\\b"):
        assert "the name of a file in the folder" in fault(lambda v, n=name: v["shards"]["train"][0].update(file=n))
    assert fault(lambda v: v["sensors"]["s1"]["mean"].append(10**400)).startswith("sensors.s1.mean is [")
    assert fault(lambda v: v["tensors"]["s1"].update(shape=[1 << 20, 1 << 20, 2])).startswith("tensors.s1.shape is [")
    assert fault(lambda v: v["sensors"]["s1"].update(scale=float("inf"))) == "it holds the number Infinity"
