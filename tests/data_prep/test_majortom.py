"""Major-TOM Core: part files and metadata in the published layout, written here; what bad input is told.

Images are 60 pixels instead of 1068 but for one test of the real size.
"""

import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import rasterio
from affine import Affine

from data_prep import importers, record
from data_prep.importers import Reject, majortom
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS, sensor

pytestmark = pytest.mark.quick

L2A, L1C = {"s1": "s1_rtc", "s2": "s2_l2a"}, {"s1": "s1_rtc", "s2": "s2_l1c"}
COARSE = {"B01": 6, "B09": 6, "B10": 6} | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2)
CORNER = (207801.0219440222, 8917004.962866273)  # of a published image: not on whole pixels
S2 = "S2B_MSIL2A_20230824T131249_N0509_R138_T24LTQ_20230824T200728"
S1 = "S1A_IW_GRDH_1SDV_20230820T084501_20230820T084526_049950_0601F2_rtc"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(majortom, "SIZE", 60)


def tif(values, pixel=10, corner=CORNER, crs="EPSG:32724", **profile):
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, height=values.shape[0], width=values.shape[1], dtype=values.dtype,
                         crs=crs, transform=Affine(pixel, 0, corner[0], 0, -pixel, corner[1]), **profile) as file:
            file.write(values, 1)
        return memory.read()


def optical(seed=0, size=60, low=1100, bands=SENSORS["s2_l2a"].bands, **profile):
    """Band -> (native pixels, GeoTIFF bytes); no two bands are alike."""
    rng = np.random.default_rng(seed)
    native = {band: rng.integers(low, 9000, (size // COARSE.get(band, 1),) * 2, np.uint16) for band in bands}
    return native, {band: tif(image, 10 * COARSE.get(band, 1), **profile) for band, image in native.items()}


def radar(seed=0, size=60, **place):
    rng = np.random.default_rng(seed)
    power = {band: rng.gamma(4, 0.02, (size, size)).astype(np.float32) for band in ("vv", "vh")}
    return power, {band: tif(image, nodata=-32768, **place) for band, image in power.items()}


def write(raw, source, rows, parts=2):
    """Writes rows {grid_cell, product_id, bands...} into part files of `parts` rows each, and metadata.parquet."""
    folder = raw / source
    (folder / "images").mkdir(parents=True)
    table = []
    for start in range(0, len(rows), parts):
        # The published numbers are five digits; the order of the columns is not that of the sensor.
        name = f"part_{start // parts + 1:05d}.parquet"
        part = [dict(sorted(row.items(), reverse=True)) | {"thumbnail": b"png"} for row in rows[start:start + parts]]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), folder / "images" / name, row_group_size=1)
        for number, row in enumerate(part):
            table.append({"grid_cell": row["grid_cell"], "product_id": row["product_id"], "crs": "EPSG:EPSG:32724",
                          "timestamp": "20230824T131249", "centre_lat": -9.8, "centre_lon": -41.6,
                          "parquet_url": f"https://huggingface.co/datasets/Major-TOM/{source}/resolve/main/images/{name}",
                          "parquet_row": number} | ({"cloud_cover": 3.5} if "S2" in source else {}))
    # Rows of metadata.parquet are not in the order of the parts.
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table[::-1]), folder / "metadata.parquet")


def one(raw, s1=None, s2=None, product=S2, source="Core-S2L2A"):
    """Writes one pair of grid cell 110D_457L."""
    write(raw, "Core-S1RTC", [{"grid_cell": "110D_457L", "product_id": S1} | (s1 or radar()[1])])
    write(raw, source, [{"grid_cell": "110D_457L", "product_id": product} | (s2 or optical()[1])])
    return raw


def make(raw, sensors=L2A):
    return importers.load("majortom")(raw, "pairs", sensors)


def read(raw, sensors=L2A):
    (entry,) = make(raw, sensors).entries()
    pair = make(raw, sensors).read(entry)  # another instance, as in another process
    record.check(pair, {feature: sensor(name) for feature, name in sensors.items()}, majortom.SIZE)
    return pair


