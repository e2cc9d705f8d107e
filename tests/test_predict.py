"""Maps of whole scenes: windows, grids, no-data, areas, interruptions, and scenes that are not as they should be."""

import contextlib
import dataclasses
import doctest
import json
import sys

import jax
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rio_cogeo import cog_validate
from scipy import ndimage

import dual_encoder
from dual_encoder.config import to_dict
from dual_encoder.errors import UserError
from dual_encoder.imagery.grid import Grid
from dual_encoder.imagery.sensors import SENSORS
from dual_encoder.inference import segmenter as segmenter_file
from dual_encoder.inference.segmenter import Segmenter, load_segmentation
from dual_encoder.predict import __main__ as predict_command
from dual_encoder.predict import aoi, gaps, hectares, listed, mosaic, one_map, part
from dual_encoder.predict.description import open_scenes
from dual_encoder.predict.permanent import permanent_water
from dual_encoder.predict.windows import Blend, Windows, choose, needed, reflected
from dual_encoder.state import TrainState
from dual_encoder.workdir import folder as workdir_folder
from dual_encoder.workdir.checkpoint import Checkpoints, LoadedModel
from tests import commands, runs
from tests.data_prep.geotiff_writing import PLACE, S1, S2, describe, digital_numbers, tif
from tests.data_prep.geotiff_writing import read as read_record

SMALL = {"window": 224, "margin": 64}  # steps of 64 pixels
GRIDS = {  # transform, coordinate system
    "utm": (PLACE, "EPSG:32632"),
    "rotated": (Affine.translation(600000, 5200000) @ Affine.rotation(20) @ Affine.scale(10, -10), "EPSG:32632"),
    "south-up": (Affine(10, 0, 600000, 0, 10, 5200000), "EPSG:32632"),
    "degrees": (Affine(1e-4, 0, 8.5, 0, -1e-4, 60.0), "EPSG:4326"),
    "antimeridian": (Affine(1e-4, 0, 179.99, 0, -1e-4, -17.0), "EPSG:4326")}


def untrained(data, inputs="s1", **changes):
    """A segmentation run at step 0: its weights are random, but its maps have both classes."""
    config = runs.configure(data, "water_weak", family="resnet", init_from="", inputs=inputs, **changes)
    task, records = runs.open_run(config)
    params, batch_stats = task.init(jax.random.key(1))
    params["classifier"]["kernel"] *= 100  # fresh weights say 50 % everywhere
    return config, task, records, {"params": params, "batch_stats": batch_stats}


@pytest.fixture(scope="module")
def workdir(write_dataset, tmp_path_factory):
    """The folder of a segmentation run of radar."""
    folder = tmp_path_factory.mktemp("flood") / "run"
    config, task, records, variables = untrained(write_dataset(labels=True))
    saved = Checkpoints(folder, 1, workdir_folder.facts(to_dict(config), records.info, task.sensors))
    saved.save(1, TrainState(jax.numpy.int32(1), **variables, opt_state=(), average={}))
    saved.close()
    return folder


@pytest.fixture(scope="module")
def segmenter(workdir):
    return load_segmentation(workdir)


