"""One way to read, on a disk and in a bucket. The bucket is a folder behind fsspec's interface."""

import os
import pathlib
import shutil
import subprocess
import sys

import fsspec
import numpy as np
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from dual_encoder.data import records, tfrecord
from dual_encoder.data.batches import batches
from dual_encoder.data.manifest import load_info
from dual_encoder.errors import UserError
from dual_encoder.storage import files

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent


class FolderBuckets(DirFileSystem):
    """gs://bucket/... is ROOT/bucket/...; names are 'bucket/...', as gcsfs has them. Notes each request in `asked`."""

    protocol = "gs"
    cachable = False
    root = ""
    asked = []
    refusal = None

    def __init__(self, **_):
        super().__init__(path=self.root, fs=LocalFileSystem())

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("gs://").strip("/")

    def _ask(self, method, *arguments, **options):
        self.asked.append(method)
        if self.refusal:
            raise self.refusal
        return getattr(super(), method)(*arguments, **options)

    def ls(self, path, detail=False, **options):
        return self._ask("ls", path, detail=detail, **options)

    def cat_file(self, path, start=None, end=None, **options):
        return self._ask("cat_file", path, start=start, end=end, **options)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Returns a folder whose files are in gs://bucket."""
    (tmp_path / "bucket").mkdir()
    monkeypatch.setattr(FolderBuckets, "root", str(tmp_path))
    monkeypatch.setattr(FolderBuckets, "asked", [])
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "gs", FolderBuckets)
    return tmp_path / "bucket"


@pytest.fixture
def twins(bucket, write_dataset):
    """Returns one data set, as a folder and in the bucket."""
    folder = write_dataset(train=13, test=5, shards=3)
    shutil.copytree(folder, bucket / "pairs" / "1.0.0")
    return folder, "gs://bucket/pairs/1.0.0"


@pytest.mark.parametrize("where", ["{}", "gs://bucket"])
def test_a_folder_and_a_bucket_answer_the_same(bucket, where):
    where = where.format(bucket)
    (bucket / "a" / "b").mkdir(parents=True)
    (bucket / "a" / "file").write_bytes(b"0123456789")
    (bucket / "a" / "b" / "file").write_bytes(b"")
    assert files.read(f"{where}/a/file") == b"0123456789"
    assert files.exists(f"{where}/a") and files.exists(f"{where}/a/file") and not files.exists(f"{where}/c")
    assert files.sizes(f"{where}/a") == {"file": 10}
    assert files.find(where, "*/*/file") == [f"{where}/a/b/file"] and files.find(where, "*/none") == []
    ranges = files.open_ranges(f"{where}/a/file")
    assert ranges.size == 10 and ranges.read(2, 3) == b"234" and ranges.read(8, 5) == b"89"
    buffers = [bytearray(2), np.zeros(3, np.uint8), bytearray(4)]
    assert ranges.read_into(0, buffers) == 9 and b"".join(map(bytes, buffers)) == b"012345678"
    assert ranges.read_into(5, buffers) == 5, "the file ends before the buffers do"
    for read in (files.read, files.sizes, files.open_ranges):
        with pytest.raises(FileNotFoundError):
            read(f"{where}/c")


def test_records_of_a_bucket_are_those_of_the_folder(twins):
    local, remote = (tfrecord.ShardedRecords(path, "train") for path in twins)
    assert len(remote) == 13
    for number in range(13):
        assert remote.payload(number) == local.payload(number)
    info = remote.info.tensors
    for _ in range(2):  # by the index, and by the layout that the first reading taught
        for number in range(13):
            rows = {name.encode(): np.zeros(np.prod(i.shape) * 2, np.uint8) for name, i in info.items()}
            reading = remote.prepare(number, rows)
            location = reading.location if reading and reading.run() else remote.read_into(number, rows)
            assert location == local[number]["location_id"]
            assert rows[b"s2"].tobytes() == local[number]["s2"].tobytes()


