"""Files that are not what their names say, PROJ of another installation, and images that promise too much."""

import gzip
import io
import pathlib
import sqlite3
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from affine import Affine

from dual_encoder.errors import UserError
from dual_encoder.imagery import gdal, raster
from dual_encoder.imagery.file_kinds import kind_of
from dual_encoder.imagery.grid import Grid, to_crs
from tests.data_prep.geotiff_writing import S1, S2, decibels, describe, digital_numbers, tif

pytestmark = pytest.mark.quick


def of_h5():
    file = io.BytesIO()
    with h5py.File(file, "w") as written:
        written["a"] = [1]
    return file.getvalue()


def of_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("a.tif", b"x")
    return file.getvalue()


@pytest.mark.parametrize("data, words", [
    (b"", "is empty"), (b"\0" * 5000, "is nothing but zero bytes at its b"), (of_h5(), "is HDF5 or NetCDF-4"),
    (of_zip(), "is a zip archive"), (gzip.compress(mtime=0, data=b"x"), "is a gzip archive"),
    (b"CDF\x01" + b"\0" * 99, "is NetCDF;"),
    (b"\xff\xd8\xff\xe0\0\x10JFIF", "is a JPEG picture"), (b"\x93NUMPY\x01\0", "is a NumPy array"),
    (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is an HTML page"), (b"\xef\xbb\xbf\n<html>", "is an HTML"),
    (b'<?xml version="1.0"?><html xmlns="x">', "is an HTML page"),
    (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "is XML, perhaps .*AccessDenied"),
    (b'{"detail": "Not authenticated"}', "is JSON, perhaps .*Not authenticated"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "is a Git LFS pointer"),
    (b"x" * 257 + b"ustar\x0000", "is a tar archive"), (b"404: Not Found", "is text: '404: Not Found'"),
    (b"%PDF-1.7", "is a PDF document"), (b"\x01\x02\x03\xff\xfe" * 9, r"is no raster \(its first bytes are b'.x01"),
    ("Köln".encode("utf-16"), "is text: 'Köln'"), (b"PAR1", "is Parquet")])
def test_a_file_is_named_by_its_first_bytes(tmp_path, data, words):
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    for read in (lambda: raster.load(path), lambda: raster.read(path, 1), lambda: raster.centre(path),
                 lambda: raster.load(data, "a.tif")):
        with pytest.raises(UserError, match=f"a.tif' {words}") as error:
            read()
        assert "truncated" not in str(error.value) and "\n" not in str(error.value)


def test_rasters_are_known_by_content_and_not_by_name(tmp_path):
    values = digital_numbers()[:1]
    for number, driver in enumerate(("GTiff", "JP2OpenJPEG", "PNG")):
        options = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
        tif(tmp_path / f"{number}.xyz", values, driver=driver, **options)
        np.testing.assert_array_equal(raster.read(tmp_path / f"{number}.xyz", 1), values)
        head = (tmp_path / f"{number}.xyz").read_bytes()[:512]
        assert kind_of(head) == ("GeoTIFF", "JPEG 2000", "PNG")[number]


@pytest.mark.parametrize("options", [{}, {"compress": "deflate", "mask": np.ones((16, 16), np.uint8)},
                                     {"BIGTIFF": "YES", "endianness": "BIG"}])
def test_cut_files_are_told_whatever_is_left(tmp_path, options):
    tif(tmp_path / "whole.tif", digital_numbers(), **options)
    whole = (tmp_path / "whole.tif").read_bytes()
    for size in (*range(1, len(whole) - 1, 97), len(whole) - 1):  # tags are the last: the pixels may all be there
        (tmp_path / "a.tif").write_bytes(whole[:size])
        with pytest.raises(UserError, match="a.tif' (cannot be read as GeoTIFF .*truncated|is text|is no raster)"):
            raster.read(tmp_path / "a.tif", 12)


def test_flipped_bytes_raise_nothing_but_user_errors(tmp_path):
    random = np.random.default_rng(0)
    tif(tmp_path / "whole.tif", decibels(), names=["VV", "VH"], tags={"a": "b"}, mask=np.ones((16, 16), np.uint8))
    whole = (tmp_path / "whole.tif").read_bytes()
    path, around = tmp_path / "a.tif", raster.load(tmp_path / "whole.tif").grid
    for _ in range(300):
        data = bytearray(whole)
        for place in random.integers(0, 600, 3):
            data[place] = random.integers(256)
        path.write_bytes(bytes(data))
        for read in (lambda: raster.load(path), lambda: raster.load(path, around=around), lambda: raster.centre(path),
                     lambda: raster.read(path, 2, missing=np.nan)):
            try:
                read()
            except UserError as error:
                assert "\n" not in str(error)


def test_an_image_that_promises_more_than_memory_holds_is_refused(tmp_path):
    import rasterio

    path = tmp_path / "bomb.tif"
    with rasterio.open(path, "w", driver="GTiff", count=12, height=60_000, width=60_000, dtype="uint16", tiled=True,
                       sparse_ok=True, compress="deflate", crs="EPSG:32632",
                       transform=Affine(10, 0, 600000, 0, -10, 5200000)):
        pass
    for read in (lambda: raster.read(path, 12), lambda: raster.load(path)):
        with pytest.raises(UserError, match="bomb.tif' promises 12 bands of 60000x60000 pixels, more than"):
            read()
    part = Grid(rasterio.crs.CRS.from_epsg(32632), Affine(10, 0, 600000, 0, -10, 5200000), (16, 16))
    assert raster.load(path, around=part).values.shape[1] < 30


@pytest.mark.parametrize("place", [Affine(0, 0, 600000, 0, 0, 5200000), Affine(10, 0, 1e30, 0, -10, 5200000),
                                   Affine(1e-300, 0, 600000, 0, -1e-300, 5200000), Affine(1e300, 0, 0, 0, -1e300, 0),
                                   Affine(10, 0, float("nan"), 0, -10, 5200000)])
@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326", "EPSG:4978", 'LOCAL_CS["x",UNIT["m",1]]'])
def test_void_georeferences_are_told(tmp_path, place, crs):
    tif(tmp_path / "a.tif", decibels(), place, crs)
    tif(tmp_path / "b.tif", decibels())
    around = raster.load(tmp_path / "b.tif").grid
    with pytest.raises(UserError, match="a.tif'(: cannot align| covers) "):
        raster.load(tmp_path / "a.tif", around=around)
    raster.listed_centre(tmp_path / "a.tif")


# PROJ and GDAL

@pytest.fixture
def other_proj(tmp_path):
    """A PROJ database of an older installation."""
    folder = tmp_path / "proj"
    folder.mkdir()
    with sqlite3.connect(folder / "proj.db") as database:
        database.execute("CREATE TABLE metadata(key TEXT, value TEXT)")
        database.executemany("INSERT INTO metadata VALUES(?, ?)", [
            ("DATABASE.LAYOUT.VERSION.MAJOR", "1"), ("DATABASE.LAYOUT.VERSION.MINOR", "0")])
    database.close()
    return folder


@pytest.mark.parametrize("variable", ["PROJ_DATA", "PROJ_LIB", "GDAL_DATA"])
@pytest.mark.parametrize("there", [True, False])
def test_data_of_another_installation_do_no_harm(cli, tmp_path, other_proj, variable, there):
    raw = describe(tmp_path / "raw", {"s1": "s1.tif", "s2": "s2.tif", "id": "a"}, s1=S1, s2=S2)
    tif(raw / "s1.tif", decibels(20), Affine(10, 0, 600000 - 15, 0, -10, 5200000 + 15))
    tif(raw / "s2.tif", digital_numbers())
    process = cli("build", "--importer=geotiff", f"--raw={raw}", f"--data_dir={tmp_path / 'data'}", "--workers=1",
                  **{variable: str(other_proj if there else tmp_path / "gone")})
    assert process.returncode == 0, process.stderr
    assert "built 1 records" in process.stdout and "proj" not in process.stderr.lower()


def test_errors_of_proj_and_gdal_are_one_line(monkeypatch):
    from rasterio._err import CPLE_AppDefinedError
    from rasterio.errors import CRSError, RasterioIOError, WarpOperationError

    for error in (CRSError("a\nb"), CPLE_AppDefinedError(1, 1, "a"), WarpOperationError("a"), RasterioIOError("a"),
                  ValueError("a"), IndexError("a"), OSError("a")):
        with pytest.raises(UserError, match=r"^'x.tif' cannot be read \(.*a.*\); fetch it$"), \
                gdal.told("x.tif", "fetch it"):
            raise error
    with pytest.raises(UserError, match="does not fit into memory"), gdal.told("x.tif", ""):
        raise MemoryError
    with pytest.raises(TypeError), gdal.told("x.tif", ""):
        raise TypeError  # a mistake of ours is not the file's
    with pytest.raises(UserError, match="coordinates in EPSG:4326"):
        to_crs("EPSG:4326", "EPSG:999999", [0.0], [0.0])
    monkeypatch.setenv("PROJ_LIB", "/opt/gis/proj")
    gdal._use_own_data.cache_clear()
    monkeypatch.setattr(pathlib.Path, "is_file", lambda path: False)  # a rasterio without data of its own
    with pytest.raises(UserError, match="the variable PROJ_LIB is '/opt/gis/proj', which may be that of another"), \
            gdal.told("x.tif", ""):
        raise CRSError("PROJ: Cannot find proj.db")


def test_commands_that_read_no_image_do_not_load_gdal():
    code = ("import sys, dual_encoder.imagery.raster, data_prep.importers.geotiff; "
            "sys.exit('rasterio' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
