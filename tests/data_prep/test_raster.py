"""Reading GeoTIFFs from files and bytes, and bringing one grid onto another without mixing in what is no data."""

import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine

from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.raster import Grid

pytestmark = pytest.mark.quick

UTM = rasterio.crs.CRS.from_epsg(32632)
NORTH_UP = Affine(10, 0, 600000, 0, -10, 5200000)


def write(path, values, transform=NORTH_UP, crs=UTM, names=(), **profile):
    values = np.asarray(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", count=len(values), height=values.shape[1],
                           width=values.shape[2], dtype=values.dtype, transform=transform, crs=crs, **profile) as file:
            file.write(values)
            for band, name in enumerate(names, start=1):
                file.set_band_description(band, name)
    return path


@pytest.fixture
def image():
    return np.random.default_rng(0).gamma(1, 0.1, (2, 60, 60)).astype(np.float32)


def test_a_file_and_its_bytes_are_one_image(tmp_path, image):
    path = write(tmp_path / "a.tif", image, names=("VV", ""), nodata=-32768)
    for loaded in (raster.load(path), raster.load(path.read_bytes(), "row 3, band vv")):
        np.testing.assert_array_equal(loaded.values, image)
        assert loaded.grid.matches(Grid(UTM, NORTH_UP, (60, 60)))
        assert loaded.names == ("VV", "") and loaded.no_data == (-32768, -32768)


def test_damaged_and_missing_sources_are_named(tmp_path, image):
    path = write(tmp_path / "a.tif", image)
    whole = path.read_bytes()
    for size in (4, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="a.tif' cannot be read as GeoTIFF .*truncated"):
            raster.load(path)
        with pytest.raises(UserError, match="'row 3, band vv' cannot be read as GeoTIFF"):
            raster.load(whole[:size], "row 3, band vv")
    path.unlink()
    with pytest.raises(UserError, match="a.tif' is missing"):
        raster.load(path)
    with pytest.raises(UserError, match="a.tif' is missing"):
        raster.centre(path)


def test_grids_match_by_place_and_not_by_shape():
    grid = Grid(UTM, NORTH_UP, (60, 60))
    assert grid.matches(Grid(UTM, NORTH_UP @ Affine.translation(0.05, 0), (60, 60)))
    for other in (Grid(UTM, NORTH_UP @ Affine.translation(0.4, 0), (60, 60)),
                  Grid(UTM, NORTH_UP @ Affine.scale(1.01), (60, 60)), Grid(UTM, NORTH_UP, (60, 61)),
                  Grid(rasterio.crs.CRS.from_epsg(32633), NORTH_UP, (60, 60)), Grid(None, NORTH_UP, (60, 60))):
        assert not grid.matches(other)


def test_centre_and_extent_are_degrees():
    # 500 km east is the central meridian of zone 32, 9 degrees.
    grid = Grid(UTM, Affine(10, 0, 500000 - 300, 0, -10, 5200300), (60, 60))
    latitude, longitude = grid.centre()
    assert longitude == pytest.approx(9, abs=1e-9) and latitude == pytest.approx(46.954, abs=1e-3)
    assert grid.extent() == "latitude 46.9508 to 46.9562, longitude 8.9961 to 9.0039"
    assert np.isnan(Grid(None, NORTH_UP, (60, 60)).centre()).all()


def test_resampling_onto_a_shifted_grid_moves_pixels_to_their_place(image):
    grid = Grid(UTM, NORTH_UP, (60, 60))
    shifted = Grid(UTM, NORTH_UP @ Affine.translation(7, 11), (40, 40))
    np.testing.assert_allclose(raster.resample(image, grid, shifted, np.nan), image[:, 11:51, 7:47], rtol=1e-5)


def test_resampling_into_another_zone_and_back_keeps_a_smooth_image():
    rows, columns = np.mgrid[:200, :200]
    smooth = (2 + np.sin(columns / 15) + np.cos(rows / 20))[None].astype(np.float32)
    grid = Grid(UTM, Affine(10, 0, 770000, 0, -10, 5200000), (200, 200))
    x, y = rasterio.warp.transform(UTM, "EPSG:32633", [770000], [5200000])
    there = Grid(rasterio.crs.CRS.from_epsg(32633), Affine(10, 0, x[0] - 500, 0, -10, y[0] + 500), (300, 300))
    warped = raster.resample(smooth, grid, there, np.nan)
    assert 0.1 < np.isnan(warped).mean() < 0.7  # the border that the image does not reach
    back = raster.resample(warped, there, grid, np.nan)
    inside = (slice(None), slice(10, -10), slice(10, -10))
    np.testing.assert_allclose(back[inside], smooth[inside], atol=0.03)


def test_no_data_gives_no_share_to_its_neighbours():
    values = np.full((2, 20, 20), 0.5, np.float32)
    values[0, :, 10:] = np.nan
    grid = Grid(UTM, NORTH_UP, (20, 20))
    for move, shape in ((Affine.translation(0.3, 0.3), (19, 19)), (Affine.scale(2), (10, 10)),
                        (Affine.scale(0.5), (40, 40))):
        result = raster.resample(values, grid, Grid(UTM, NORTH_UP @ move, shape), np.nan)
        assert set(np.unique(result[~np.isnan(result)])) == {np.float32(0.5)}
        assert 0.4 < np.isnan(result[0]).mean() <= 0.6 and not np.isnan(result[1]).any()
        if shape == (19, 19):  # nor is any pixel lost: the nearest one decides
            np.testing.assert_array_equal(np.isnan(result[0]), np.arange(19)[None].repeat(19, 0) >= 10)


