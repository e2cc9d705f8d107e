"""SEN12MS: names and partners, splits, places, no data, land cover, bad input. The pixels are those of SEN12MS-CR."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import rasterio

from data_prep import record
from data_prep.importers import Entry, Reject, Unmatched, sen12ms
from data_prep.importers import _sen12ms_patches as patches
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick

SPECS = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l1c"]}
LAYERS = {"s1": (2, np.float32), "s2": (13, np.uint16), "lc": (4, np.uint8)}


def make(raw, kind="pairs", features=("s1", "s2")):
    return sen12ms.Importer(pathlib.Path(raw), kind, {feature: SPECS[feature].name for feature in features})


def path_of(raw, layer, scene, number, season="ROIs1158_spring"):
    return pathlib.Path(raw, season, f"{layer}_{scene}", f"{season}_{layer}_{scene}_p{number}.tif")


def write(path, array):
    """Writes [bands, height, width]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", count=array.shape[0], height=array.shape[1], width=array.shape[2],
                       dtype=array.dtype, crs="EPSG:32633",
                       transform=rasterio.Affine(10, 0, 400000, 0, -10, 5300000)) as file:
        file.write(array)
    return path


def fill(raw, layer, scene, number, value, season="ROIs1158_spring", size=256):
    """A patch of one value."""
    bands, dtype = LAYERS[layer]
    return write(path_of(raw, layer, scene, number, season), np.full((bands, size, size), value, dtype))


@pytest.fixture
def real(real_data, tmp_path):
    """The two real patches under SEN12MS's names, with land cover that is not real."""
    cover = np.zeros((4, 256, 256), np.uint8)
    cover[0] = np.arange(256)[:, None] // 14  # 0 .. 18
    cover[0, :, 250:] = 255
    cover[1:] = 99  # other schemes, to be left alone
    for name, season, scene, number in (("ROIs1970_fall_139_p839", "ROIs1970_fall", 139, 839),
                                        ("ROIs2017_winter_112_p797", "ROIs2017_winter", 112, 797)):
        for layer, folder in (("s1", "s1"), ("s2", "s2_cloudfree")):
            target = path_of(tmp_path, layer, scene, number, season)
            target.parent.mkdir(parents=True)
            shutil.copy(real_data / "sen12ms_cr" / folder / f"{name}.tif", target)
            target.chmod(0o644)
        write(path_of(tmp_path, "lc", scene, number, season), cover)
    return tmp_path


def pixels(path):
    with rasterio.open(path) as file:
        return file.read(), file.crs, file.bounds


def test_pairs_are_the_files_pixels(real):
    entries = list(make(real).entries())
    assert [entry.id for entry in entries] == ["ROIs1970_fall_139_p839", "ROIs2017_winter_112_p797"]
    for entry, scene, number, season in ((entries[0], 139, 839, "ROIs1970_fall"),
                                         (entries[1], 112, 797, "ROIs2017_winter")):
        entry = Entry(**json.loads(json.dumps({name: getattr(entry, name) for name in entry.__slots__})))
        pair = make(real).read(entry)  # a fresh importer, as in another process
        record.check(pair, SPECS, 256)
        radar, crs, bounds = pixels(path_of(real, "s1", scene, number, season))
        optical = pixels(path_of(real, "s2", scene, number, season))[0]
        np.testing.assert_allclose(pair.images["s1"], np.moveaxis(radar, 0, -1) * 100, atol=0.51)
        np.testing.assert_array_equal(pair.images["s2"], np.moveaxis(optical, 0, -1))
        assert (pair.images["s1"] % 100 != 0).mean() > 0.95  # whole dB would be a truncation
        assert pair.images["s1"][..., 0].mean() > pair.images["s1"][..., 1].mean() + 300  # VV first
        assert (pair.times, pair.split, pair.s2_offset_removed) == ({}, "", 0)
        x, y = rasterio.warp.transform("EPSG:4326", crs, [pair.lon], [pair.lat])
        assert x[0] == pytest.approx((bounds.left + bounds.right) / 2, abs=1)
        assert y[0] == pytest.approx((bounds.top + bounds.bottom) / 2, abs=1)


