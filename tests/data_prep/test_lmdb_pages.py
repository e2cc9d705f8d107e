"""Pages of an LMDB: sound ones pass, and damage is told before the library maps it."""

import struct
import subprocess
import sys

import lmdb
import numpy as np
import pytest

from data_prep.importers import _lmdb_pages
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of an LMDB with branch, leaf and overflow pages, written in two transactions."""
    folder = tmp_path_factory.mktemp("lmdb")
    random = np.random.default_rng(0)
    with lmdb.open(str(folder), map_size=1 << 24) as environment:
        for part in range(2):
            with environment.begin(write=True) as transaction:
                for number in range(300):
                    value = random.bytes(20_000 if number % 50 == 0 else 40)
                    transaction.put(f"patch_{part}_{number:04d}".encode(), value)
    return (folder / "data.mdb").read_bytes()


def written(tmp_path, content):
    (tmp_path / "data.mdb").write_bytes(content)
    return tmp_path / "data.mdb"


def test_a_sound_file_passes_and_all_kinds_of_pages_are_in_it(tmp_path, sound):
    _lmdb_pages.check(written(tmp_path, sound))
    flags = {struct.unpack_from("<H", sound, start + 10)[0] & 7 for start in range(8192, len(sound), 4096)}
    assert {1, 2, 4} <= flags


def test_an_empty_database_passes(tmp_path):
    with lmdb.open(str(tmp_path)):
        pass
    _lmdb_pages.check(tmp_path / "data.mdb")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.99])
def test_a_file_that_is_cut_is_told(tmp_path, sound, share):
    with pytest.raises(UserError, match="looks truncated or damaged"):
        _lmdb_pages.check(written(tmp_path, sound[:int(share * len(sound))]))


@pytest.mark.parametrize("content", [b"<html>" * 2000, bytes(8192), b"\xff" * 20000])
def test_another_file_is_told(tmp_path, content):
    with pytest.raises(UserError, match="cannot be read as LMDB"):
        _lmdb_pages.check(written(tmp_path, content))


def test_what_passes_does_not_end_a_process(tmp_path, sound):
    """Bits in the heads of pages are flipped; a child process reads all that passes."""
    random, passed, refused = np.random.default_rng(2), [], 0
    for number in range(250):
        content = bytearray(sound)
        at = 4096 * int(random.integers(len(sound) // 4096)) + int(random.integers(120))
        content[at] ^= 1 << int(random.integers(8))
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            _lmdb_pages.check(written(folder, bytes(content)))
            passed.append(str(folder))
        except UserError:
            refused += 1
    assert refused > 20 and len(passed) > 20
    code = ("import lmdb, sys\n"
            "for folder in sys.argv[1:]:\n"
            "    try:\n"
            "        with lmdb.open(folder, readonly=True, lock=False) as store, store.begin() as transaction:\n"
            "            sum(len(value) for _, value in transaction.cursor())\n"
            "    except lmdb.Error:\n"
            "        pass\n")
    done = subprocess.run([sys.executable, "-c", code, *passed], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-500:]