def test_nearest_invents_no_classes():
    values = np.random.default_rng(0).choice(np.array([0, 7, 255], np.uint8), (1, 40, 40))
    grid = Grid(UTM, NORTH_UP, (40, 40))
    onto = Grid(UTM, NORTH_UP @ Affine.translation(-3.4, 2.3), (40, 40))
    result = raster.resample(values, grid, onto, 255, "nearest")
    assert set(np.unique(result)) == {0, 7, 255} and result.dtype == np.uint8
    np.testing.assert_array_equal(result[0, :30, 10:], values[0, 2:32, 7:37])
    assert (result[0, :, :3] == 255).all()


@pytest.mark.parametrize("shape, scale", [((300, 400), 1.0), ((600, 800), 0.5), ((75, 100), 4.0)])
def test_a_window_gives_what_the_whole_image_gives(tmp_path, shape, scale):
    values = np.random.default_rng(0).gamma(1, 0.1, (1, *shape)).astype(np.float32)
    path = write(tmp_path / "scene.tif", values, NORTH_UP @ Affine.scale(scale))
    for corner, tolerance in (((100.3, 120.7), 0), ((-5.2, 280.4), 0.01)):  # GDAL scales its kernel by what it sees
        around = Grid(UTM, NORTH_UP @ Affine.translation(*corner), (32, 32))
        part, whole = raster.load(path, around=around), raster.load(path)
        assert part.values.size < whole.values.size / 3
        np.testing.assert_allclose(raster.resample(part.values, part.grid, around, np.nan),
                                   raster.resample(whole.values, whole.grid, around, np.nan), rtol=1e-4,
                                   atol=tolerance)


def test_a_window_of_another_crs_covers_it(tmp_path):
    path = write(tmp_path / "scene.tif", np.ones((1, 500, 500), np.float32))
    x, y = rasterio.warp.transform(UTM, "EPSG:4326", [602500], [5197500])
    around = Grid(rasterio.crs.CRS.from_epsg(4326), Affine(1e-4, 0, x[0], 0, -1e-4, y[0]), (50, 50))
    part = raster.load(path, around=around)
    assert part.grid.shape[0] < 120
    assert not np.isnan(raster.resample(part.values, part.grid, around, np.nan)).any()


def test_points_that_a_crs_has_no_place_for_do_not_matter(tmp_path):
    mercator = Affine(1e5, 0, 0, 0, -1e5, 8e6), "EPSG:3857"
    path = write(tmp_path / "mercator.tif", np.ones((1, 60, 60), np.float32), *mercator)
    around = Grid(rasterio.crs.CRS.from_epsg(4326), Affine(1, 0, 10, 0, -1, 90), (50, 20))  # up to the pole
    part = raster.load(path, around=around)
    valid = ~np.isnan(raster.resample(part.values, part.grid, around, np.nan))
    assert valid[0, 40:].all() and not valid[0, :20].any()


def test_images_apart_and_images_without_place_are_told(tmp_path, image):
    path = write(tmp_path / "a.tif", image)
    for crs, transform in ((UTM, NORTH_UP @ Affine.translation(100, 0)),
                           (rasterio.crs.CRS.from_epsg(4326), Affine(1, 0, -170, 0, -1, 80))):
        with pytest.raises(UserError, match="a.tif' covers latitude 46.9.* longitude 10.3.*, its partner latitude .*"
                                            "do not overlap"):
            raster.load(path, around=Grid(crs, transform, (60, 60)))
    with pytest.raises(UserError, match="do not overlap"):  # the other hemisphere is nowhere in this CRS
        raster.load(write(tmp_path / "ortho.tif", image, Affine(10, 0, 0, 0, -10, 0), "+proj=ortho +lat_0=47 +lon_0=9"),
                    around=Grid(rasterio.crs.CRS.from_epsg(4326), Affine(1, 0, -171, 0, -1, -46), (2, 2)))
    nowhere = Grid(None, Affine.identity(), (60, 60))
    with pytest.raises(UserError, match="a.tif': cannot align latitude .* with 60x60 pixels without georeference"):
        raster.load(path, around=nowhere)
    with pytest.raises(UserError, match="'vv': cannot align 60x60 pixels without georeference"):
        raster.resample(image, nowhere, Grid(UTM, NORTH_UP, (60, 60)), np.nan, name="vv")
    with pytest.raises(UserError, match="'image' covers .* do not overlap"):
        raster.resample(image, Grid(UTM, NORTH_UP, (60, 60)), Grid(UTM, NORTH_UP @ Affine.translation(0, 61), (60, 60)),
                        np.nan)
    # No warning about it either: the tests turn warnings into errors.
    assert raster.load(write(tmp_path / "b.tif", image, None, None)).grid.crs is None