def repeat(image, size=60):
    return image.repeat(size // len(image), 0).repeat(size // len(image), 1)


def hundredths(*power):
    return np.rint(1000 * np.log10(np.stack(power, -1)))


# Listing

def s2_of(date):
    return f"S2A_MSIL2A_{date}_N0500_R019_T43PFM_20230627T113546"


def s1_of(date, satellite="S1A"):
    return f"{satellite}_IW_GRDH_1SDV_{date}_{date}_049950_0601F2_rtc"


def test_images_of_a_cell_are_paired_by_time_and_come_in_file_order(tmp_path, capsys):
    bands = {"B01": b"", "vv": b""}
    write(tmp_path, "Core-S2L2A", [{"grid_cell": cell, "product_id": s2_of(date)} | bands for cell, date in [
        ("2U_1R", "20200101T000000"), ("1U_1R", "20190601T000000"), ("1U_1R", "20200601T000000"),
        ("3U_1R", "20200101T000000"), ("2U_1R", "20210101T000000")]])
    # Sorted by name, S1A comes before S1B: by list position the pairs of 1U_1R would be a year apart.
    write(tmp_path, "Core-S1RTC", [{"grid_cell": cell, "product_id": s1_of(date, satellite)} | bands
                                   for cell, date, satellite in [
        ("1U_1R", "20200603T000000", "S1A"), ("1U_1R", "20190530T000000", "S1B"), ("2U_1R", "20201201T000000", "S1A"),
        ("4U_1R", "20200101T000000", "S1A")]])
    entries = list(make(tmp_path).entries())
    assert [(e.id, e.location_id) for e in entries] == [
        ("1U_1R_20190601T000000", "1U_1R"), ("1U_1R_20200601T000000", "1U_1R"), ("2U_1R_20210101T000000", "2U_1R")]
    assert [(e.where["s2"]["file"], e.where["s2"]["row"]) for e in entries] == [
        ("part_00001.parquet", 1), ("part_00002.parquet", 0), ("part_00003.parquet", 0)]
    assert [(e.times["s2"] - e.times["s1"]) / 86400 for e in entries] == [2, -2, 31]
    assert entries[0].where["s1"] == {"file": "part_00001.parquet", "row": 1,
                                      "product": s1_of("20190530T000000", "S1B")}
    assert (entries[0].lat, entries[0].lon, entries[0].cloud, entries[0].split) == (-9.8, -41.6, 3.5, "")
    assert capsys.readouterr().out.splitlines() == [
        "left out 2 of 5 images of Core-S2L2A: no Core-S1RTC image of their grid cell is left for them",
        "left out 1 radar images without an optical partner: no Core-S2L2A image of their grid cell is left for them"]


def test_part_files_may_be_missing(tmp_path, capsys):
    one(tmp_path)
    (tmp_path / "Core-S1RTC/images/part_00001.parquet").unlink()
    assert list(make(tmp_path).entries()) == []
    assert capsys.readouterr().out.splitlines() == [
        "left out 1 of 1 images of Core-S1RTC: their part files are not on disk",
        "left out 1 of 1 images of Core-S2L2A: no Core-S1RTC image of their grid cell is left for them"]


def test_a_product_without_a_time_is_a_reject(tmp_path):
    one(tmp_path, product="unknown")
    (reject,) = make(tmp_path).entries()
    assert reject.id == "110D_457L" and isinstance(reject, Reject) and "no acquisition time" in reject.reason


def test_missing_folders_tables_and_columns_are_told(tmp_path):
    with pytest.raises(UserError, match="Core-S1RTC' is missing; --raw must name the folder that holds Core-S1RTC and "
                                        "Core-S2L2A"):
        make(tmp_path)
    one(tmp_path)
    with pytest.raises(UserError, match="Core-S2L1C' is missing"):
        make(tmp_path, L1C)
    table = tmp_path / "Core-S2L2A/metadata.parquet"
    whole = table.read_bytes()
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(table).drop_columns("parquet_row"), table)
    with pytest.raises(UserError, match="metadata.parquet' has no column parquet_row"):
        list(make(tmp_path).entries())
    table.write_bytes(whole[:300])
    with pytest.raises(UserError, match="metadata.parquet' cannot be read as a table"):
        list(make(tmp_path).entries())
    table.unlink()
    with pytest.raises(UserError, match="metadata.parquet' is missing"):
        list(make(tmp_path).entries())
    shutil.rmtree(table.parent / "images")
    with pytest.raises(UserError, match="Core-S2L2A/images' is missing; fetch images and metadata.parquet"):
        list(make(tmp_path).entries())
    with pytest.raises(UserError, match="importer 'majortom' has no tiles"):
        majortom.Importer.layout("tiles")