def test_partners_are_found_by_name_and_the_rest_is_rejected(tmp_path):
    for scene, number in ((10, 2), (2, 10), (2, 9), (2, 100), (2, 30)):
        fill(tmp_path, "s1", scene, number, -number)
        fill(tmp_path, "s2", scene, number, number)
    path_of(tmp_path, "s1", 2, 9).unlink()
    path_of(tmp_path, "s2", 2, 30).unlink()
    path_of(tmp_path, "s2", 2, 9).with_name("ROIs1158_spring_s2_2_p7 (copy).tif").touch()
    path_of(tmp_path, "s2", 10, 2).with_name("ROIs1158_spring_s1_10_p3.tif").touch()  # in the folder of s2
    importer = make(tmp_path)
    items = list(importer.entries())
    # By scene and number as numbers: 2 before 10, p10 before p100.
    assert [item.id for item in items[:-1]] == [
        "ROIs1158_spring_2_p9", "ROIs1158_spring_2_p10", "ROIs1158_spring_2_p30", "ROIs1158_spring_2_p100",
        "ROIs1158_spring_10_p2"]
    assert isinstance(items[-1], Unmatched) and items[-1].count == 2 and items[-1].examples == (
        "ROIs1158_spring/s2_10/ROIs1158_spring_s1_10_p3.tif", "ROIs1158_spring/s2_2/ROIs1158_spring_s2_2_p7 (copy).tif")
    rejects = {item.id: item.reason for item in items if isinstance(item, Reject)}
    assert rejects["ROIs1158_spring_2_p9"].endswith("s2_2_p9.tif' has no partner of layer 's1'")
    assert rejects["ROIs1158_spring_2_p30"].endswith("s1_2_p30.tif' has no partner of layer 's2'")
    assert len(rejects) == 3
    for item in items:
        if isinstance(item, Entry):
            pair, number = importer.read(item), int(item.id.rsplit("_p", 1)[1])
            assert (pair.images["s1"] == -100 * number).all() and (pair.images["s2"] == number).all()


def test_scenes_of_two_seasons_are_two_areas(tmp_path):
    for season, value in (("ROIs1158_spring", 1), ("ROIs1868_summer", 2)):
        for number in (30, 31):
            fill(tmp_path, "s1", 1, number, -value, season)
            fill(tmp_path, "s2", 1, number, value, season)
    importer = make(tmp_path)
    entries = list(importer.entries())
    assert [(entry.id, entry.block) for entry in entries] == [
        ("ROIs1158_spring_1_p30", "ROIs1158_spring_1"), ("ROIs1158_spring_1_p31", "ROIs1158_spring_1"),
        ("ROIs1868_summer_1_p30", "ROIs1868_summer_1"), ("ROIs1868_summer_1_p31", "ROIs1868_summer_1")]
    for entry in entries:
        pair = importer.read(entry)
        assert pair.location_id == entry.location_id == entry.id
        assert (pair.images["s1"] == -100 * int(pair.images["s2"][0, 0, 0])).all()


@pytest.mark.parametrize("folder", (".", "splits"))
def test_lists_name_either_layer(tmp_path, folder):
    for number in (1, 2, 3):
        fill(tmp_path, "s1", 5, number, -9, size=8)
        fill(tmp_path, "s2", 5, number, 9, size=8)
    assert {entry.split for entry in make(tmp_path).entries()} == {""}
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "train_list.txt").write_text("ROIs1158_spring_s2_5_p1.tif\nROIs1868_summer_s2_5_p3.tif\n")
    (tmp_path / folder / "test_list.txt").write_text("ROIs1158_spring_s1_5_p2.tif\n")
    splits = {entry.id: entry.split for entry in make(tmp_path).entries()}
    assert splits == {"ROIs1158_spring_5_p1": "train", "ROIs1158_spring_5_p2": "test", "ROIs1158_spring_5_p3": ""}


def test_the_damaged_s1_patch_is_rejected(tmp_path):
    for layer in LAYERS:
        for number in (201, 202):
            fill(tmp_path, layer, 146, number, 7, "ROIs1868_summer", size=8)
    items = {item.id: item for item in make(tmp_path).entries()}
    assert isinstance(items["ROIs1868_summer_146_p201"], Entry)
    assert items["ROIs1868_summer_146_p202"] == Reject("ROIs1868_summer_146_p202",
                                                       "the S1 patch is damaged as published")
    assert all(isinstance(item, Entry) for item in make(tmp_path, "tiles", ("s2",)).entries())