def test_batches_of_a_bucket_are_those_of_the_folder(twins):
    streams = [batches(records.Records(path, "train", ("s1", "s2")), seed=0, batch_size=4, rows=range(4), start=0,
                             stop=5, threads=3, processes=0) for path in twins]
    for one, other in zip(*streams, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_opening_asks_a_bucket_little_whatever_the_number_of_shards(bucket, write_dataset):
    shutil.copytree(write_dataset(train=40, shards=20), bucket / "many")
    tfrecord.ShardedRecords("gs://bucket/many", "train")
    assert FolderBuckets.asked.count("cat_file") == 3, "SHA256SUMS, the manifest and the index"
    assert FolderBuckets.asked.count("ls") == 1


def test_an_index_that_is_not_in_the_bucket_is_rebuilt(twins, bucket, capsys):
    (bucket / "pairs" / "1.0.0" / "train.index.npy").unlink()
    remote = tfrecord.ShardedRecords(twins[1], "train")
    assert "'gs://bucket/pairs/1.0.0/train.index.npy' is missing: rebuilt from the headers of 3 shards" in (
        capsys.readouterr().out)
    np.testing.assert_array_equal(remote._index, tfrecord.ShardedRecords(twins[0], "train")._index)


def test_mistakes_with_a_bucket_are_one_line(twins, bucket, monkeypatch):
    with pytest.raises(UserError, match="data folder 'gs://bucket/nowhere' does not exist"):
        load_info("gs://bucket/nowhere")
    with pytest.raises(UserError, match="'gs://bucket/pairs' holds no manifest.json; it is in 'gs://bucket/pairs/1.0.0'"):
        load_info("gs://bucket/pairs")
    shard = next((bucket / "pairs" / "1.0.0").glob("*-train.*"))
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(UserError, match=rf"'gs://bucket/pairs/1.0.0/{shard.name}' has \d+ bytes, the manifest says"):
        tfrecord.ShardedRecords(twins[1], "train")
    shard.unlink()
    with pytest.raises(UserError, match=f"shard 'gs://bucket/pairs/1.0.0/{shard.name}' is missing"):
        tfrecord.ShardedRecords(twins[1], "train")
    monkeypatch.setattr(FolderBuckets, "refusal", RuntimeError("403 Forbidden:\n you may not"))
    with pytest.raises(UserError, match=r"cannot be read \(RuntimeError: 403 Forbidden: you may not\); check the name"):
        load_info(twins[1])


def test_a_bucket_without_its_package_is_one_line(monkeypatch):
    def missing(_):
        raise ImportError("Please install gcsfs to access Google Storage")
    monkeypatch.setattr(fsspec.core, "get_filesystem_class", missing)
    with pytest.raises(UserError, match="ImportError: Please install gcsfs"):
        load_info("gs://bucket/pairs")


def test_a_bucket_is_read_without_tensorflow(twins, bucket):
    code = ("import sys, fsspec\n"
            "sys.path.insert(0, 'tests')\n"
            "import test_files\n"
            "test_files.FolderBuckets.root = sys.argv[1]\n"
            "fsspec.register_implementation('gs', test_files.FolderBuckets, clobber=True)\n"
            "from dual_encoder.data.records import Records\n"
            "assert Records('gs://bucket/pairs/1.0.0', 'train', ('s1', 's2'))[3]['s1'].shape == (40, 40, 2)\n"
            "assert 'tensorflow' not in sys.modules, 'etils.epath imports it for buckets'\n")
    subprocess.run([sys.executable, "-c", code, str(bucket.parent)], cwd=ROOT, check=True)


def test_shards_may_be_links(write_dataset, tmp_path):
    folder = write_dataset(train=5)
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    assert tfrecord.ShardedRecords(tmp_path, "train").payload(3) == tfrecord.ShardedRecords(folder, "train").payload(3)


def test_open_files_are_bounded_and_closed(write_dataset, monkeypatch):
    def opened():
        return sum(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")).startswith("s1s2_pairs-train")
                   for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))
    monkeypatch.setattr(tfrecord, "_OPEN_SHARDS", 4)
    records = tfrecord.ShardedRecords(write_dataset(train=12, shards=12), "train")
    before = opened()
    for number in range(12):
        records.payload(number)
    assert opened() == before + 4
    del records
    assert opened() == before
