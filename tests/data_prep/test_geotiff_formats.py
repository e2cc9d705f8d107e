"""Formats and shapes that people have: JPEG 2000, PNG, pages, ground control points, bands and images of any size."""

import json
import warnings

import numpy as np
import pytest
import rasterio
import rasterio.warp
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint

from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from tests.data_prep.geotiff_writing import (
    BANDS,
    PLACE,
    S1,
    S2,
    SIZE,
    decibels,
    describe,
    digital_numbers,
    pair,
    read,
    tif,
)

pytestmark = pytest.mark.quick

LABEL = {"classes": {"land": 0, "water": 1}}
HUNDREDTHS = np.rint(np.moveaxis(decibels().astype(float), 0, -1) * 100)


def test_a_safe_folder_of_jpeg_2000(tmp_path):
    describe(tmp_path, {"s1": "s1.tif", "s2": "IMG_DATA/T32TNT_20200607T101031_{band}.jp2"}, s1=S1, s2=S2)
    tif(tmp_path / "s1.tif", decibels())
    s2 = digital_numbers()
    for number, band in enumerate(BANDS):
        step = 2 if band in ("B05", "B06", "B07", "B8A", "B11", "B12") else 1
        tif(tmp_path / f"IMG_DATA/T32TNT_20200607T101031_{band}.jp2", s2[number:number + 1, ::step, ::step],
            PLACE @ Affine.scale(step), driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
        s2[number] = s2[number, ::step, ::step].repeat(step, 0).repeat(step, 1)
    np.testing.assert_array_equal(read(tmp_path).images["s2"], np.moveaxis(s2, 0, -1))
    (tmp_path / "s1.tif").write_bytes((tmp_path / "IMG_DATA/T32TNT_20200607T101031_B02.jp2").read_bytes())
    with pytest.raises(UserError, match="s1.tif' has 1 bands, geotiff.json lists 2"):  # a raster by another name
        read(tmp_path)
    path = tmp_path / "IMG_DATA/T32TNT_20200607T101031_B01.jp2"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="B01.jp2' cannot be read as JPEG 2000 .*truncated"):
        read(tmp_path)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "LA"])
def test_labels_as_png(tmp_path, mode):
    describe(tmp_path, {"s1": "s1.tif", "s2": "s2.tif", "label": "label.png"}, s1=S1, s2=S2, label=LABEL)
    tif(tmp_path / "s1.tif", decibels())
    tif(tmp_path / "s2.tif", digital_numbers())
    values = np.random.default_rng(0).integers(0, 2, (SIZE, SIZE), np.uint8)
    expected = values.copy()
    image = Image.fromarray(values.astype(np.uint16) if mode == "I;16" else values > 0 if mode == "1" else values)
    if mode == "P":
        image.putpalette([0, 90, 0, 0, 0, 200])
    if mode == "LA":
        shown = np.full((SIZE, SIZE), 255, np.uint8)
        shown[:3] = 0
        image, expected[:3] = Image.merge("LA", [image, Image.fromarray(shown)]), 255
    image.save(tmp_path / "label.png")
    tile = read(tmp_path, "tiles")
    np.testing.assert_array_equal(tile.label, expected)
    assert "label: no georeference, taken pixel by pixel" in tile.remarks


def test_labels_that_are_pictures_or_of_another_size_are_told(tmp_path):
    describe(tmp_path, {"s1": "s1.tif", "s2": "s2.tif", "label": "label.png"}, s1=S1, s2=S2, label=LABEL)
    tif(tmp_path / "s1.tif", decibels())
    tif(tmp_path / "s2.tif", digital_numbers())
    for mode in ("RGB", "RGBA"):
        Image.new(mode, (SIZE, SIZE)).save(tmp_path / "label.png")
        with pytest.raises(UserError, match="has 3 bands in colours .red, green, blue., a picture of the classes, exp"):
            read(tmp_path, "tiles")
    Image.new("L", (SIZE, SIZE - 1)).save(tmp_path / "label.png")
    with pytest.raises(UserError, match="label.png': cannot align 15x16 pixels without georeference with latitude"):
        read(tmp_path, "tiles")
    Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "label.png", "JPEG")
    with pytest.raises(UserError, match="label.png' is a JPEG picture; expected a GeoTIFF"):
        read(tmp_path, "tiles")


