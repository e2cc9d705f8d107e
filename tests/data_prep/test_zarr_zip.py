"""Zarr zips: chunks, codecs and fill values against the arrays that were written; damage is named."""

import bz2
import gzip
import json
import pickle
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from data_prep.zarr_zip import ZarrZip, tar_members
from dual_encoder.errors import UserError
from tests.data_prep.zarr_writing import BLOSC, write_tar, zarr_zip

pytestmark = pytest.mark.quick

DIMS = ("time", "band", "y", "x")


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).integers(-9000, 9000, (3, 4, 7, 10)).astype("<i2")


def written(path, *args, **options):
    path.write_bytes(zarr_zip(*args, **options))
    return ZarrZip(path)


@pytest.mark.parametrize("options", [
    {}, {"consolidated": False}, {"compressor": None}, {"compressor": {"id": "zlib", "level": 1}},
    {"compressor": {"id": "zstd", "level": 1}}, {"compressor": BLOSC | {"cname": "lz4", "shuffle": 2}},
    {"filters": [{"id": "shuffle", "elementsize": 2}]}, {"order": "F"}, {"dimension_separator": "/"}],
    ids=lambda options: " ".join(options) + str(options.get("compressor", "")))
def test_every_way_to_write_reads_back(tmp_path, values, options):
    store = written(tmp_path / "x.zarr.zip", {"bands": (DIMS, values)}, {"bands": (1, 3, 4, 6)}, **options)
    assert store.dims("bands") == DIMS and "bands" in store and "other" not in store
    np.testing.assert_array_equal(store.read("bands"), values)
    np.testing.assert_array_equal(store.read("bands", time=2), values[2])
    np.testing.assert_array_equal(store.read("bands", band=3, x=9), values[:, 3, :, 9])
    np.testing.assert_array_equal(store.read("bands", time=0, band=1, y=6, x=5), values[0, 1, 6, 5])
    assert store.read("bands").dtype == "<i2"


def test_texts_and_scalars(tmp_path):
    texts = np.array([["S1A_2020", ""], ["S1B", "x"]])
    store = written(tmp_path / "x.zarr.zip", {"file_id": (("sample", "time"), texts), "sample": ((), "0194630_1"),
                                              "center_lat": ((), 51.25), "time": (("time",), [7])},
                    attributes={"time": {"units": "days since 2020-05-03"}})
    assert store.read("file_id").tolist() == texts.tolist()
    assert str(store.read("sample")) == "0194630_1" and float(store.read("center_lat")) == 51.25
    assert store.attributes("time")["units"] == "days since 2020-05-03"


@pytest.mark.parametrize("dtype, fill, expected", [
    ("<f2", "NaN", np.nan), ("<f4", "-Infinity", -np.inf), ("<i2", 7, 7), ("<i2", None, 0), ("<U3", "", "")])
def test_absent_chunks_hold_the_fill_value(tmp_path, dtype, fill, expected):
    written_values = np.ones((2, 3)).astype(dtype)
    store = written(tmp_path / "x.zarr.zip", {"a": (("y", "x"), written_values)}, {"a": (1, 3)}, absent=("a/1.0",),
                    fill_value=fill)
    np.testing.assert_array_equal(store.read("a", y=0), written_values[0])
    np.testing.assert_array_equal(store.read("a", y=1), np.full(3, expected, dtype))
    np.testing.assert_array_equal(store.read("a")[1], np.full(3, expected, dtype))


def test_a_damaged_chunk_hurts_those_who_read_it_only(tmp_path, values):
    path = tmp_path / "x.zarr.zip"
    content = bytearray(zarr_zip({"bands": (DIMS, values)}, {"bands": (1, 4, 7, 10)}))
    path.write_bytes(content)
    with zipfile.ZipFile(path) as file:
        place = file.getinfo("bands/1.0.0.0").header_offset + 100
    content[place] ^= 0xFF
    path.write_bytes(content)
    store = ZarrZip(path)
    np.testing.assert_array_equal(store.read("bands", time=2), values[2])
    with pytest.raises(UserError, match=r"x.zarr.zip': array 'bands' cannot be read \(BadZipFile.*fetch it again"):
        store.read("bands", time=1)


