"""Scenes cut on a grid: the pixels of the importer, footprints, no-data, and the raster of the vectors."""

import contextlib
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from affine import Affine
from rio_cogeo import cog_validate

import dual_encoder
from data_prep.importers import Reject
from dual_encoder.embed import __main__ as command
from dual_encoder.embed import raster, table
from dual_encoder.embed.scenes import Scenes
from dual_encoder.errors import UserError
from dual_encoder.imagery.grid import Grid
from tests import runs, saved
from tests.data_prep.geotiff_writing import PLACE, S1, S2, describe, tif
from tests.data_prep.geotiff_writing import read as read_record

pytestmark = pytest.mark.quick

HEIGHT, WIDTH, SIZE = 100, 140, 32  # 3 x 4 patches
CRS = "EPSG:32632"


@pytest.fixture(scope="module")
def workdir(write_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    saved.save_run(runs.configure(write_dataset()), folder)
    return folder


@pytest.fixture(scope="module")
def encoder(workdir):
    return dual_encoder.load(workdir)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A folder with s1.tif and s2.tif on one grid; the upper left patch of s1 has data in a quarter of its pixels."""
    folder = tmp_path_factory.mktemp("scenes")
    decibels = np.random.default_rng(0).normal([[[-11]], [[-17]]], 2, (2, HEIGHT, WIDTH)).astype(np.float32)
    decibels[:, :SIZE, :SIZE // 2] = decibels[:, :SIZE // 2, :SIZE] = np.nan
    describe(folder, {"s1": "s1_20200607T180100.tif", "s2": "s2_20200604T101031.tif"}, size=None, s1=S1, s2=S2)
    tif(folder / "s1_20200607T180100.tif", decibels, PLACE, CRS)
    numbers = np.random.default_rng(1).integers(200, 3000, (12, HEIGHT, WIDTH), np.uint16)
    tif(folder / "s2_20200604T101031.tif", numbers, PLACE, CRS)
    return folder


def paths(folder):
    return {"s1": str(folder / "s1_20200607T180100.tif"), "s2": str(folder / "s2_20200604T101031.tif")}


def test_patches_are_those_of_the_importer(scenes, encoder):
    whole = read_record(scenes, cut=True).images
    with contextlib.ExitStack() as stack:
        source = Scenes(paths(scenes), encoder.sensors, SIZE, stack)
        *items, reject = list(source.items(0, len(source)))
    assert len(source) == 12 and isinstance(reject, Reject)
    assert reject.id == "s1_20200607T180100_r0_c0" and "1 patches" in reject.reason
    assert [item.record for item in items] == list(range(1, 12))
    for item in items:
        row, column = divmod(item.record, 4)
        assert item.id == f"s1_20200607T180100_r{row}_c{column}"
        for sensor, image in item.images.items():
            here = slice(row * SIZE, (row + 1) * SIZE), slice(column * SIZE, (column + 1) * SIZE)
            np.testing.assert_array_equal(image, whole[sensor][here])
        x, y = PLACE @ (column * SIZE, row * SIZE)
        lon, lat = rasterio.warp.transform(CRS, "EPSG:4326", [x], [y])
        assert shapely.from_wkb(item.geometry).exterior.coords[0] == pytest.approx((lon[0], lat[0]), abs=1e-9)
    assert items[0].times == {"s1": 1591552860, "s2": 1591265431}


def test_the_command_writes_tables_and_a_raster_that_agree(scenes, workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [
        "embed", f"--workdir={workdir}", *(f"--{name}={path}" for name, path in paths(scenes).items()),
        f"--size={SIZE}", "--rows=5", f"--out={tmp_path / 'out'}", f"--raster={tmp_path / 'v.tif'}"])
    command.main()
    assert "22 vectors of 12 entries in 3 files, 1 rejected" in capsys.readouterr().out
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    read = pq.read_table(parts)
    vectors, sensors = np.stack(read["embedding"].to_numpy()), np.array(read["sensor"].to_pylist())
    for sensor in ("s1", "s2"):
        path = tmp_path / f"v-{sensor}.tif"
        with rasterio.open(path) as file:
            bands = file.read().reshape(8, -1)
            assert file.shape == (3, 4) and file.crs == CRS and file.transform == PLACE @ Affine.scale(SIZE)
            assert file.tags()["sensor"] == sensor
        assert np.isnan(bands[:, 0]).all()
        np.testing.assert_array_equal(bands[:, 1:].T, vectors[sensors == sensor])
        assert cog_validate(path)[0]


def test_an_int8_raster_states_its_scale(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    rows = [table.Row("", "", "s1", "", -1, None, None, number) for number in (0, 1, 2, 4, 5)]
    table.write(tmp_path / "a.parquet", rows, vectors, "float32", None, {})
    grid = Grid(rasterio.crs.CRS.from_epsg(32632), Affine(320, 0, 6e5, 0, -320, 5e6), (2, 3))
    raster.write(tmp_path / "v.tif", [tmp_path / "a.parquet"], grid, "int8")
    with rasterio.open(tmp_path / "v.tif") as file:
        values = file.read(masked=True).reshape(4, 6)
        assert file.dtypes == ("int8",) * 4 and len(set(file.scales)) == 1
        assert values.mask[:, 3].all() and values.mask.sum() == 4
        restored = np.delete(values.data * file.scales[0], 3, axis=1).T
    assert np.abs(restored - vectors).max() <= 0.501 * file.scales[0]


@pytest.mark.parametrize("change, message", [
    (["--size=0"], "--size is missing"), (["--size=200"], "is 100x140 pixels, smaller than a patch of --size=200"),
    (["--data=docs"], "--data and scenes are given"), (["--raster=v.png"], "--raster is 'v.png'; expected a name"),
    (["--s1=none.tif"], "none.tif"), (["--description=none.json"], "none.json"),
])
def test_a_mistake_gets_one_line(scenes, workdir, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.setattr(sys, "argv", ["embed", f"--workdir={workdir}", f"--s1={paths(scenes)['s1']}", f"--size={SIZE}",
                                      f"--out={tmp_path / 'out'}", *change])
    with pytest.raises(SystemExit, match="2"):
        command.main()
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and message in printed
    assert not (tmp_path / "out").exists()


def test_a_scene_in_another_unit_is_refused(scenes, encoder, tmp_path):
    describe(tmp_path, size=None, s1=S1)
    tif(tmp_path / "s1.tif", np.full((2, 64, 64), 0.08, np.float32), PLACE, CRS)
    with contextlib.ExitStack() as stack, pytest.raises(UserError, match="which is not 'dB'"):
        Scenes({"s1": str(tmp_path / "s1.tif")}, {"s1": encoder.sensors["s1"]}, 32, stack)