def test_a_tiff_with_one_page_for_each_band(tmp_path):
    pair(tmp_path)
    s2 = digital_numbers()
    pages = [Image.fromarray(band) for band in s2]
    pages[0].save(tmp_path / "s2.tif", save_all=True, append_images=pages[1:])
    tif(tmp_path / "s1.tif", decibels(), Affine.identity(), None)
    item = read(tmp_path)
    np.testing.assert_array_equal(item.images["s2"], np.moveaxis(s2, 0, -1))
    tif(tmp_path / "s1.tif", decibels())
    with pytest.raises(UserError, match=r"16x16 pixels without georeference \(its 12 pages have none\)"):
        read(tmp_path)
    pages[0].save(tmp_path / "s2.tif", save_all=True, append_images=[pages[1].resize((3, 3))])
    with pytest.raises(UserError, match=r"s2.tif' has 2 pages of different sizes \(16x16, 3x3"):
        read(tmp_path)
    pages[0].save(tmp_path / "s2.tif", save_all=True, append_images=pages[1:3])
    with pytest.raises(UserError, match="s2.tif' has 3 bands, geotiff.json lists 12"):
        read(tmp_path)


def test_bands_of_60_m_of_any_size_lie_by_their_georeference(tmp_path):
    size = 64  # 640 m: 11 pixels of 60 m, 32 of 20 m
    describe(tmp_path, {"s1": "s1.tif", "s2": "s2_{band}.tif"}, size=size, s1=S1, s2=S2)
    tif(tmp_path / "s1.tif", decibels(size))
    steps = {"B01": 6, "B09": 6} | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2)
    s2, expected = digital_numbers(66), []
    for number, band in enumerate(BANDS):
        step = steps.get(band, 1)
        pixels = -(-size // step)
        coarse = s2[number, :pixels, :pixels]
        tif(tmp_path / f"s2_{band}.tif", coarse[None], PLACE @ Affine.scale(step))
        expected.append(np.array([[coarse[y // step, x // step] for x in range(size)] for y in range(size)]))
    np.testing.assert_array_equal(read(tmp_path).images["s2"], np.stack(expected, axis=-1))
    # By position, not by order: a band that begins two pixels of its own further north and west.
    tif(tmp_path / "s2_B01.tif", s2[:1, :14, :14], PLACE @ Affine.translation(-12, -12) @ Affine.scale(6))
    moved = [[s2[0, y // 6 + 2, x // 6 + 2] for x in range(size)] for y in range(size)]
    np.testing.assert_array_equal(read(tmp_path).images["s2"][..., 0], moved)
    tif(tmp_path / "s2_B01.tif", s2[:1, :10, :10], PLACE @ Affine.scale(6))  # 600 of 640 m
    with pytest.raises(UserError, match="band of 10x10 pixels does not fill 64x64: B01 is 10x10 at latitude"):
        read(tmp_path)
    tif(tmp_path / "s2_B01.tif", s2[:1, :11, :11], Affine.identity(), None)
    with pytest.raises(UserError, match="band of 11x11 pixels does not fill 64x64: B01 is 11x11 at 11x11 pixels with"):
        read(tmp_path)


def test_a_band_on_a_rotated_grid_lies_by_its_georeference():
    fine = raster.Grid(rasterio.crs.CRS.from_epsg(32632), PLACE @ Affine.rotation(30), (20, 20))
    coarse = raster.Grid(fine.crs, fine.transform @ Affine.scale(6), (4, 4))
    band = np.arange(16).reshape(4, 4)
    np.testing.assert_array_equal(raster.bring_to(band, coarse, fine), band.repeat(6, 0).repeat(6, 1)[:20, :20])


def test_images_of_any_size_are_cut(cli, tmp_path):
    raw = describe(tmp_path / "raw", s1=S1 | {"files": "{place}_s1.tif"}, s2=S2 | {"files": "{place}_s2.tif"})
    sizes = {"a": (16, 16), "b": (17, 16), "c": (16, 33), "d": (40, 40), "e": (9, 40)}
    for place, (height, width) in sizes.items():
        tif(raw / f"{place}_s1.tif", decibels(40)[:, :height, :width])
        tif(raw / f"{place}_s2.tif", digital_numbers(40)[:, :height, :width])
    build = ("build", "--importer=geotiff", f"--raw={raw}", "--workers=1", "--split-by=area")
    process = cli(*build, f"--data_dir={tmp_path / 'one'}", "--name=x")
    assert process.returncode == 0, process.stderr
    assert "built 1 records" in process.stdout
    assert "is 17x16 pixels, geotiff.json says size 16; cut it, mend the size, or cut patches from" in process.stdout
    for described in (True, False):
        data = tmp_path / f"cut{described}"
        if not described:
            (raw / "geotiff.json").write_text(json.dumps({
                key: value for key, value in json.loads((raw / "geotiff.json").read_text()).items() if key != "size"}))
        process = cli(*build, f"--data_dir={data}", "--size=16", "--name=x")
        assert process.returncode == 0, process.stderr
        assert "built 8 records" in process.stdout  # 1 + 1 + 2 + 4
        assert "record 'e' is 9x40 pixels, smaller than a patch of 16" in process.stdout
    process = cli(*build, f"--data_dir={tmp_path / 'none'}", "--name=x")
    assert process.returncode == 2 and "does not know the size of the images; give it in" in process.stderr


# Ground control points

def by_points(path, values, bend=0.0, crs="EPSG:4326"):
    """Writes an image of 10 m pixels from the corner of PLACE, whose place is known by nine points only."""
    size = values.shape[1]
    at = [(row, column) for row in (0, size / 2, size) for column in (0, size / 2, size)]
    xs = [600000 + 10 * column + bend * row**2 for row, column in at]
    xs, ys = rasterio.warp.transform("EPSG:32632", "EPSG:4326", xs, [5200000 - 10 * row for row, _ in at])
    points = [GroundControlPoint(row, column, x, y) for (row, column), x, y in zip(at, xs, ys, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", count=len(values), height=size, width=size, dtype=values.dtype,
                           gcps=points, crs=crs) as file:
            file.write(values)


def test_ground_control_points_on_a_straight_grid_are_a_georeference(tmp_path):
    pair(tmp_path)
    tif(tmp_path / "s2.tif", digital_numbers())
    smooth = np.add.outer(np.arange(SIZE) * -0.3, np.arange(SIZE) * -0.2) - 10
    by_points(tmp_path / "s1.tif", np.stack([smooth, smooth - 6]).astype(np.float32))
    stored = read(tmp_path).images["s1"]
    np.testing.assert_allclose(stored[1:-1, 1:-1, 0], smooth[1:-1, 1:-1] * 100, atol=6)


def test_a_partner_without_georeference_of_one_with_points_is_told(tmp_path):
    pair(tmp_path)
    tif(tmp_path / "s2.tif", digital_numbers(), Affine.identity(), None)
    by_points(tmp_path / "s1.tif", decibels())
    with pytest.raises(UserError, match=r"cannot align latitude .* \(by its 9 ground control points\) with 16x16"):
        read(tmp_path)


def test_ground_control_points_of_radar_geometry_are_named(tmp_path):
    pair(tmp_path)
    tif(tmp_path / "s2.tif", digital_numbers())
    by_points(tmp_path / "s1.tif", decibels(), bend=1.0)
    with pytest.raises(UserError, match=r"s1.tif': .* without georeference \(it has 9 ground control points only, "
                                        r"which no straight grid fits \(\d+ pixels off\): radar geometry\? Corr"):
        read(tmp_path)


def test_south_up_and_rotated_grids_are_right(tmp_path):
    pair(tmp_path)
    s2 = tif(tmp_path / "s2.tif", digital_numbers())
    tif(tmp_path / "s1.tif", decibels()[:, ::-1], Affine(10, 0, 600000, 0, 10, 5200000 - 10 * SIZE))
    item = read(tmp_path)
    np.testing.assert_allclose(item.images["s1"], HUNDREDTHS, atol=1)
    np.testing.assert_array_equal(item.images["s2"], np.moveaxis(s2, 0, -1))
    for name, values in (("s1", decibels()), ("s2", digital_numbers())):
        tif(tmp_path / f"{name}.tif", values, PLACE @ Affine.rotation(20))
    np.testing.assert_array_equal(read(tmp_path).images["s1"], HUNDREDTHS)


# Values of other types

def test_optical_floats_that_are_whole_numbers_are_read(tmp_path):
    pair(tmp_path)
    tif(tmp_path / "s1.tif", decibels())
    s2 = digital_numbers().astype(np.float32)
    s2[3, 4, 5] = np.nan
    for dtype in (np.float32, np.float64):
        tif(tmp_path / "s2.tif", s2.astype(dtype))
        expected = np.where(np.isnan(s2).any(axis=0), 0, np.nan_to_num(s2))
        np.testing.assert_array_equal(read(tmp_path).images["s2"], np.moveaxis(expected, 0, -1))
    for values, message in ((s2 / 10000, "is float32, expected integers, reflectance x 10000"),
                            (np.nan_to_num(s2 / 50).astype(np.uint8), "is uint8, a picture stretched to 8 bit")):
        tif(tmp_path / "s2.tif", values)
        with pytest.raises(UserError, match=message):
            read(tmp_path)
    tif(tmp_path / "s2.tif", digital_numbers())
    tif(tmp_path / "s1.tif", decibels().astype(np.complex64))
    with pytest.raises(UserError, match="s1.tif' is complex64, single look complex, expected floats"):
        read(tmp_path)
