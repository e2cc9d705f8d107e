"""Pixels without data that no value tells: masks, alpha bands, files beside; and how they do not bleed."""

import numpy as np
import pytest
from affine import Affine
from rasterio.enums import ColorInterp

from data_prep import importers
from dual_encoder.errors import UserError
from dual_encoder.imagery import radiometry, raster
from tests.data_prep.geotiff_writing import PLACE, S1, S2, SIZE, decibels, describe, digital_numbers, pair, read, tif
from tests.data_prep.geotiff_writing import valid as holds_data

pytestmark = pytest.mark.quick

HERE = np.ones((SIZE, SIZE), bool)
HERE[:, :5] = False
MASK = np.where(HERE, 255, 0).astype(np.uint8)


def with_alpha(values):
    return np.concatenate([values, np.where(HERE, 255, 0)[None].astype(values.dtype)])


def colours(count):
    return [ColorInterp.gray, *[ColorInterp.undefined] * (count - 1), ColorInterp.alpha]


@pytest.mark.parametrize("way", ["mask", "beside", "alpha", "nan in one band", "tag", "tag is nan", "aux.xml",
                                 "mask, tag"])
def test_each_way_to_say_no_data_counts(tmp_path, way):
    pair(tmp_path)
    s1, s2 = decibels(), digital_numbers()
    tags = {}, {}
    if way in ("mask", "beside", "mask, tag"):
        s1[:, ~HERE], s2[:, ~HERE] = 3, 9999
        tags = ({"mask": MASK, "beside": way == "beside"},) * 2
    if way == "mask, tag":  # GDAL then gives the mask only
        s1[0, 3, 9], s2[0, 3, 9] = -99, 65535
        tags = tags[0] | {"nodata": -99}, tags[1] | {"nodata": 65535}
    if way == "alpha":
        s1, s2 = with_alpha(s1), with_alpha(s2)
        tags = {"colorinterp": colours(2)}, {"colorinterp": colours(12)}
    if way == "nan in one band":
        s1[1, ~HERE] = np.nan
        s2 = s2.astype(np.float32)
        s2[4, ~HERE] = np.nan
    if way in ("tag", "aux.xml"):
        s1[0, ~HERE], s2[7, ~HERE] = -99, 65535
        tags = ({"nodata": -99}, {"nodata": 65535}) if way == "tag" else tags
    if way == "tag is nan":
        s1[0, ~HERE] = np.nan
        s2 = s2.astype(np.float32)
        s2[7, ~HERE] = np.nan
        tags = ({"nodata": np.nan},) * 2
    tif(tmp_path / "s1.tif", s1, **tags[0])
    tif(tmp_path / "s2.tif", s2, **tags[1])
    if way == "aux.xml":
        for name, band, value in (("s1", 1, -99), ("s2", 8, 65535)):
            (tmp_path / f"{name}.tif.aux.xml").write_text(
                f'<PAMDataset><PAMRasterBand band="{band}"><NoDataValue>{value}</NoDataValue></PAMRasterBand>'
                "</PAMDataset>")
    item = read(tmp_path)
    expected = HERE.copy()
    if way == "mask, tag":
        expected[3, 9] = False
    for feature in ("s1", "s2"):
        np.testing.assert_array_equal(holds_data(item, feature), expected, err_msg=feature)
    np.testing.assert_array_equal(item.images["s2"][expected], np.moveaxis(s2[:12], 0, -1)[expected])


@pytest.mark.parametrize("way", ["mask", "alpha"])
def test_masked_pixels_do_not_bleed(tmp_path, way):
    pair(tmp_path)
    s1 = np.full((2, 20, 20), -10, np.float32)
    s1[:, :, :8] = 20  # it would show in every pixel with a share of it
    here = np.ones((20, 20), np.uint8)
    here[:, :8] = 0
    place = PLACE @ Affine.translation(-2.5, -1.5)
    if way == "mask":
        tif(tmp_path / "s1.tif", s1, place, mask=here * 255)
    else:
        tif(tmp_path / "s1.tif", np.concatenate([s1, here[None].astype(np.float32)]), place, colorinterp=colours(2))
    tif(tmp_path / "s2.tif", digital_numbers())
    stored = read(tmp_path).images["s1"]
    assert set(np.unique(stored)) == {-32768, -1000} and (stored[:, 6:] == -1000).all()