@pytest.mark.parametrize("key, content, message", [
    ("bands/0.0.0.0", b"short", "array 'bands' cannot be read"),
    ("bands/.zarray", b"{", "'bands/.zarray' cannot be read"),
    ("bands/.zarray", b'{"shape": [3]}', "array 'bands' cannot be read .KeyError: 'chunks'"),
    ("bands/.zarray", b'[]', "'bands/.zarray' cannot be read .ValueError: no JSON object"),
    ("bands/.zattrs", b'[]', "'bands/.zattrs' cannot be read .ValueError: no JSON object")])
def test_damage_inside_an_intact_zip_is_named(tmp_path, values, key, content, message):
    path = tmp_path / "x.zarr.zip"
    path.write_bytes(zarr_zip({"bands": (DIMS, values)}))
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "y.zarr.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name == key else old.read(name))
    with pytest.raises(UserError, match=f"y.zarr.zip': {message}") as error:
        ZarrZip(tmp_path / "y.zarr.zip").read("bands", time=0)
    assert "\n" not in str(error.value)


def test_wrong_files_and_questions_are_named(tmp_path, values):
    store = written(tmp_path / "x.zarr.zip", {"bands": (DIMS, values)})
    for question in ({"time": 3}, {"time": -1}, {"sample": 0}):
        with pytest.raises(UserError, match="x.zarr.zip': array 'bands' cannot be read"):
            store.read("bands", **question)
    with pytest.raises(UserError, match="has no array 'file_id'; is it another product's file"):
        store.read("file_id")
    with pytest.raises(UserError, match="away.zarr.zip' is missing; restore it"):
        ZarrZip(tmp_path / "away.zarr.zip")
    whole = (tmp_path / "x.zarr.zip").read_bytes()
    for size in (0, 10, len(whole) - 10):
        (tmp_path / "cut.zarr.zip").write_bytes(whole[:size])
        with pytest.raises(UserError, match="cut.zarr.zip': zip cannot be read .* fetch it again"):
            ZarrZip(tmp_path / "cut.zarr.zip")
    with zipfile.ZipFile(tmp_path / "v3.zarr.zip", "w") as file:
        file.writestr("zarr.json", "{}")
    with pytest.raises(UserError, match="zarr v3, expected v2"):
        ZarrZip(tmp_path / "v3.zarr.zip").read("bands")
    bare = json.loads(zipfile.ZipFile(tmp_path / "x.zarr.zip").read("bands/.zarray"))
    with zipfile.ZipFile(tmp_path / "bare.zarr.zip", "w") as file:
        file.writestr("bands/.zarray", json.dumps(bare))
    with pytest.raises(UserError, match="names no dimensions"):
        ZarrZip(tmp_path / "bare.zarr.zip").read("bands", time=0)


def test_codecs_that_run_code_are_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    meta = {"shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None, "order": "C", "compressor": None,
            "filters": [{"id": "pickle"}]}
    with zipfile.ZipFile(tmp_path / "x.zarr.zip", "w") as file:
        file.writestr("a/.zarray", json.dumps(meta))
        file.writestr("a/0", pickle.dumps(Payload()))
    with pytest.raises(UserError, match="codec 'pickle' is not read here"):
        ZarrZip(tmp_path / "x.zarr.zip").read("a")
    assert not (tmp_path / "ran").exists()


def test_members_of_a_tar_are_read_in_place(tmp_path, values):
    path = tmp_path / "shard.tar"
    write_tar(path, {f"s{number}": zarr_zip({"bands": (DIMS, values + number)}) for number in range(4)})
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("notes.txt"))
    found = list(tar_members(path))
    assert [name for name, _, _ in found] == ["s0", "s1", "s2", "s3"]
    for number, (_, offset, size) in enumerate(found):
        np.testing.assert_array_equal(ZarrZip(path, offset, size).read("bands", time=1), values[1] + number)
    with pytest.raises(UserError, match=r"shard.tar' at byte \d+: zip cannot be read"):
        ZarrZip(path, found[1][1], found[1][2] - 600)


