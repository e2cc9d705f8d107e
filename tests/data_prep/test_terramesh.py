"""TerraMesh: shards written here with the pixels of the real example tiles, and these tiles themselves."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import rasterio

from data_prep import record
from data_prep.importers import Entry, Reject, terramesh
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS
from tests.data_prep.zarr_writing import write_tar, zarr_zip

pytestmark = pytest.mark.quick

RTC, GRD = {"s1": "s1_rtc", "s2": "s2_l2a"}, {"s1": "s1_grd", "s2": "s2_l2a"}
TILES = ("282D_485L_3_3", "38D_378R_2_3", "433D_629L_3_1", "609U_541L_3_0")
WITH_OFFSET = "433D_629L_3_1"
NAMES = {"S1RTC": ("vv", "vh"), "S1GRD": ("vv", "vh"), "S2L2A": SENSORS["s2_l2a"].bands,
         "S2L1C": SENSORS["s2_l1c"].bands, "LULC": ("LULC",)}
S1_ID = "S1A_IW_GRDH_1SDV_{}_20200510T174056_032506_03C3BC_30A2"


def open_(raw, sensors, kind="pairs"):
    return terramesh.Importer(pathlib.Path(raw), kind, sensors)


def split(found):
    found = list(found)
    return [e for e in found if isinstance(e, Entry)], [r for r in found if isinstance(r, Reject)]


def read(importer, entry, sensors, size=264):
    item = importer.read(Entry(**json.loads(json.dumps({name: getattr(entry, name) for name in Entry.__slots__}))))
    record.check(item, {feature: SENSORS[name] for feature, name in sensors.items()}, size,
                 LabelSpec("pixel_classes", terramesh.CLASSES))
    return item


@pytest.fixture(scope="module")
def tiles(real_data):
    """Product -> tile -> [band, 264, 264], the real pixels mirrored at the edge."""
    found = {}
    for product in ("S1RTC", "S2L2A", "LULC"):
        found[product] = {}
        for tile in TILES:
            with rasterio.open(real_data / "terramesh" / product / f"{tile}.tif") as file:
                found[product][tile] = np.pad(file.read(), ((0, 0), (20, 20), (20, 20)), mode="symmetric")
    return found


def member(product, values, sample, time_first=True, turned=False, time="20200510T174031", **changes):
    """One sample of one product; turned: bands in the reverse order."""
    names, values = np.array(NAMES[product])[::-1 if turned else 1], values[::-1 if turned else 1]
    dims = ("time", "band", "y", "x") if time_first else ("band", "time", "y", "x")
    values = values[None] if time_first else values[:, None]
    file_id = S1_ID.format(time) if product.startswith("S1") else f"{time}_20200510T053037_T44RKT"
    arrays = {"bands": (dims, values), "band": (("band",), names), "sample": ((), sample),
              "time": (("time",), [0]), "center_lat": ((), -25.5), "center_lon": ((), -48.25),
              "file_id": (("time",), np.array([file_id]))}
    if product.startswith("S2"):
        mask = np.zeros((1, 264, 264), np.uint8)
        mask[:, :66] = 4
        arrays["cloud_mask"] = ("time", "y", "x"), mask
    arrays = {name: array for name, array in (arrays | changes).items() if array is not None}
    return zarr_zip(arrays, attributes={"time": {"units": "days since 2020-05-03 02:07:17"}})


@pytest.fixture
def shards(tiles, tmp_path):
    """Two shards of Major TOM with S1RTC and one of SSL4EO-S12 with S1GRD, as published."""
    for number, some in ((1, TILES[:3]), (2, TILES[3:])):
        for product, dtype in (("S1RTC", np.float16), ("S2L2A", np.int16), ("LULC", np.uint8)):
            write_tar(tmp_path / "train" / product / f"majortom_shard_00000{number}.tar",
                      {f"majortom_train_{number}00{i}": member(product, tiles[product][tile].astype(dtype), tile,
                                                               time_first=i != 1, turned=i == 2)
                       for i, tile in enumerate(some)})
    dates = {"0194630_0": "20200103T052649", "0194630_1": "20200510T052649", "0000200_3": "20200511T052649"}
    for product, source, dtype in (("S1GRD", "S1RTC", np.float16), ("S2L2A", "S2L2A", np.int16),
                                   ("LULC", "LULC", np.uint8)):
        write_tar(tmp_path / "val" / product / "ssl4eos12_shard_000009.tar",
                  {f"ssl4eos12_val_008038{i}": member(product, tiles[source][TILES[i]].astype(dtype), sample, time=time)
                   for i, (sample, time) in enumerate(dates.items())})
    return tmp_path


def test_pairs_with_rtc_are_those_of_major_tom(shards, tiles, capsys):
    importer = open_(shards, RTC)
    entries, rejects = split(importer.entries())
    assert not rejects and [entry.id for entry in entries] == [
        "majortom_train_1000", "majortom_train_1001", "majortom_train_1002", "majortom_train_2000"]
    assert "TerraMesh val: 3 of 3 samples of S2L2A are left out, they are not in all of S1RTC" \
        in capsys.readouterr().out
    for entry, tile in zip(entries, TILES, strict=True):
        pair = read(importer, entry, RTC)
        offset = 1000 if tile == WITH_OFFSET else 0
        expected = np.moveaxis(tiles["S2L2A"][tile], 0, -1).astype(int) - offset
        np.testing.assert_array_equal(pair.images["s2"], np.maximum(expected, 1) if offset else expected)
        db = np.moveaxis(tiles["S1RTC"][tile], 0, -1).astype(np.float16).astype(np.float64)
        np.testing.assert_array_equal(pair.images["s1"], np.rint(db * 100))
        assert pair.s2_offset_removed == offset and pair.split == "train" and pair.location_id == entry.id
        assert (pair.lat, pair.lon, pair.cloud) == (-25.5, -48.25, 25)
        assert pair.times["s1"] == 1589132431 and pair.times["s2"] == 1589132431  # 2020-05-10 17:40:31


@pytest.mark.parametrize("sensors, kind", [(RTC, "pairs"), ({"s1": "s1_rtc"}, "tiles")], ids=["pairs", "tiles"])
def test_the_place_is_known_while_listing(shards, real_data, sensors, kind):
    for raw, size in ((shards, 264), (real_data / "terramesh", 224)):
        importer = open_(raw, sensors, kind)
        entries, _ = split(importer.entries())
        assert len(entries) == 4
        for entry in entries:
            item = read(importer, entry, sensors, size)
            assert np.isfinite(entry.lat) and (item.lat, item.lon) == (entry.lat, entry.lon)


def test_radar_without_an_optical_partner_is_counted(shards, tiles, capsys):
    radar = member("S1RTC", tiles["S1RTC"][TILES[0]].astype(np.float16), "x")
    write_tar(shards / "train/S1RTC/majortom_shard_000002.tar", {f"majortom_train_200{i}": radar for i in range(3)})
    write_tar(shards / "train/S1RTC/majortom_shard_000003.tar", {f"majortom_train_300{i}": radar for i in range(4)})
    (shards / "train/S1RTC/majortom_train_4000.zarr.zip").write_bytes(radar)
    (shards / "train/S1RTC/notes.txt").touch()
    entries, rejects = split(open_(shards, RTC).entries())
    assert len(entries) == 4 and not rejects
    assert [line for line in capsys.readouterr().out.splitlines() if "radar" in line] == [
        "left out 7 radar images without an optical partner: zarr zips of train/S1RTC that train/S2L2A lacks"]


def test_the_folder_of_one_split_is_no_raw_folder(shards):
    assert terramesh.Importer.layout("pairs", shards / "train").size == 264
    with pytest.raises(UserError, match=f"holds the products of one split; --raw must name .* above it, '{shards}'"):
        open_(shards / "train", RTC)


def test_dates_of_a_place_of_ssl4eo_are_one_location(shards):
    importer = open_(shards, GRD)
    entries, _ = split(importer.entries())
    assert [(entry.id[-1], entry.location_id, entry.split) for entry in entries] == [
        ("0", "0194630", "validation"), ("1", "0194630", "validation"), ("2", "0000200", "validation")]
    for entry in entries:
        read(importer, entry, GRD)


def test_radar_of_another_season_shows_in_the_times(shards, tiles):
    """Copies from before March 2026: `time` is that of S2, file_id tells the truth."""
    write_tar(shards / "val/S1GRD/ssl4eos12_shard_000009.tar",
              {"ssl4eos12_val_0080380": member("S1GRD", tiles["S1RTC"][TILES[0]].astype(np.float16), "0194630_0",
                                               time="20200801T174031")})
    importer = open_(shards, GRD)
    entries, _ = split(importer.entries())
    pair = importer.read(entries[0])
    assert len(entries) == 1 and (pair.times["s1"] - pair.times["s2"]) // 86400 == 211


@pytest.mark.parametrize("changes, units, time", [
    ({}, "days since 2020-05-03 02:07:17", 1588471637), ({"time": (("time",), [86400])}, "seconds since 2020-05-03",
                                                         1588550400),
    ({"time": (("time",), [1588471637000000000])}, None, 1588471637),
    ({"time": (("time",), np.array(["2020-05-03T02:07:17"], "M8[ns]"))}, None, 1588471637),
    ({"time": (("time",), [0])}, None, -1), ({"time": None}, None, -1), ({}, "moons since 2020-05-03", -1),
    ({}, "days since ever", -1)])
@pytest.mark.parametrize("file_id", [None, (("time",), np.array(["none"]))])
def test_times_without_file_id(tmp_path, changes, units, time, file_id):
    from data_prep.zarr_zip import ZarrZip

    arrays = {"time": (("time",), [0])} | changes | {"file_id": file_id, "sample": ((), "x")}
    (tmp_path / "x.zarr.zip").write_bytes(zarr_zip({name: array for name, array in arrays.items() if array},
                                                   attributes={"time": {"units": units} if units else {}}))
    assert terramesh._time(ZarrZip(tmp_path / "x.zarr.zip")) == time


@pytest.mark.parametrize("sensors", [RTC, {"s1": "s1_rtc"}, {"s2": "s2_l2a"}], ids=" ".join)
def test_tiles_take_the_land_cover(shards, tiles, sensors):
    shutil.rmtree(shards / "val")
    importer = open_(shards, sensors, "tiles")
    entries, rejects = split(importer.entries())
    assert not rejects and len(entries) == 4
    for entry, tile in zip(entries, TILES, strict=True):
        item = read(importer, entry, sensors)
        np.testing.assert_array_equal(item.label, tiles["LULC"][tile][0])
        assert set(item.images) == set(sensors)
        assert item.s2_offset_removed == (1000 if tile == WITH_OFFSET and "s2" in sensors else 0)
        assert set(item.times) == set(sensors)


def test_land_cover_without_data_is_ignored_and_unknown_values_are_named(shards, tiles):
    cover = tiles["LULC"][TILES[3]].astype(np.uint8).copy()
    cover[0, 3, 4:9] = 0
    path = shards / "train/LULC/majortom_shard_000002.tar"
    write_tar(path, {"majortom_train_2000": member("LULC", cover, "x")})
    shutil.rmtree(shards / "val")
    importer = open_(shards, RTC, "tiles")
    entry = list(importer.entries())[-1]
    assert (read(importer, entry, RTC).label[3, 4:9] == 255).all()
    cover[0, 0, 0] = 11
    write_tar(path, {"majortom_train_2000": member("LULC", cover, "x")})
    with pytest.raises(UserError, match="land cover of 'majortom_train_2000' holds value 11, expected 0..9"):
        open_(shards, RTC, "tiles").read(entry)


def test_l1c_is_a_sensor_of_its_own(shards, tiles):
    four = tiles["S2L2A"][TILES[0]].astype(np.int16)
    l1c = np.stack([*four[:10], np.full((264, 264), 12, np.int16), *four[10:]])  # B10 in its place
    write_tar(shards / "train/S2L1C/majortom_shard_000001.tar",
              {f"majortom_train_100{i}": member("S2L1C", l1c + 1000 * i, "x") for i in (0, 1)})
    shutil.rmtree(shards / "val")
    sensors = {"s1": "s1_rtc", "s2": "s2_l1c"}
    importer = open_(shards, sensors)
    pairs = [read(importer, entry, sensors) for entry in importer.entries()]
    assert [pair.s2_offset_removed for pair in pairs] == [0, 1000]
    np.testing.assert_array_equal(pairs[0].images["s2"], np.moveaxis(l1c, 0, -1))
    np.testing.assert_array_equal(pairs[0].images["s2"], pairs[1].images["s2"])


def test_bad_shards_are_named(shards, tiles, tmp_path):
    radar = tiles["S1RTC"][TILES[0]].astype(np.float16)
    good = member("S1RTC", radar, "x")
    strange = member("S1RTC", radar, "x", bands=(("time", "y", "x", "band"), np.moveaxis(radar, 0, -1)[None]))
    write_tar(shards / "train/S1RTC/majortom_shard_000001.tar", {
        "majortom_train_1000": good[:-30],
        "majortom_train_1001": member("S1RTC", radar[:1], "x", band=(("band",), ["vv"])),
        "majortom_train_1002": member("S1RTC", (radar * 100).astype(np.int16), "x"),
        "majortom_train_1003": strange})
    write_tar(shards / "train/S2L2A/majortom_shard_000001.tar", {
        f"majortom_train_100{i}": member("S2L2A", tiles["S2L2A"][TILES[i]].astype(np.int16), "x") for i in range(4)})
    path = shards / "train/S2L2A/majortom_shard_000002.tar"
    path.write_bytes(path.read_bytes()[:-200000])
    ssl = shards / "val/S1GRD/ssl4eos12_shard_000009.tar"
    write_tar(ssl, {f"ssl4eos12_val_008038{i}": good for i in range(3)})
    write_tar(shards / "val/S2L2A/ssl4eos12_shard_000009.tar", {"ssl4eos12_val_0080380": b"no zip"})
    (shards / "val" / "S1RTC").mkdir()
    ssl.rename(shards / "val" / "S1RTC" / ssl.name)
    importer = open_(shards, RTC)
    entries, rejects = split(importer.entries())
    reasons = {reject.id: reject.reason for reject in rejects}
    assert "cannot be read as an uncompressed tar" in reasons["train/S2L2A/majortom_shard_000002.tar"]
    assert "zip cannot be read" in reasons["ssl4eos12_val_0080380"]
    assert "S2L2A/majortom_shard_000002.tar' at byte" in reasons["majortom_train_2000"]  # where listing finds the place
    messages = ("majortom_shard_000001.tar' at byte .* zip cannot be read", "holds bands VV and lacks VH",
                "radar is int16, expected float dB", "'bands' has dimensions y x band, expected band y x")
    for entry, message in zip(entries[:4], messages, strict=True):
        with pytest.raises(UserError, match=message) as error:
            importer.read(entry)
        assert "\n" not in str(error.value)
    shutil.rmtree(shards / "train")
    with pytest.raises(UserError, match="val/S2L1C' is missing; --raw must name .* each with S1RTC and S2L1C"):
        open_(shards, {"s1": "s1_rtc", "s2": "s2_l1c"})
    with pytest.raises(UserError, match="nowhere/train/S1RTC' is missing; --raw must name"):
        open_(tmp_path / "nowhere", RTC)


# The example tiles

def test_example_tiles_are_the_files_pixels(real_data):
    raw = real_data / "terramesh"
    for kind in ("pairs", "tiles"):
        assert terramesh.Importer.layout(kind, raw).size == 224 and terramesh.Importer.layout(kind, None).size == 264
        importer = open_(raw, RTC, kind)
        entries, rejects = split(importer.entries())
        assert not rejects and [entry.id for entry in entries] == list(TILES)
        for entry in entries:
            item = read(importer, entry, RTC, 224)
            with rasterio.open(raw / "S2L2A" / f"{entry.id}.tif") as file:
                optical, bounds = np.moveaxis(file.read(), 0, -1), rasterio.warp.transform_bounds(file.crs, "EPSG:4326",
                                                                                                  *file.bounds)
            offset = 1000 if entry.id == WITH_OFFSET else 0
            np.testing.assert_array_equal(item.images["s2"], np.maximum(optical.astype(int) - offset, 1))
            with rasterio.open(raw / "S1RTC" / f"{entry.id}.tif") as file:
                np.testing.assert_allclose(item.images["s1"], np.moveaxis(file.read(), 0, -1) * 100, atol=0.51)
            assert item.images["s1"][..., 0].mean() > item.images["s1"][..., 1].mean() + 300  # VV, VH
            assert item.s2_offset_removed == offset and 0 < abs(item.times["s1"] - item.times["s2"]) < 4 * 86400
            assert bounds[0] < item.lon < bounds[2] and bounds[1] < item.lat < bounds[3]
            if kind == "tiles":
                with rasterio.open(raw / "LULC" / f"{entry.id}.tif") as file:
                    np.testing.assert_array_equal(item.label, file.read(1))
    assert importer.read(entries[0]).times["s2"] == 1627046561  # 2021-07-23 13:22:41


def test_class_names_fit_what_the_pixels_show(real_data):
    """The names of the codes are not in the files: the pixels of the tiles tell."""
    importer = open_(real_data / "terramesh", RTC, "tiles")
    coast, _, city, snow = (importer.read(entry) for entry in importer.entries())

    def median(item, feature, name):
        image = item.images[feature][item.label == terramesh.CLASSES.index(name)]
        return dict(zip(SENSORS[RTC[feature]].bands, np.median(image, axis=0), strict=True))

    def ndvi(item, name):
        median_of = median(item, "s2", name)
        return (median_of["B08"] - median_of["B04"]) / (median_of["B08"] + median_of["B04"])

    assert ndvi(coast, "water") < 0 < ndvi(coast, "bare ground") < 0.2 < ndvi(coast, "rangeland") < 0.7
    assert ndvi(coast, "trees") > 0.8 and ndvi(city, "trees") > 0.8
    assert median(coast, "s2", "bare ground")["B11"] > 4000  # sand
    assert median(city, "s1", "built area")["VV"] > median(city, "s1", "crops")["VV"] + 150  # walls: 2 dB
    assert median(snow, "s2", "snow or ice")["B03"] > 5000 > 2000 > median(snow, "s2", "snow or ice")["B11"]


def test_example_tiles_without_partner_or_time(real_data, tmp_path):
    shutil.copytree(real_data / "terramesh", tmp_path / "raw", copy_function=shutil.copyfile)
    raw = tmp_path / "raw"
    for folder in (raw, *raw.iterdir()):
        folder.chmod(0o755)
    (raw / "S1RTC" / f"{TILES[0]}.tif").unlink()
    (raw / "S2L2A" / f"{TILES[3]}.tif").unlink()
    shutil.rmtree(raw / "LULC")
    importer = open_(raw, RTC)
    entries, rejects = split(importer.entries())
    assert [(reject.id, reject.reason) for reject in rejects] == [
        (TILES[0], "no S1RTC of this tile"), (TILES[3], "no S2L2A of this tile")]
    pair = read(importer, entries[0], RTC, 224)
    assert pair.times["s1"] > 0 and pair.times["s2"] == -1
    path = raw / "S2L2A" / f"{entries[0].id}.tif"
    path.write_bytes(path.read_bytes()[:100000])
    with pytest.raises(UserError, match=f"{entries[0].id}.tif' cannot be read as GeoTIFF"):
        importer.read(entries[0])
    with pytest.raises(UserError, match="LULC' is missing; --raw must name the folder .* S1RTC and S2L2A and LULC"):
        open_(raw, RTC, "tiles")