# Pixels

def test_the_published_size(tmp_path, monkeypatch):
    monkeypatch.setattr(majortom, "SIZE", 1068)
    layout = majortom.Importer.layout("pairs")
    assert layout.size == 1068 and layout.sensors["s1"] == ("s1_rtc",)
    native, s2 = optical(size=1068)
    assert {image.shape for image in native.values()} == {(1068, 1068), (534, 534), (178, 178)}
    power, s1 = radar(size=1068)
    pair = read(one(tmp_path, s1, s2))
    np.testing.assert_array_equal(pair.images["s2"][..., 9], repeat(native["B09"], 1068) - 1000)
    np.testing.assert_allclose(pair.images["s1"], hundredths(power["vv"], power["vh"]), atol=1)


def test_bands_are_picked_by_name_at_10_m(tmp_path):
    (native, s2), (power, s1) = optical(), radar()
    pair = read(one(tmp_path, s1, s2))
    for i, band in enumerate(SENSORS["s2_l2a"].bands):
        np.testing.assert_array_equal(pair.images["s2"][..., i], repeat(native[band]) - 1000, err_msg=band)
    np.testing.assert_allclose(pair.images["s1"], hundredths(power["vv"], power["vh"]), atol=1)
    assert pair.source == "Major-TOM Core-S1RTC and Core-S2L2A" and pair.cloud == 3.5
    assert pair.times == {"s1": 1692521101, "s2": 1692882769}


def test_l1c_has_13_bands_of_its_own_folder(tmp_path):
    native, s2 = optical(bands=SENSORS["s2_l1c"].bands)
    pair = read(one(tmp_path, s2=s2, product=S2.replace("L2A", "L1C"), source="Core-S2L1C"), L1C)
    np.testing.assert_array_equal(pair.images["s2"][..., 10], repeat(native["B10"]) - 1000)
    assert pair.source == "Major-TOM Core-S1RTC and Core-S2L1C"


@pytest.mark.parametrize("product, low, removed", [
    (S2, 1100, 1000), (S2.replace("N0509", "N0400"), 1100, 1000), (S2.replace("N0509", "N0301"), 1100, 0),
    (S2.replace("N0509", "N0207"), 100, 0),
    ("S2A_MSIL2A_20191230T051221_N0500_R019_T43PFM_20230627T113546", 1100, 1000),  # an old image, processed again
    (S2.replace("N0509", "N9999"), 100, 0)])
def test_the_offset_follows_the_processing_baseline(tmp_path, product, low, removed):
    native, s2 = optical(low=low)
    pair = read(one(tmp_path, s2=s2, product=product))
    assert pair.s2_offset_removed == removed
    np.testing.assert_array_equal(pair.images["s2"][..., 3], native["B04"] - removed)


def test_an_own_sen2cor_product_without_dark_pixels_is_rejected(tmp_path):
    raw = one(tmp_path, s2=optical(low=950)[1], product=S2.replace("N0509", "N9999"))
    with pytest.raises(UserError, match="N9999_.* has baseline N9999 and no dark pixels"):
        read(raw)