def test_radar_without_data_is_nan_or_zero_in_both_bands(real):
    path = path_of(real, "s1", 112, 797, "ROIs2017_winter")
    radar = pixels(path)[0]
    radar[1, 5, 7:9] = np.nan
    radar[:, 6, 7] = 0
    radar[0, 8, 8] = 0  # saturated VV
    write(path, radar)
    importer = make(real)
    pair = importer.read(list(importer.entries())[1])
    assert (pair.images["s1"][5, 7:9] == -32768).all() and (pair.images["s1"][6, 7] == -32768).all()
    assert (pair.images["s1"] == -32768).sum() == 6
    assert pair.images["s1"][8, 8].tolist() == [0, round(float(radar[1, 8, 8]) * 100)]


def test_tiles_have_igbp_classes(real):
    path = path_of(real, "s1", 139, 839, "ROIs1970_fall")
    radar = pixels(path)[0]
    radar[:, 100:110, 3] = np.nan
    write(path, radar)
    layout = sen12ms.Importer.layout("tiles")
    assert len(layout.classes) == 17 and (layout.classes[0][:9], layout.classes[16]) == ("evergreen", "water")
    cover_path = path_of(real, "lc", 139, 839, "ROIs1970_fall")
    cover = pixels(cover_path)[0]
    cover[0][cover[0] == 18] = 17
    write(cover_path, cover.astype(np.uint16))  # the other lc stays 8 bits wide
    importer = make(real, "tiles")
    tile = importer.read(next(importer.entries()))
    record.check(tile, SPECS, 256, LabelSpec("pixel_classes", sen12ms.IGBP))
    expected = np.where((cover[0] == 0) | (cover[0] == 255), 255, cover[0].astype(int) - 1)
    assert set(np.unique(expected)) == {*range(17), 255}
    expected[100:110, 3] = 255  # no radar
    np.testing.assert_array_equal(tile.label, expected)
    optical = make(real, "tiles", ("s2",)).read(next(make(real, "tiles", ("s2",)).entries()))
    assert set(optical.images) == {"s2"} and (optical.label[100:110, 3] != 255).all()


def test_bad_land_cover_is_named(real):
    importer = make(real, "tiles", ("s1",))
    entry = next(importer.entries())
    path = path_of(real, "lc", 139, 839, "ROIs1970_fall")
    with pytest.raises(UserError, match=r"_lc_139_p839.tif' holds values \[18\] that are no class; .* layer 'lc'"):
        importer.read(entry)
    write(path, np.full((4, 256, 256), 255, np.uint8))
    assert (importer.read(entry).label == 255).all()  # the build leaves it out
    write(path, np.ones((1, 256, 256), np.uint8))
    with pytest.raises(UserError, match="_lc_139_p839.tif' has 1 bands, 4 expected"):
        importer.read(entry)


def test_bad_images_are_named(real):
    importer = make(real)
    entry = next(importer.entries())
    path = path_of(real, "s2", 139, 839, "ROIs1970_fall")
    whole = path.read_bytes()
    path.write_bytes(whole[:300_000])
    with pytest.raises(UserError, match="_s2_139_p839.tif' cannot be read as GeoTIFF .*truncated") as error:
        importer.read(entry)
    assert "\n" not in str(error.value)
    write(path, np.ones((12, 256, 256), np.uint16))
    with pytest.raises(UserError, match="_s2_139_p839.tif' has 12 bands, 13 expected"):
        importer.read(entry)
    path.unlink()
    with pytest.raises(UserError, match="_s2_139_p839.tif' is missing"):
        importer.read(entry)


def test_missing_layers_are_named(real, tmp_path):
    with pytest.raises(UserError, match=r"holds no folder such as ROIs1158_spring/s1_1; --raw must name"):
        next(make(real / "ROIs1970_fall").entries())
    for folder in real.glob("*/lc_*"):
        shutil.rmtree(folder)
    assert len(list(make(real).entries())) == 2  # pairs do not need it
    with pytest.raises(UserError, match="layer 'lc' unpacked"):
        next(make(real, "tiles").entries())


def test_patch_ids_drop_the_layer():
    for layer in ("s1", "s2", "lc"):
        assert patches.patch_id(f"ROIs1158_spring_{layer}_1_p30.tif\n") == "ROIs1158_spring_1_p30"
    assert patches.patch_id("ROIs1970_fall_139_p839.tif") == "ROIs1970_fall_139_p839"
    assert patches.patch_id("labels.csv") == ""
