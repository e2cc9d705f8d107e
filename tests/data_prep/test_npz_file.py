"""Rows of .npz files: equal to numpy's, in any order, without the whole array in memory."""

import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from data_prep import npz_file
from data_prep.npz_file import NpzFile
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick


def header(shape, dtype="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_those_of_numpy(tmp_path, save, order):
    arrays = {"a": np.asarray(np.random.default_rng(0).normal(size=(7, 2, 5, 5)), order=order),
              "b": np.arange(7 * 3, dtype=">i2").reshape(7, 3), "text": np.array(["x", "yy"]), "scalar": np.int64(4)}
    save(tmp_path / "x.npz", **arrays)
    file = NpzFile(tmp_path / "x.npz")
    for row in (0, 1, 4, 6, 2, 2, 0):
        for name in ("a", "b"):
            np.testing.assert_array_equal(file.row(name, row), arrays[name][row])
    for name in arrays:
        np.testing.assert_array_equal(file.whole(name), arrays[name])
    assert file.headers["a"].shape == (7, 2, 5, 5)
    file.close()


@pytest.mark.parametrize("row", [-1, 7])
def test_a_row_that_is_not_there_is_told(tmp_path, row):
    np.savez(tmp_path / "x.npz", a=np.zeros((7, 2)))
    with pytest.raises(UserError, match=rf"a is float64\[7, 2\], it has no row {row}"):
        NpzFile(tmp_path / "x.npz").row("a", row)


@pytest.mark.parametrize("content, message", [
    (header((10**11,)), "expected at most"), (header((2, 10**6, 10**6)), "cannot be read|bytes for each image"),
    (header((-3, 4)), "the shape"), (header((3, 4), "|O"), "Python objects"),
    (header((5, 4)) + b"1234", "cannot be read"),
    (b"\x93NUMPY\x19\x05", "format"), (b"", "cannot be read")])
def test_what_a_header_declares_is_not_believed(tmp_path, content, message):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", content)
    with pytest.raises(UserError, match=message) as told:
        file = NpzFile(tmp_path / "x.npz")
        file.whole("a") if len(file.headers["a"].shape) == 1 else file.row("a", 1)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("limit", [1 << 28, 100])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_no_flipped_bit_passes(tmp_path, monkeypatch, save, limit):
    monkeypatch.setattr(npz_file, "_LARGEST_ARRAY", limit)
    array = np.random.default_rng(0).normal(size=(5, 3, 8)).astype(np.float32)
    save(tmp_path / "x.npz", a=array)
    sound, rng = (tmp_path / "x.npz").read_bytes(), np.random.default_rng(1)
    for _ in range(150):
        bit = int(rng.integers(8 * len(sound)))
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "y.npz").write_bytes(damaged)
        try:
            file = NpzFile(tmp_path / "y.npz")
            found = file.row("a", 2) if "a" in file.headers else array[2]
        except UserError:
            continue
        np.testing.assert_array_equal(found, array[2])
        file.close()


def test_a_bomb_takes_the_memory_of_a_row(tmp_path):
    """Half a GB of zeros, 4 GB by the header: a row takes the memory of a row."""
    rows, size = 64, 1 << 26
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        with file.open("a.npy", "w", force_zip64=True) as member:
            member.write(header((rows, size), "|u1"))
            for _ in range(rows // 8):
                member.write(bytes(size))
    code = ("import re, sys\nfrom data_prep.npz_file import NpzFile\nfile = NpzFile(sys.argv[1])\n"
            "print(file.row('a', 7).sum(), re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n")
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.npz"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-500:]
    total, peak = map(int, done.stdout.split())
    assert total == 0 and peak < 400_000  # KiB: the interpreter, numpy, and a row of 64 MiB once or twice