def test_a_product_without_baseline_is_rejected(tmp_path):
    with pytest.raises(UserError, match="names no processing baseline"):
        read(one(tmp_path, product="S2B_MSIL2A_20230824T131249_R138_T24LTQ"))


def test_no_data_of_one_band_is_no_data_of_the_pixel(tmp_path):
    (native, s2), (power, s1) = optical(), radar()
    native["B01"][0, 0] = 0  # 6 x 6 pixels at 10 m; with the offset they would turn into 1
    native["B02"][20, 20] = 0
    s2 |= {"B01": tif(native["B01"], 60), "B02": tif(native["B02"])}
    power["vv"][:, :3], power["vh"][5, 5], power["vh"][6, 6] = 0, -32768, np.nan
    s1 = {band: tif(image) for band, image in power.items()}
    pair = read(one(tmp_path, s1, s2))
    gone = np.zeros((60, 60), bool)
    gone[:6, :6] = gone[20, 20] = True
    np.testing.assert_array_equal((pair.images["s2"] == 0).all(-1), gone)
    np.testing.assert_array_equal((pair.images["s2"] == 0).any(-1), gone)
    gone = np.zeros((60, 60), bool)
    gone[:, :3] = gone[5, 5] = gone[6, 6] = True
    np.testing.assert_array_equal((pair.images["s1"] == -32768).all(-1), gone)
    assert pair.images["s1"][~gone].min() > -6000


# Grids

def test_radar_of_another_size_is_brought_to_its_place(tmp_path):
    power, s1 = radar(size=65, corner=(CORNER[0] - 30, CORNER[1] + 20))
    pair = read(one(tmp_path, s1))
    np.testing.assert_allclose(pair.images["s1"], hundredths(power["vv"], power["vh"])[2:62, 3:63], atol=1)
    assert pair.source.endswith(", S1 resampled from EPSG:32724")


def test_radar_of_the_neighbouring_zone_is_warped_in_linear_power(tmp_path):
    x, y = rasterio.warp.transform("EPSG:32724", "EPSG:32723", [CORNER[0]], [CORNER[1]])
    corner = (x[0] - 300, y[0] + 300)

    def power_at(longitude, latitude):  # a smooth field on the earth
        return 0.1 * (1.5 + np.sin(longitude * 2000) * np.cos(latitude * 1500))

    def on_grid(crs, corner, size):
        x, y = np.meshgrid(corner[0] + 10 * (np.arange(size) + 0.5), corner[1] - 10 * (np.arange(size) + 0.5))
        longitude, latitude = rasterio.warp.transform(crs, "EPSG:4326", x.ravel(), y.ravel())
        return power_at(np.array(longitude), np.array(latitude)).reshape(size, size).astype(np.float32)

    there = on_grid("EPSG:32723", corner, 130)
    edge = there.copy()
    edge[:, :60] = 0  # a border whose zeros must not bleed into the decibels beside it
    s1 = {"vv": tif(there, corner=corner, crs="EPSG:32723"), "vh": tif(edge, corner=corner, crs="EPSG:32723")}
    pair = read(one(tmp_path, s1))
    expected = 1000 * np.log10(on_grid("EPSG:32724", CORNER, 60))
    valid = pair.images["s1"][..., 0] != -32768
    assert 0.3 < valid.mean() < 0.9
    inside = np.isfinite(expected) & (np.cumsum(valid, axis=1) > 1)
    both = np.stack([expected, expected], -1)
    np.testing.assert_allclose(pair.images["s1"][inside], both[inside], atol=15)  # 0.15 dB
    # Beside the border the mean is that of fewer pixels; with zeros among them it would be 3 dB lower.
    np.testing.assert_allclose(pair.images["s1"][valid, 1], expected[valid], atol=60)
    assert pair.source.endswith(", S1 resampled from EPSG:32723")