@pytest.mark.parametrize("listed", [True, False])
def test_a_band_called_data_mask_is_a_mask(tmp_path, listed):
    more = ["dataMask"] if listed else []
    pair(tmp_path, s1=S1 | {"bands": [*S1["bands"], *more]}, s2=S2 | {"bands": [*S2["bands"], *more]})
    names = [] if listed else ["dataMask"]
    s1, s2 = decibels(), digital_numbers()
    for name, values in (("s1", s1), ("s2", s2)):
        tif(tmp_path / f"{name}.tif", np.concatenate([values, HERE[None].astype(values.dtype)]),
            names=[""] * len(values) + names)
    item = read(tmp_path)
    for feature in ("s1", "s2"):
        np.testing.assert_array_equal(holds_data(item, feature), HERE)


def test_an_alpha_band_that_is_listed_is_a_band(tmp_path):
    pair(tmp_path)
    s1 = tif(tmp_path / "s1.tif", decibels(), colorinterp=[ColorInterp.gray, ColorInterp.alpha])
    tif(tmp_path / "s2.tif", digital_numbers())
    np.testing.assert_array_equal(read(tmp_path).images["s1"], np.rint(np.moveaxis(s1.astype(float), 0, -1) * 100))


def test_a_stated_zero_counts_in_each_band_and_with_an_offset_always(tmp_path):
    tif(tmp_path / "s1.tif", decibels())
    s2 = digital_numbers() + np.uint16(1000)
    s2[1, :, :6] = 0
    for section, tag, valid in (({"no_data": 0}, None, False), ({}, 0, True), ({}, None, True),
                                ({"offset": 1000}, None, False), ({"offset": 1000, "no_data": 0}, 0, False)):
        pair(tmp_path, s2=S2 | section)
        tif(tmp_path / "s2.tif", s2, nodata=tag)
        shown = holds_data(read(tmp_path), "s2")
        assert (shown[:, :6] == valid).all() and shown[:, 6:].all(), section


@pytest.mark.parametrize("aside", [0, 0.5])
def test_a_border_of_zero_decibels_is_no_data_before_it_is_resampled(tmp_path, aside):
    pair(tmp_path)
    s1 = decibels(20)
    s1[:, np.tri(20, k=-4, dtype=bool)] = 0  # a slanting one
    s1[:, 3, 15] = s1[0, 5, 15] = 0  # single targets
    tif(tmp_path / "s1.tif", s1, PLACE @ Affine.translation(aside, 0))
    tif(tmp_path / "s2.tif", digital_numbers())
    item = read(tmp_path)
    shown = holds_data(item, "s1")
    if aside:
        assert item.images["s1"][..., 1][shown].max() < -250  # a target of 0 dB spreads, a border would stay 0
    np.testing.assert_array_equal(shown[:, :14], ~np.tri(20, k=-4, dtype=bool)[:16, :14])
    assert "s1: areas of exactly 0 dB in all bands, taken for no data" in item.remarks


def test_zero_areas_by_pixel():
    random = np.random.default_rng(3)
    db = np.where(random.random((2, 30, 30)) < 0.75, 0, -10).astype(np.float32)
    zero = np.pad((db == 0).all(axis=0), 2, constant_values=True)

    def square(y, x):
        return any(zero[y + i:y + i + 2, x + j:x + j + 2].all() for i in (-1, 0) for j in (-1, 0))

    inside = np.array([[zero[y, x] and 2 <= y < 32 and 2 <= x < 32 and square(y, x) for x in range(34)]
                       for y in range(34)])
    expected = [[zero[y, x] and inside[y - 1:y + 2, x - 1:x + 2].any() for x in range(2, 32)] for y in range(2, 32)]
    np.testing.assert_array_equal(radiometry.zero_areas(db), expected)
    assert 0 < np.sum(expected) < (db == 0).all(axis=0).sum()