def test_a_damaged_tar_is_named_after_what_came_before(tmp_path, values):
    path = tmp_path / "shard.tar"
    write_tar(path, {f"s{number}": zarr_zip({"bands": (DIMS, values)}) for number in range(4)})
    offset = list(tar_members(path))[2][1]
    path.write_bytes(path.read_bytes()[:offset + 100])
    names = []
    with pytest.raises(UserError, match="shard.tar' cannot be read as an uncompressed tar .* truncated"):
        for name, _, _ in tar_members(path):
            names.append(name)
    assert names[:2] == ["s0", "s1"]
    (tmp_path / "no.tar").write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match="no.tar' cannot be read as an uncompressed tar"):
        list(tar_members(tmp_path / "no.tar"))


def lying(path, chunk=b"", **changes):
    """A zip of one array 'a' of 2 x 3 with another .zarray than its chunk."""
    meta = {"zarr_format": 2, "shape": [2, 3], "chunks": [2, 3], "dtype": "<f4", "compressor": None, "fill_value": 0,
            "order": "C", "filters": None} | changes
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/.zarray", json.dumps(meta))
        if chunk:
            file.writestr("a/0.0", chunk)
    return ZarrZip(path)


GZIP = {"id": "gzip", "level": 1}


@pytest.mark.parametrize("changes, chunk", [
    ({"chunks": [-264, 3]}, b""), ({"chunks": [0, 3]}, b""), ({"chunks": [2]}, b""), ({"chunks": [2.0, 3]}, b""),
    ({"shape": [-2, 3]}, b""), ({"shape": "2x3"}, b""), ({"shape": [10**6, 10**6]}, b""),
    ({"shape": [1, 25 * 10**7], "chunks": [1, 25 * 10**7], "dtype": "<f8", "fill_value": 1}, b""),
    ({"dtype": "V99999999"}, b""), ({"order": "X"}, b""), ({"dtype": "|O"}, b"\x80\x04."),
    ({"dtype": "|O", "filters": [{"id": "vlen-utf8"}]}, (200_000_000).to_bytes(4, "little")),
    ({"compressor": GZIP}, gzip.compress(bytes(1 << 26), mtime=0)),
    ({"compressor": GZIP}, gzip.compress(bytes(24), mtime=0)[:-6]),
    ({"compressor": {"id": "zlib", "level": 1}}, zlib.compress(bytes(1 << 26))),
    ({"compressor": {"id": "bz2", "level": 1}}, bz2.compress(bytes(1 << 26))),
    ({"compressor": BLOSC}, bytes([2, 1, 33, 4]) + (2**31 - 1).to_bytes(4, "little") * 2 + bytes(40)),
    ({"compressor": {"id": "lz4"}}, (2**31 - 1).to_bytes(4, "little") + bytes(40)),
    ({"compressor": {"id": "zstd", "level": 1}}, b"\x28\xb5\x2f\xfd\xe0" + (2**40).to_bytes(8, "little") + bytes(20)),
], ids=lambda value: str(value)[:60] if isinstance(value, dict) else "chunk")
def test_what_an_array_declares_is_not_believed(tmp_path, changes, chunk):
    with pytest.raises(UserError, match="cannot be read|is not read here") as told:
        lying(tmp_path / "x.zarr.zip", chunk, **changes).read("a")
    assert "\n" not in str(told.value)


def test_no_memory_that_was_not_written_reaches_an_array(tmp_path):
    np.testing.assert_array_equal(lying(tmp_path / "x.zarr.zip", fill_value=7).read("a"), np.full((2, 3), 7, "<f4"))
    store = lying(tmp_path / "y.zarr.zip", shape=[5, 7], chunks=[2, 3], fill_value=-1)
    assert (store.read("a") == -1).all()


def test_a_lie_takes_no_memory(tmp_path):
    """An absent chunk of 240 MB takes its memory once."""
    lying(tmp_path / "x.zarr.zip", shape=[1, 6 * 10**7], chunks=[1, 6 * 10**7])
    code = ("import re, sys\nfrom data_prep.zarr_zip import ZarrZip\nimport pathlib\n"
            "print(ZarrZip(pathlib.Path(sys.argv[1])).read('a').size)\n"
            "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.zarr.zip"], capture_output=True, text=True,
                          timeout=100)
    assert done.returncode == 0, done.stderr[-500:]
    count, peak = map(int, done.stdout.split())
    assert count == 6 * 10**7 and peak < 500_000  # KiB