def test_radar_between_the_pixels_is_averaged_as_power(tmp_path):
    checkers = np.where(np.indices((62, 62)).sum(axis=0) % 2, 1.0, 0.001).astype(np.float32)
    corner = (CORNER[0] - 5, CORNER[1])  # half a pixel: the mean of 1 and 0.001 is -3 dB, that of 0 and -30 dB is -15
    pair = read(one(tmp_path, {band: tif(checkers, corner=corner) for band in ("vv", "vh")}))
    np.testing.assert_allclose(pair.images["s1"], -301, atol=2)


def test_radar_elsewhere_and_radar_of_two_grids_are_rejected(tmp_path):
    with pytest.raises(UserError, match="'part_00001.parquet, row 0' covers latitude .*, its partner latitude .* do "
                                        "not overlap"):
        read(one(tmp_path / "a", radar(corner=(CORNER[0] + 700, CORNER[1]))[1]))
    s1 = radar()[1] | {"vh": radar(corner=(CORNER[0] + 100, CORNER[1]))[1]["vh"]}
    with pytest.raises(UserError, match=r"row 0: vv is \(60, 60\) at latitude .* expected one grid"):
        read(one(tmp_path / "b", s1))


# Damage

def test_missing_and_damaged_bands_are_named(tmp_path):
    s2 = optical()[1]
    for number, (bands, message) in enumerate([
            ({"B11": None}, "part_00001.parquet, row 0 has no B11"),
            ({"B11": s2["B11"][:400]}, "'part_00001.parquet, row 0, B11' cannot be read as GeoTIFF"),
            ({"B11": tif(np.ones((59, 59), np.uint16))}, "row 0: band of 59x59 pixels does not fill 60x60")]):
        with pytest.raises(UserError, match=message):
            read(one(tmp_path / str(number), s2=s2 | bands))
    without = {band: image for band, image in s2.items() if band != "B8A"}
    with pytest.raises(UserError, match="row 0 has no B8A"):
        read(one(tmp_path / "without", s2=without))


def test_other_part_files_than_the_table_means_are_rejected(tmp_path):
    one(tmp_path)
    part = tmp_path / "Core-S2L2A/images/part_00001.parquet"
    row = pyarrow.parquet.read_table(part).to_pylist()[0]
    other = row | {"grid_cell": "1U_1R"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([other]), part)
    with pytest.raises(UserError, match="row 0 is S2B_.* of 1U_1R, metadata.parquet has S2B_.* of 110D_457L"):
        read(tmp_path)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, other]), part)
    with pytest.raises(UserError, match="has 2 rows in 1 row groups, expected each row in its own"):
        read(tmp_path)
    part.write_bytes(part.read_bytes()[:5000])
    with pytest.raises(UserError, match="part_00001.parquet' cannot be read as Parquet"):
        read(tmp_path)


# Unpacked

def test_unpacked_folders_give_the_same_pixels(tmp_path):
    packed = read(one(tmp_path / "packed"))
    for source, product, bands in (("Core-S1RTC", S1, radar()[1]), ("Core-S2L2A", S2, optical()[1])):
        folder = tmp_path / "unpacked" / source / "110D" / "110D_457L" / product
        folder.mkdir(parents=True)
        for band, image in bands.items():
            (folder / f"{band}.tif").write_bytes(image)
        (folder / "thumbnail.png").write_bytes(b"png")
    pair = read(tmp_path / "unpacked")
    np.testing.assert_array_equal(pair.images["s1"], packed.images["s1"])
    np.testing.assert_array_equal(pair.images["s2"], packed.images["s2"])
    assert (pair.id, pair.times["s1"], pair.times["s2"]) == (packed.id, packed.times["s1"], packed.times["s2"])
    assert pair.lat == pytest.approx(-9.79, abs=0.02) and pair.lon == pytest.approx(-41.66, abs=0.02)
    assert np.isnan(pair.cloud)
    (folder / "B8A.tif").unlink()
    with pytest.raises(UserError, match="B8A.tif' is missing"):
        read(tmp_path / "unpacked")