def decibels(height, width, seed=0):
    """Radar with structure at several scales, so that classes have borders."""
    random = np.random.default_rng(seed)
    coarse = np.kron(random.normal(0, 4, (-(-height // 20), -(-width // 20))), np.ones((20, 20)))[:height, :width]
    noise = random.normal(0, 1, (2, height, width))
    return (noise + coarse + np.array([-12, -20])[:, None, None]).astype(np.float32)


def scene(folder, height=150, width=130, grid="utm", s1=S1, **profile):
    """Writes a radar scene with its description; returns its path and the values."""
    describe(folder, size=None, s1=s1)
    transform, crs = GRIDS[grid]
    path = folder / "S1A_20200607T180100.tif"
    values = tif(path, decibels(height, width), transform, crs, **profile)
    return path, values


def make(segmenter, path, out, **changes):
    """Makes a map of a radar scene; returns classes and the open facts of the file."""
    mask = permanent_water(changes["permanent"]) if "permanent" in changes else None
    one_map.make(segmenter, one_map.Request({"s1": str(path)}, out, **SMALL | changes), mask)
    with rasterio.open(out) as file:
        return file.read(1)


def test_the_blended_sum_is_that_of_all_windows_at_once():
    windows, rows, columns = Windows(96, 16), range(2, 5), range(0, 3)
    shape = (5 * windows.step + windows.ramp, 3 * windows.step + windows.ramp, 2)
    total, weight = np.zeros(shape), np.zeros(shape[:2])
    blend, random = Blend(windows, needed(columns), 2), np.random.default_rng(0)
    blocks = {}
    for row in needed(rows):
        for column in needed(columns):
            logits = random.normal(size=(windows.step + windows.ramp,) * 2 + (2,)).astype(np.float32)
            logits = None if (row, column) == (3, 1) else logits
            at = slice(row * windows.step, (row + 1) * windows.step + windows.ramp), slice(
                column * windows.step, (column + 1) * windows.step + windows.ramp)
            total[at] += 0 if logits is None else logits * windows.weights()[..., None]
            weight[at] += windows.weights()
            blocks[row, column] = blend.add(column, logits)
    for row in rows:
        for column in columns:
            at = slice(row * windows.step, (row + 1) * windows.step), slice(column * windows.step,
                                                                            (column + 1) * windows.step)
            np.testing.assert_allclose(blocks[row, column], total[at], atol=1e-5)
    np.testing.assert_allclose(weight[2 * windows.step:5 * windows.step, windows.ramp:3 * windows.step], 1, atol=1e-6)


def test_windows_cover_every_pixel_once():
    windows = choose(32, False, 96)
    for first, last in ((0, 1), (0, 5490), (700, 1500), (639, 641)):
        covered = [pixel for block in windows.blocks(first, last) for pixel in range(*windows.block(block))]
        assert covered == list(range(covered[0], covered[-1] + 1)) and covered[0] <= first and covered[-1] >= last - 1
    assert windows.step % 32 == (windows.start(0) % 32) == 0
    transformer = choose(16, True, 96)
    assert (transformer.window, transformer.step % 16) == (128, 0)
    for window, margin, message in ((100, 0, "expected a multiple of 32"), (256, 128, "leaves steps of -32")):
        with pytest.raises(UserError, match=message):
            choose(32, False, 96, window, margin)


def test_beyond_its_border_a_scene_is_reflected():
    for size in (1, 2, 5, 40, 300):
        for start, side in ((-96, 224), (-7, 20), (size - 1, 50), (3, 9)):
            padded = np.pad(np.arange(size), (200, 400), mode="reflect" if size > 1 else "edge")
            np.testing.assert_array_equal(reflected(start, side, size), padded[start + 200:start + 200 + side])


def test_a_map_is_that_of_the_reflected_scene(segmenter, tmp_path):
    """All pixels of a small scene lie near its border."""
    path, values = scene(tmp_path / "a", 96, 70)
    small = make(segmenter, path, tmp_path / "a.tif", window=448, margin=160)
    describe(tmp_path / "b", size=None, s1=S1)
    larger = tmp_path / "b" / "s1.tif"
    pad = 192  # a multiple of the stride, and more than the margin
    tif(larger, np.pad(values, ((0, 0), (pad, pad), (pad, pad)), mode="reflect"))
    whole = make(segmenter, larger, tmp_path / "b.tif", window=448, margin=160)[pad:pad + 96, pad:pad + 70]
    assert (small == whole).mean() > 0.999  # the two are the same up to the largest change of `Windows`


def test_a_map_is_that_of_the_scene_with_filled_gaps(segmenter, tmp_path):
    path, values = scene(tmp_path, 150, 130)
    shown = np.ones((150, 130), bool)
    shown[40:80] = False  # no pixel of it is farther than REACH from data
    filled = np.moveaxis(gaps.fill(np.moveaxis(values, 0, -1), shown), -1, 0)
    maps = []
    for number, image in enumerate((np.where(shown, values, np.nan), filled)):
        tif(path, image.astype(np.float32))
        maps.append(make(segmenter, path, tmp_path / f"{number}.tif"))
    assert (maps[0][~shown] == 255).all() and (maps[1] != 255).all()
    np.testing.assert_array_equal(maps[0][shown], maps[1][shown])


def test_gaps_are_filled_as_in_a_mirror():
    random = np.random.default_rng(0)
    image, shown = random.random((60, 90, 2)), np.ones((60, 90), bool)
    shown[:, 40:] = False
    filled = gaps.fill(image, shown)
    np.testing.assert_array_equal(filled[:, :40], image[:, :40])
    np.testing.assert_array_equal(filled[:, 40:40 + gaps.REACH], image[:, 38 - np.arange(gaps.REACH)])
    np.testing.assert_array_equal(filled[:, 40 + gaps.REACH:], image[:, 40 + gaps.REACH:])
    shown[:, :38] = False  # a mirror of two pixels: behind it, the nearest pixel counts
    filled = gaps.fill(image, shown)
    np.testing.assert_array_equal(filled[:, 40], image[:, 38])
    np.testing.assert_array_equal(filled[:, 41], image[:, 39])
    # A part with a margin of HALO is filled as the whole.
    shown = ndimage.uniform_filter(random.random((300, 300)), 9) > 0.5
    image = random.random((300, 300, 1))
    part = (slice(20, 280),) * 2
    inner = (slice(20 + gaps.HALO, 280 - gaps.HALO),) * 2
    np.testing.assert_array_equal(gaps.fill(image, shown)[inner],
                                  gaps.fill(image[part], shown[part])[(slice(gaps.HALO, -gaps.HALO),) * 2])
    assert 0.2 < shown.mean() < 0.8


class _Kept(one_map.Layers):
    """Layers that keep the probabilities of each block, in order."""

    blocks: list

    def make(self, logits, shown, permanent=None):
        power = np.exp(logits - logits.max(axis=-1, keepdims=True))
        self.blocks.append(power / power.sum(axis=-1, keepdims=True))
        return super().make(logits, shown, permanent)


def probabilities(segmenter, path, out, monkeypatch, **windows):
    """The probabilities of the second class, float32 [height, width]."""
    blocks = []
    monkeypatch.setattr(_Kept, "blocks", blocks, raising=False)
    monkeypatch.setattr(one_map, "Layers", _Kept)
    classes = make(segmenter, path, out, **windows)
    chosen = choose(segmenter.facts.stride, False, 96, windows["window"], windows["margin"])
    rows, columns = (chosen.blocks(0, size) for size in classes.shape)
    joined = np.concatenate([np.concatenate(blocks[i * len(columns):(i + 1) * len(columns)], axis=1)
                             for i in range(len(rows))])[chosen.ramp:, chosen.ramp:, 1]
    return joined[:classes.shape[0], :classes.shape[1]]


@pytest.mark.slow
def test_a_pixel_does_not_depend_on_where_windows_fall(segmenter, tmp_path, monkeypatch):
    path, values = scene(tmp_path / "a", 480, 416)
    values[:, 200:260, 100:180] = np.nan
    tif(path, values)
    first = probabilities(segmenter, path, tmp_path / "a.tif", monkeypatch, window=448, margin=160)
    second = probabilities(segmenter, path, tmp_path / "b.tif", monkeypatch, window=576, margin=160)
    assert first.std() > 0.01 and np.abs(first - second).max() < 1e-3
    near = probabilities(segmenter, path, tmp_path / "c.tif", monkeypatch, window=160, margin=0)
    assert np.abs(first - near).max() > 1e-2  # without a margin, the zeros around a window show


@pytest.mark.parametrize("grid", GRIDS)
def test_the_map_lies_on_the_grid_of_the_scene_and_its_areas_add_up(segmenter, tmp_path, grid):
    path, values = scene(tmp_path, grid=grid, nodata=-9999)
    values[:, 20:50, 30:70] = -9999
    values[0, 100, 100] = np.nan
    tif(path, values, *GRIDS[grid], nodata=-9999)
    classes = make(segmenter, path, tmp_path / "map.tif", probabilities=True, uncertainty=True, simplify=0,
                   polygons=str(tmp_path / "map.gpkg"), preview=str(tmp_path / "map.png"))
    with rasterio.open(path) as source, rasterio.open(tmp_path / "map.tif") as made:
        assert (made.transform, made.crs, made.shape) == (source.transform, source.crs, source.shape)
        assert made.nodata == 255 and made.colormap(1)[1] == (33, 102, 200, 255)
        tags = made.tags()
    gone = np.zeros(classes.shape, bool)
    gone[20:50, 30:70] = gone[100, 100] = True
    np.testing.assert_array_equal(classes == 255, gone)
    assert set(np.unique(classes[~gone])) == {0, 1}
    assert tags["MODEL_DIGEST"] == segmenter.digest and tags["CLASS_1"] == "wet"
    assert tags["INPUT_S1_TIME"] == "2020-06-07T18:01:00Z" and tags["SOFTWARE"].startswith("dual_encoder 0")
    for name in ("map.tif", "map_probabilities.tif", "map_uncertainty.tif"):
        valid, errors, _ = cog_validate(tmp_path / name, quiet=True)
        assert valid, errors
    with rasterio.open(tmp_path / "map_probabilities.tif") as made:
        shares = made.read()
    assert (abs(shares[:, ~gone].sum(axis=0, dtype=int) - 100) <= 1).all() and (shares[:, gone] == 255).all()
    np.testing.assert_array_equal(shares[0][~gone] < 50, (classes == 1)[~gone] & (shares[0] < 50)[~gone])
    areas = hectares.by_class(tmp_path / "map.tif", 2)
    facts, _, geometry, fields = pyogrio.raw.read(tmp_path / "map.gpkg")
    of_polygons = [fields[2][fields[1] == number].sum() for number in range(2)]
    np.testing.assert_allclose(of_polygons, areas, rtol=1e-5)
    pixels = np.bincount(classes[~gone])
    assert sum(shape.area for shape in shapely.from_wkb(geometry)) == pytest.approx(
        pixels.sum() * abs(GRIDS[grid][0].determinant), rel=1e-9)
    if grid in ("utm", "rotated", "south-up"):  # 0.9996 at the centre: a pixel is at most 0.1 % larger than on the map
        np.testing.assert_allclose(areas, pixels / 100, rtol=1e-3)
    assert (tmp_path / "map.png").stat().st_size > 10_000 and not (tmp_path / "map.tif.part").exists()


def test_a_geojson_is_in_degrees_and_small_areas_are_left_out(segmenter, tmp_path):
    path, _ = scene(tmp_path)
    make(segmenter, path, tmp_path / "map.tif", polygons=str(tmp_path / "map.geojson"), minimum=0.5)
    found = json.loads((tmp_path / "map.geojson").read_text())["features"]
    assert found and min(feature["properties"]["area_ha"] for feature in found) >= 0.5
    west, south, east, north = shapely.union_all([shapely.geometry.shape(f["geometry"]) for f in found]).bounds
    assert 10.2 < west < east < 10.4 and 46.9 < south < north < 47.0


def test_an_area_is_cut_from_the_same_map(segmenter, tmp_path):
    path, _ = scene(tmp_path, 300, 280)
    whole = make(segmenter, path, tmp_path / "whole.tif")
    grid = Grid(rasterio.crs.CRS.from_epsg(32632), PLACE, (300, 280))
    (west, east), (south, north) = ((min(v), max(v)) for v in rasterio.warp.transform(
        "EPSG:32632", "EPSG:4326", [601400, 602000], [5198200, 5197600]))
    part_of = make(segmenter, path, tmp_path / "part.tif", area=f"{west},{south},{east},{north}")
    found = aoi.area(f"{west},{south},{east},{north}", grid)
    assert abs(found.rows[0] - 180) <= 3 and abs(found.columns[0] - 140) <= 3 and part_of.shape == found.shape
    cut = whole[slice(*found.rows), slice(*found.columns)]
    assert (part_of != 255).mean() > 0.9
    np.testing.assert_array_equal(part_of[part_of != 255], cut[part_of != 255])
    with rasterio.open(tmp_path / "part.tif") as made:
        assert made.transform == found.grid(grid).transform
    triangle = shapely.Polygon([(600500, 5199500), (601500, 5199500), (600500, 5198500)])
    pyogrio.raw.write(tmp_path / "aoi.gpkg", shapely.to_wkb(np.array([triangle], object)), [], [],
                      geometry_type="Polygon", crs="EPSG:32632", driver="GPKG")
    inside = make(segmenter, path, tmp_path / "triangle.tif", area=str(tmp_path / "aoi.gpkg"))
    assert inside.shape == (100, 100) and (inside != 255).mean() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_array_equal(inside[inside != 255], whole[50:150, 50:150][inside != 255])
    for text, message in (("0,1,2,3", "do not overlap; the scene covers latitude 46.9"), ("1,2,x,4", "is no west"),
                          ("nowhere.gpkg", "is no file")):
        with pytest.raises(UserError, match=message):
            make(segmenter, path, tmp_path / "none.tif", area=text)


def test_an_interrupted_map_goes_on_with_the_strips_that_are_missing(segmenter, tmp_path, monkeypatch, capsys):
    path, _ = scene(tmp_path, 300, 200)
    whole = make(segmenter, path, tmp_path / "whole.tif")
    out, save, rows = tmp_path / "map.tif", part.Part.save, []

    def failing(self, row, strip, faults):
        if len(rows) == 2:
            raise KeyboardInterrupt
        rows.append(row)
        save(self, row, strip, faults)

    monkeypatch.setattr(part.Part, "save", failing)
    with pytest.raises(KeyboardInterrupt):
        make(segmenter, path, out)
    assert not out.exists() and len(list((tmp_path / "map.tif.part").glob("strip_*.npy"))) == 2
    monkeypatch.setattr(part.Part, "save", lambda self, row, *more: (rows.append(row), save(self, row, *more)))
    np.testing.assert_array_equal(make(segmenter, path, out), whole)
    assert rows == sorted(set(rows))  # none twice
    # Strips of another setting, or of another description, are not taken.
    monkeypatch.setattr(part.Part, "save", failing)
    rows.clear()
    with pytest.raises(KeyboardInterrupt):
        make(segmenter, path, tmp_path / "other.tif")
    monkeypatch.setattr(part.Part, "save", save)
    describe(tmp_path, size=None, s1=S1 | {"no_data": -99})
    make(segmenter, path, tmp_path / "other.tif")
    assert "holds strips of another model, scene or setting" in capsys.readouterr().out


def test_a_damaged_tile_becomes_no_data_and_is_named(segmenter, tmp_path, capsys):
    path, _ = scene(tmp_path, 768, 512, tiled=True, blockxsize=256, blockysize=256, compress="deflate")
    with rasterio.open(path) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    windows = {"window": 448, "margin": 64}
    classes = make(segmenter, path, tmp_path / "map.tif", **windows)
    gone = np.zeros(classes.shape, bool)
    gone[256:512, 256:512] = True
    np.testing.assert_array_equal(classes == 255, gone)
    out = capsys.readouterr().out
    assert "rows 256 to 511, columns 256 to 511" in out and "1 parts of 'S1A_20200607T180100.tif' could not be" in out
    with pytest.raises(UserError, match="without --strict such pixels become no data"):
        make(segmenter, path, tmp_path / "strict.tif", strict=True, **windows)
    assert not (tmp_path / "strict.tif").exists()


def test_impossible_values_become_no_data(segmenter, tmp_path, capsys):
    path, values = scene(tmp_path)
    values[0, 70, 60] = 500
    tif(path, values)
    classes = make(segmenter, path, tmp_path / "map.tif")
    assert classes[70, 60] == 255 and (classes == 255).sum() == 1
    assert "values that its unit cannot have" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds 500, which is no dB"):
        make(segmenter, path, tmp_path / "strict.tif", strict=True)


def test_permanent_water_is_a_class_of_its_own(segmenter, tmp_path):
    path, _ = scene(tmp_path)
    plain = make(segmenter, path, tmp_path / "plain.tif")
    mask = np.zeros((1, 40, 65), np.uint8)
    mask[:, 10:35, 10:60] = 80
    tif(tmp_path / "mask.tif", mask, PLACE @ Affine.scale(2))
    object.__setattr__(segmenter, "classes", ("dry", "flood water"))
    try:
        masked = make(segmenter, path, tmp_path / "map.tif", permanent=str(tmp_path / "mask.tif"))
    finally:
        object.__setattr__(segmenter, "classes", ("dry", "wet"))
    expected = plain.copy()
    expected[20:70, 20:120][plain[20:70, 20:120] == 1] = 2
    np.testing.assert_array_equal(masked, expected)
    assert (expected == 2).sum() > 100 and (expected == 1).sum() > 100
    with pytest.raises(UserError, match="no class of the model .dry, wet. is water or flood"):
        make(segmenter, path, tmp_path / "map.tif", permanent=str(tmp_path / "mask.tif"))


def described(folder, **sections):
    describe(folder, size=None, **sections)
    return folder


def test_a_scene_that_does_not_fit_is_refused_in_one_line(segmenter, tmp_path, monkeypatch):
    def refused(path, message, **changes):
        with pytest.raises(UserError, match=message):
            make(segmenter, path, tmp_path / "out" / "map.tif", **changes)
        assert not list((tmp_path / "out").glob("*.tif"))

    tif(tmp_path / "alone" / "a" / "b" / "c" / "d" / "s1.tif", decibels(64, 64))
    refused(tmp_path / "alone/a/b/c/d/s1.tif", "no geotiff.json describes")
    refused(tmp_path / "gone.tif", "no geotiff.json describes")
    optical = described(tmp_path / "optical", s2=S2)
    refused(tif_path(optical / "s1.tif", decibels(64, 64)), "does not describe s1, it describes s2")
    here = described(tmp_path / "here", s1=S1)
    refused(here / "gone.tif", "there is no scene")
    refused(tif_path(here / "nowhere.tif", decibels(64, 64), crs=None), "a map needs to know where its pixels lie")
    refused(tif_path(here / "power.tif", 10 ** (decibels(64, 64) / 10)), "has the median .*, which is not 'dB'")
    refused(tif_path(here / "swapped.tif", decibels(200, 200)[::-1]), "is not what geotiff.json says, at .* places")
    linear = described(tmp_path / "linear", s1=S1 | {"unit": "linear"})
    refused(tif_path(linear / "s1.tif", decibels(64, 64)), "which is not 'linear'")
    gamma = described(tmp_path / "gamma", s1=S1 | {"product": "rtc"})
    refused(tif_path(gamma / "s1.tif", decibels(64, 64)), "sensor unit differ")
    good = tif_path(here / "good.tif", decibels(64, 64))
    with pytest.raises(UserError, match="--s2 is given, but the model reads s1 only"):
        one_map.make(segmenter, one_map.Request({"s1": str(good), "s2": str(good)}, tmp_path / "m.tif"), None)
    monkeypatch.setattr(part.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    refused(good, "has 0 MB free, the map may need 0 MB; make room", **SMALL)


def tif_path(path, values, **facts):
    tif(path, values, **facts)
    return path


@pytest.mark.parametrize("unit", ["dB", "linear"])
def test_what_trains_and_what_predicts_reads_the_same_pixels(tmp_path, unit):
    """Band files of 10, 20 and 60 m, DN with an offset, areas of 0 and linear power: as the importer reads them."""
    s2 = {"level": "l2a", "offset": 1000, "bands": {band: f"{band}_m" for band in SENSORS["s2_l2a"].bands}}
    describe(tmp_path, {"s1": "s1.tif", "s2": "s2/T32_{band}.tif"}, size=None, s1=S1 | {"unit": unit}, s2=s2)
    radar = decibels(240, 240) if unit == "dB" else 10 ** (decibels(240, 240) / 10)
    radar[:, :7, :] = 0
    if unit == "dB":
        radar[:, 68, 107] = 0  # a bright target, in the corner of a window
    tif(tmp_path / "s1.tif", radar)
    dn = digital_numbers(240) + np.uint16(1000)
    dn[:, 60:120, 60:120] = 0
    for number, band in enumerate(SENSORS["s2_l2a"].bands):
        step = {"B02": 1, "B03": 1, "B04": 1, "B08": 1, "B01": 6, "B09": 6}.get(band, 2)
        tif(tmp_path / f"s2/T32_{band}_m.tif", dn[number:number + 1, ::step, ::step], PLACE @ Affine.scale(step))
    record = read_record(tmp_path, cut=True)
    with contextlib.ExitStack() as stack:
        scenes = open_scenes({"s1": str(tmp_path / "s1.tif"), "s2": str(tmp_path / "s2")},
                             {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}, stack)
        for name, opened in scenes.items():
            for top, left, height, width in ((0, 0, 240, 240), (5, 11, 64, 97), (-8, 200, 40, 64)):
                window = opened.read(top, left, height, width)
                rows, columns = slice(max(0, top), top + height), slice(left, min(240, left + width))
                inside = window[rows.start - top:, :columns.stop - left]
                np.testing.assert_array_equal(inside, record.images[name][rows, columns])
                assert not opened.spec.holds_data(window[:rows.start - top]).any()


def test_optical_images_on_another_grid_are_brought_to_the_radar(tmp_path):
    describe(tmp_path, size=None, s1=S1, s2=S2)
    tif(tmp_path / "s1.tif", decibels(300, 300))
    smooth = np.add.outer(np.arange(200), np.arange(200)) * 4 + 400 * np.arange(1, 13)[:, None, None]
    shifted = PLACE @ Affine.translation(40, 50)
    tif(tmp_path / "s2.tif", smooth.astype(np.uint16), shifted)
    with contextlib.ExitStack() as stack:
        sensors = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}
        scenes = open_scenes({name: str(tmp_path / f"{name}.tif") for name in sensors}, sensors, stack)
        moved = scenes["s2"].read(20, 30, 100, 100)
        expected = np.zeros_like(moved)
        expected[30:, 10:] = np.moveaxis(smooth, 0, -1)[:70, :90]
        np.testing.assert_array_equal(moved, expected)
        # The same places in another coordinate system, and the same answer for every window.
        corners = [600400, 602400] * 2, [5197500] * 2 + [5199500] * 2
        xs, ys = rasterio.warp.transform("EPSG:32632", "EPSG:32633", *corners)
        other = Affine(10, 0, min(xs), 0, -10, max(ys))
        out = np.zeros((12, round((max(ys) - min(ys)) / 10), round((max(xs) - min(xs)) / 10)), np.uint16)
        rasterio.warp.reproject(smooth.astype(np.uint16), out, src_transform=shifted, src_crs="EPSG:32632",
                                dst_transform=other, dst_crs="EPSG:32633", src_nodata=0, dst_nodata=0,
                                resampling=rasterio.warp.Resampling.bilinear)
        tif(tmp_path / "s2.tif", out, other, "EPSG:32633")
        scenes = open_scenes({name: str(tmp_path / f"{name}.tif") for name in sensors}, sensors, stack)
        whole, window = scenes["s2"].read(0, 0, 300, 300), scenes["s2"].read(77, 91, 64, 64)
        assert np.abs(whole[77:141, 91:155].astype(int) - window).max() <= 1
        inside = np.zeros((300, 300), bool)
        inside[60:240, 50:230] = True
        moved = np.zeros((300, 300, 12), int)
        moved[50:250, 40:240] = np.moveaxis(smooth, 0, -1)
        assert np.abs(whole[inside].astype(int) - moved[inside]).max() <= 8
        tif(tmp_path / "s2.tif", smooth.astype(np.uint16), PLACE @ Affine.translation(900, 0))
        with pytest.raises(UserError, match="they do not overlap"):
            open_scenes({name: str(tmp_path / f"{name}.tif") for name in sensors}, sensors, stack)


def test_a_list_of_scenes_gives_a_map_each_and_a_mosaic(segmenter, tmp_path):
    for name, shift in (("a", 0), ("b", 100)):
        (tmp_path / name).mkdir()
        values = decibels(150, 130, seed=shift)
        for number, band in enumerate(("vv", "vh")):
            tif(tmp_path / name / f"{band}.tif", values[number:number + 1], PLACE @ Affine.translation(shift, 0))
    describe(tmp_path, size=None, s1=S1)
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [
        {"id": name, "assets": {band: {"href": f"{name}/{band}.tif"} for band in ("vv", "vh")}} for name in "ab"]}))
    maps = []
    for name, paths in listed.scenes(str(tmp_path / "items.json"), segmenter.sensors):
        one_map.make(segmenter, one_map.Request(paths, tmp_path / f"{name}.tif", **SMALL), None)
        maps.append(tmp_path / f"{name}.tif")
    mosaic.write_mosaic(tmp_path / "all.tif", maps)
    with rasterio.open(tmp_path / "all.tif") as file, rasterio.open(maps[0]) as first, rasterio.open(maps[1]) as second:
        joined = file.read(1)
        assert cog_validate(tmp_path / "all.tif", quiet=True)[0] and file.tags()["CLASS_1"] == "wet"
        np.testing.assert_array_equal(joined[:, :130], first.read(1))
        np.testing.assert_array_equal(joined[:, 130:], second.read(1)[:, 30:])
    (tmp_path / "items.json").write_text('[{"id": "a", "assets": {"vv": {"href": "https://x/vv.tif"}}}]')
    with pytest.raises(UserError, match="which is not on this disk"):
        list(listed.scenes(str(tmp_path / "items.json"), segmenter.sensors))


def test_each_scene_of_a_list_has_its_picture_and_polygons(workdir, tmp_path, monkeypatch, capsys):
    for name in "ab":
        tif(tmp_path / f"{name}.tif", decibels(60, 60, seed=ord(name)), PLACE)
    describe(tmp_path, size=None, s1=S1)
    (tmp_path / "list.json").write_text(json.dumps([{"id": name, "s1": f"{name}.tif"} for name in "ab"]))

    def predict(*further):
        monkeypatch.setattr(sys, "argv", ["predict", f"--workdir={workdir}", f"--scenes={tmp_path / 'list.json'}",
                                          f"--out={tmp_path / 'maps'}", *further])
        predict_command.main()

    predict(f"--preview={tmp_path / 'maps' / '{id}.png'}", f"--polygons={tmp_path / 'maps' / '{id}.geojson'}")
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {
        f"{name}.{kind}" for name in "ab" for kind in ("tif", "png", "geojson")}
    with pytest.raises(SystemExit):
        predict(f"--preview={tmp_path / 'all.png'}")
    said = capsys.readouterr().err
    assert "put the id of the scene into its name: --preview=" in said and "{id}.png" in said and said.count("\n") == 1


@pytest.mark.slow
def test_the_command_makes_a_map_of_real_radar(workdir, real_data, tmp_path):
    chip = real_data / "sen1floods11/data/flood_events/HandLabeled/S1Hand/India_900498_S1Hand.tif"
    (tmp_path / "geotiff.json").write_text(json.dumps({"s1": S1}))
    words = ["-m", "dual_encoder.predict", f"--workdir={workdir}", f"--s1={chip}",
             f"--out={tmp_path / 'map.tif'}", f"--description={tmp_path / 'geotiff.json'}", "--window=512"]
    done = commands.run(*words, f"--preview={tmp_path / 'map.png'}")
    assert done.returncode == 0, done.stderr
    with rasterio.open(chip) as source, rasterio.open(tmp_path / "map.tif") as made:
        assert (made.transform, made.crs, made.shape) == (source.transform, source.crs, source.shape)
        np.testing.assert_array_equal(made.read(1) == 255, ~np.isfinite(source.read()).all(axis=0))
    assert f"map: {tmp_path / 'map.tif'}" in done.stdout and "Mpx/s" in done.stdout
    wrong = commands.run(*words[:-3], f"--out={tmp_path / 'map.png'}")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --out=") and wrong.stderr.count("\n") == 1


def test_the_examples_in_the_docstrings_are_true(workdir, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "flood").symlink_to(workdir)
    monkeypatch.chdir(tmp_path)
    with jax.numpy_dtype_promotion("standard"):
        result = doctest.testmod(segmenter_file)
    assert result.failed == 0 and result.attempted >= 7 and dual_encoder.load_segmentation is load_segmentation


def test_images_that_do_not_fit_are_refused_in_one_line(segmenter):
    radar = np.full((2, 64, 64, 2), (-11.0, -17.5))
    for images, message in (({}, "images of no sensor given; expected s1"), ({"s1": radar, "s2": radar}, "expected s1"),
                            ({"s1": radar[..., :1]}, "has shape .* expected .height, width, 2.")):
        with pytest.raises(UserError, match=message):
            segmenter.predict(units="physical", **images)


def test_a_run_that_is_no_segmentation_is_refused(tmp_path):
    config = to_dict(runs.configure(tmp_path))
    with pytest.raises(UserError, match="the run is of task 'pretrain', a map needs a segmentation run"):
        Segmenter(LoadedModel(1, {}, config, {}, {}, ""))


def test_both_dates_and_both_sensors_are_read(write_dataset, tmp_path):
    data = write_dataset(labels=True, two_dates=True)
    config, task, records, variables = untrained(data, change="difference")
    facts = workdir_folder.facts(to_dict(config), records.info, task.sensors)
    segmenter = Segmenter(LoadedModel(0, variables, facts["config"], task.sensors, facts["dataset"], ""))
    path, values = scene(tmp_path / "a")
    earlier = values.copy()
    earlier[:, :30] = np.nan
    tif(tmp_path / "a" / "before.tif", earlier)
    images = {"s1": str(path), "s1_before": str(tmp_path / "a" / "before.tif")}
    one_map.make(segmenter, one_map.Request(images, tmp_path / "map.tif", **SMALL), None)
    with rasterio.open(tmp_path / "map.tif") as made:
        classes = made.read(1)
    assert (classes[:30] == 255).all() and (classes[30:] != 255).all()
    with pytest.raises(UserError, match="the model reads s1 and s1_before; give --before=SCENE"):
        make(segmenter, path, tmp_path / "none.tif")


def test_a_scene_without_data_gives_a_map_without_data(segmenter, tmp_path):
    path, values = scene(tmp_path)
    tif(path, np.full_like(values, np.nan))
    classes = make(segmenter, path, tmp_path / "map.tif", preview=str(tmp_path / "map.png"),
                   polygons=str(tmp_path / "map.gpkg"))
    assert (classes == 255).all() and len(pyogrio.raw.read(tmp_path / "map.gpkg")[2]) == 0


def test_a_run_with_sensor_dropout_maps_from_one_sensor(write_dataset):
    data = write_dataset(labels=True)
    config, task, records, variables = untrained(data, inputs="s1+s2", sensor_dropout=0.5)
    facts = workdir_folder.facts(to_dict(config), records.info, task.sensors)
    model = LoadedModel(0, variables, facts["config"], task.sensors, facts["dataset"], "")
    batch = {name: np.stack([records[number][name] for number in range(2)])[:, :32, :32]
             for name in ("s1", "s2", "label")}
    predicted = jax.jit(task.predict)(**variables, batch=batch)
    for available, key in (((), "prediction"), (("s1",), "prediction_s1")):
        segmenter = Segmenter(model, available)
        shares = segmenter.probabilities({name: batch[name] for name in segmenter.sensors})
        assert set(segmenter.sensors) == set(available or ("s1", "s2"))
        np.testing.assert_array_equal(np.argmax(shares, axis=-1), predicted[key])
    values = to_dict(config) | {"sensor_dropout": 0.0}
    with pytest.raises(UserError, match="the model reads s1 and s2; give --s2=SCENE, or fine-tune one with"):
        Segmenter(dataclasses.replace(model, config=values), ("s1",))