def test_masks_of_labels_are_ignored(tmp_path):
    pair(tmp_path, label={"classes": {"land": 0, "water": 1}})
    tif(tmp_path / "s1.tif", decibels())
    tif(tmp_path / "s2.tif", digital_numbers())
    values = np.ones((1, SIZE, SIZE), np.uint8)
    for tags in ({"mask": MASK}, {"mask": MASK, "beside": True}):
        tif(tmp_path / "label.tif", values, **tags)
        np.testing.assert_array_equal(read(tmp_path, "tiles").label, np.where(HERE, 1, 255))


# Published layouts

def test_masks_count_in_published_layouts(tmp_path):
    tif(tmp_path / "a.tif", digital_numbers(), mask=MASK)
    values = raster.read(tmp_path / "a.tif", 12, missing=0)
    assert not values[:, ~HERE].any() and values[:, HERE].all()
    s2 = digital_numbers()
    tif(tmp_path / "b.tif", s2[:1, ::2, ::2], PLACE @ Affine.scale(2))
    tif(tmp_path / "c.tif", s2[1:2], mask=MASK)
    bands = raster.read_bands({"B05": tmp_path / "b.tif", "B02": tmp_path / "c.tif"}, SIZE, 0)
    for values, whole in zip(bands.values(), (s2[0, ::2, ::2].repeat(2, 0).repeat(2, 1), s2[1]), strict=True):
        np.testing.assert_array_equal(values, np.where(HERE, whole, 0))
    only = raster.read_bands({"B05": tmp_path / "b.tif"}, SIZE, 0)
    assert only["B05"].shape == (SIZE // 2, SIZE // 2)


def test_a_mask_in_a_patch_of_sen12ms_is_no_data(tmp_path):
    size = 256
    mask = np.full((size, size), 255, np.uint8)
    mask[:7] = 0
    for layer, values in (("s1", decibels(size)), ("s2", np.full((13, size, size), 500, np.uint16)),
                          ("lc", np.ones((4, size, size), np.uint16))):
        tif(tmp_path / f"ROIs1158_spring/{layer}_1/ROIs1158_spring_{layer}_1_p30.tif", values, mask=mask)
    importer = importers.open_raw("sen12ms", tmp_path, "tiles", {"s1": "s1_grd", "s2": "s2_l1c"})
    item = importer.read(next(iter(importer.entries())))
    assert (item.images["s1"][:7] == -32768).all() and not item.images["s2"][:7].any() and (item.label[:7] == 255).all()
    assert (item.images["s1"][7:] != -32768).all() and item.images["s2"][7:].all() and not item.label[7:].any()


def test_no_data_of_files_differs_by_band(tmp_path):
    describe(tmp_path, {"s1": "s1_{band}.tif", "s2": "s2.tif"}, s1=S1, s2=S2)
    s1 = decibels()
    s1[0, 1, 1], s1[1, 2, 2], s1[1, 3, 3] = -90, -91, -90  # the last one is data
    for number, (band, tag) in enumerate((("VV", -90), ("VH", -91))):
        tif(tmp_path / f"s1_{band}.tif", s1[number:number + 1], nodata=tag)
    tif(tmp_path / "s2.tif", digital_numbers())
    assert np.argwhere(~holds_data(read(tmp_path), "s1")).tolist() == [[1, 1], [2, 2]]


def test_damaged_files_beside_an_image_are_told(tmp_path):
    path = tmp_path / "a.tif"
    tif(path, decibels(), mask=MASK, beside=True)
    whole = (tmp_path / "a.tif.msk").read_bytes()
    for data, message in ((b"junk", "a.tif.msk' is text: 'junk'"), (b"", "a.tif.msk' is empty"),
                          (whole[:100], "a.tif.msk' cannot be read as GeoTIFF")):
        (tmp_path / "a.tif.msk").write_bytes(data)
        with pytest.raises(UserError, match=message):
            raster.load(path)
    (tmp_path / "a.tif.msk").unlink()
    (tmp_path / "a.tif.aux.xml").write_text('<PAMDataset><PAMRasterBand band="1"><NoDataValue>-9')
    with pytest.raises(UserError, match="a.tif.aux.xml', which may hold the no-data value of the image beside it, is"):
        raster.read(path, 2)


def test_each_band_may_have_a_mask_of_its_own(tmp_path):
    tif(tmp_path / "a.tif", decibels())
    tif(tmp_path / "a.tif.msk", np.stack([MASK, np.full_like(MASK, 255)]), transform=None, crs=None,
        tags={"INTERNAL_MASK_FLAGS_1": "0", "INTERNAL_MASK_FLAGS_2": "0"})
    loaded = raster.load(tmp_path / "a.tif")
    np.testing.assert_array_equal(loaded.valid, [HERE, np.ones_like(HERE)])
    np.testing.assert_array_equal(loaded.filled(-5)[0] == -5, ~HERE)
    assert np.isnan(raster.read(tmp_path / "a.tif", 2, np.nan)[:, ~HERE]).all()  # a pixel counts as a whole


@pytest.mark.parametrize("dtype, missing, stored", [("int16", np.nan, "float32"), ("uint8", -1, "int16"),
                                                    ("uint8", 999, "uint16"), ("uint8", 255, "uint8")])
def test_the_value_of_masked_pixels_fits(tmp_path, dtype, missing, stored):
    tif(tmp_path / "a.tif", np.ones((1, SIZE, SIZE), dtype), mask=MASK)
    for values in (raster.read(tmp_path / "a.tif", 1, missing)[0],
                   raster.read_bands({"a": tmp_path / "a.tif"}, SIZE, missing)["a"]):
        assert values.dtype == stored
        np.testing.assert_array_equal(values, np.where(HERE, 1, missing))


def test_text_that_is_no_utf_8_is_passed_over(tmp_path):
    for tags in ({"tags": {"TIFFTAG_ARTIST": "xxKOLN"}}, {"names": ["xxKOLN", "VH"]}):
        tif(tmp_path / "a.tif", decibels(), **tags)
        data = (tmp_path / "a.tif").read_bytes()
        (tmp_path / "a.tif").write_bytes(data.replace(b"KOLN", b"K\xf6LN"))
        assert raster.load(tmp_path / "a.tif").names == ("", "")


def test_a_no_data_value_beyond_the_dtype_is_no_value(tmp_path):
    tif(tmp_path / "s2.tif", digital_numbers())
    s1 = decibels()
    s1[0, 2, 3] = np.float32(-3.4028235e38)
    for value, gone in ((1e300, 0), (-3.4028234663852886e38, 1)):
        pair(tmp_path, s1=S1 | {"no_data": value})
        tif(tmp_path / "s1.tif", s1 if gone else decibels())
        assert (~holds_data(read(tmp_path), "s1")).sum() == gone
    pair(tmp_path, s1=S1 | {"no_data": 10**400})
    with pytest.raises(UserError, match="s1.no_data is 1000.* more than any image can hold"):
        read(tmp_path)


def test_files_that_are_all_masked_are_rejected(tmp_path):
    pair(tmp_path)
    tif(tmp_path / "s1.tif", decibels(), mask=np.zeros((SIZE, SIZE), np.uint8))
    tif(tmp_path / "s2.tif", digital_numbers())
    with pytest.raises(UserError, match="s1 is without data in every pixel"):
        read(tmp_path)
