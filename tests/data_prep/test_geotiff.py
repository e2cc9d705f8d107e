"""One's own GeoTIFFs: real images in four arrangements, small ones for grids, no-data and what bad input is told."""

import datetime
import json
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import rasterio
import rasterio.vrt
from affine import Affine

from data_prep import importers, record
from data_prep.importers import Entry, Reject, Unmatched
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS, sensor

pytestmark = pytest.mark.quick

S2_BANDS = SENSORS["s2_l2a"].bands
S1 = {"bands": ["VV", "VH"], "unit": "dB", "product": "grd"}
S2 = {"bands": list(S2_BANDS), "level": "l2a", "offset": 0}
LABEL = {"classes": {"land": 0, "water": 1}, "ignore": [-1]}
PLACE = Affine(10, 0, 600000, 0, -10, 5200000)


def describe(raw, table=None, size=32, **sections):
    """Writes geotiff.json, and pairs.csv of a list of dicts."""
    raw.mkdir(exist_ok=True)
    (raw / "geotiff.json").write_text(json.dumps({"size": size} | sections))
    if table is not None:
        columns = list(table[0])
        lines = [",".join(columns), *(",".join(str(row[column]) for column in columns) for row in table)]
        (raw / "pairs.csv").write_text("\n".join(lines) + "\n")
    return raw


def write(path, values, transform=PLACE, crs="EPSG:32632", names=(), **profile):
    values = np.asarray(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2],
                       dtype=values.dtype, transform=transform, crs=crs, **profile) as file:
        file.write(values)
        for band, name in enumerate(names, start=1):
            file.set_band_description(band, name)
    return values


def decibels(size=32, seed=0):
    return np.random.default_rng(seed).uniform(-25, -5, (2, size, size)).astype(np.float32)


def reflectance(size=32, seed=0):
    return np.random.default_rng(seed).integers(100, 9000, (12, size, size), np.uint16)


def one(raw, s1=None, s2=None):
    """Writes one pair, s1.tif and s2.tif, and its description; returns the two arrays."""
    describe(raw, [{"s1": "s1.tif", "s2": "s2.tif"}], s1=S1, s2=S2)
    return (write(raw / "s1.tif", decibels() if s1 is None else s1),
            write(raw / "s2.tif", reflectance() if s2 is None else s2))


def make(raw, kind="pairs", features=("s1", "s2")):
    sensors = importers.load("geotiff").layout(kind, raw).sensors
    return importers.load("geotiff")(raw, kind, {feature: sensors[feature][0] for feature in features})


def read(raw, kind="pairs", features=("s1", "s2"), entry=None):
    layout = importers.load("geotiff").layout(kind, raw)
    if entry is None:
        (entry,) = (item for item in make(raw, kind, features).entries() if not isinstance(item, Unmatched))
    assert isinstance(entry, Entry), entry
    json.dumps(entry.where)
    item = make(raw, kind, features).read(entry)
    specs = {feature: sensor(layout.sensors[feature][0]) for feature in features}
    record.check(item, specs, layout.size, layout.label)
    return item


def hundredths(db):
    return np.rint(np.moveaxis(db, 0, -1).astype(np.float64) * 100)


def pixels(path):
    with rasterio.open(path) as file:
        return file.read()


# Real images

def test_terramesh_tiles_by_table_with_labels(real_data, tmp_path):
    source = real_data / "terramesh"
    tiles = sorted(path.stem for path in (source / "S2L2A").glob("*.tif"))
    for name in ("S1RTC", "S2L2A", "LULC"):
        shutil.copytree(source / name, tmp_path / name)
    classes = {name: value for value, name in enumerate(
        ["water", "trees", "grass", "flooded", "crops", "scrub", "built", "bare", "snow", "cloud"])}
    raw = describe(tmp_path, [{"s1": f"S1RTC/{tile}.tif", "s2": f"S2L2A/{tile}.tif", "label": f"LULC/{tile}.tif",
                               "id": tile, "s2_offset": 1000 * tile.startswith("433D")} for tile in tiles], size=224,
                   s1=S1 | {"product": "rtc"}, s2=S2 | {"offset": "column"}, label={"classes": classes},
                   licence="CC-BY-SA-4.0")
    layout = importers.load("geotiff").layout("tiles", raw)
    assert layout.sensors == {"s1": ("s1_rtc",), "s2": ("s2_l2a",)} and layout.classes == tuple(classes)
    assert layout.source["licence"] == "CC-BY-SA-4.0" and layout.size == 224
    entries = list(make(raw, "tiles").entries())
    assert [entry.id for entry in entries] == tiles
    for entry in entries:
        tile = read(raw, "tiles", entry=entry)
        dn, removed = pixels(source / "S2L2A" / f"{entry.id}.tif").astype(int), tile.s2_offset_removed
        assert removed == (1000 if entry.id.startswith("433D") else 0)
        np.testing.assert_array_equal(tile.images["s2"], np.moveaxis(np.maximum(dn - removed, 1), 0, -1))
        np.testing.assert_array_equal(tile.images["s1"], hundredths(pixels(source / "S1RTC" / f"{entry.id}.tif")))
        np.testing.assert_array_equal(tile.label, pixels(source / "LULC" / f"{entry.id}.tif")[0])
    assert tile.lat == pytest.approx(54.8, abs=0.1) and tile.lon == pytest.approx(-83.9, abs=0.2)  # 609U_541L


def test_sen12ms_cr_by_names_without_dates(real_data, tmp_path):
    shutil.copytree(real_data / "sen12ms_cr", tmp_path, dirs_exist_ok=True)
    raw = describe(tmp_path, size=256, s1=S1 | {"files": "s1/ROIs{place}.tif"},
                   s2={"files": "s2_cloudfree/ROIs{place}.tif", "level": "l1c", "offset": 0,
                       "bands": [f"B{i}" for i in range(1, 9)] + ["B8A", "B9", "B10", "B11", "B12"]})
    entries = list(make(raw).entries())
    assert [(entry.id, entry.times["s1"], entry.times["s2"]) for entry in entries] == [
        ("1970_fall_139_p839", -1, -1), ("2017_winter_112_p797", -1, -1)]
    pair = read(raw, entry=entries[1])
    source = real_data / "sen12ms_cr/s2_cloudfree/ROIs2017_winter_112_p797.tif"
    np.testing.assert_array_equal(pair.images["s2"], np.moveaxis(pixels(source), 0, -1))
    np.testing.assert_array_equal(pair.images["s1"], hundredths(pixels(raw / "s1/ROIs2017_winter_112_p797.tif")))


def test_ssl4eo_with_a_file_for_each_band_on_grids_that_differ(real_data, tmp_path):
    source = real_data / "ssl4eo_s12"
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    raw = describe(tmp_path, size=264, s1=S1 | {"files": "s1/{place}/*_{date}_*/{band}.tif"},
                   s2={"files": "s2a/{place}/{date}_*/{band}.tif", "level": "l2a", "offset": 0,
                       "bands": [f"B{i}" for i in range(1, 9)] + ["B8A", "B9", "B11", "B12"]})
    entries = list(make(raw).entries())
    assert [entry.id for entry in entries] == ["0000200_20200604T054639", "0000200_20200813T054639"]
    # The first of the two times in a radar name, 20200607T010800_20200607T010825: the start.
    assert [entry.times["s1"] for entry in entries] == [1591492080, 1599138732]
    assert entries[0].location_id == entries[1].location_id == "0000200"
    pair = read(raw, entry=entries[0])
    folder = source / "s2a/0000200/20200604T054639_20200604T054831_T43RCP"
    for i, band in enumerate(("B1", *(f"B{i}" for i in range(2, 9)), "B8A", "B9", "B11", "B12")):
        image = pixels(folder / f"{band}.tif")[0]
        repeats = 264 // len(image)
        np.testing.assert_array_equal(pair.images["s2"][..., i], image.repeat(repeats, 0).repeat(repeats, 1),
                                      err_msg=band)
    # The radar was moved by its georeference, in linear power, as GDAL's own warped file does it.
    with rasterio.open(folder / "B2.tif") as file:
        grid = dict(crs=file.crs, transform=file.transform, width=264, height=264)
    (radar,) = (source / "s1/0000200").glob("*20200607*")
    for i, band in enumerate(("VV", "VH")):
        with rasterio.open(radar / f"{band}.tif") as file:
            power = 10 ** (file.read() / 10)
            write(tmp_path / f"{band}.tif", power.astype(np.float32), file.transform, file.crs, nodata=np.nan)
        with rasterio.open(tmp_path / f"{band}.tif") as file, \
                rasterio.vrt.WarpedVRT(file, resampling=rasterio.enums.Resampling.bilinear, **grid) as warped:
            expected = warped.read(1)
        valid = pair.images["s1"][..., i] != -32768
        np.testing.assert_array_equal(valid, np.isfinite(expected) & (expected != 0))
        assert 0.9 < valid.mean() < 1  # a border is missing
        np.testing.assert_allclose(pair.images["s1"][..., i][valid], 1000 * np.log10(expected[valid]), atol=1)


# Pairing by names

def names(raw, files):
    for path in files:
        (raw / path).parent.mkdir(parents=True, exist_ok=True)
        (raw / path).touch()
    return list(make(raw).entries())


def test_images_of_a_place_are_paired_by_date_each_once(tmp_path):
    raw = describe(tmp_path, s1=S1 | {"files": "s1/{place}_{date}_*.tif"},
                   s2=S2 | {"files": "s2/{place}/{place}_{date}.tif"})
    rows = names(raw, [
        # A third S2 image, a third place without S2, a foreign file, a day that is none.
        "s1/a_b_20200903T131212_S1A.tif", "s1/a_b_20200607_S1B.tif", "s1/c_2020-06-07_S1A.tif", "s1/readme.txt",
        "s1/d_20200607_S1A.tif", "s2/a_b/a_b_20200604T054639.tif", "s2/a_b/a_b_20200901.tif",
        "s2/a_b/a_b_20191224.tif", "s2/a_b/other_20201224.tif", "s2/c/c_20200607T100000.tif",
        "s2/e/e_20200607.tif", "s2/f/f_20201345.tif"])
    entries = [row for row in rows if isinstance(row, Entry)]
    assert [(entry.id, entry.where["s1"], entry.where["s2"]) for entry in entries] == [
        ("a_b_20200604T054639", "s1/a_b_20200607_S1B.tif", "s2/a_b/a_b_20200604T054639.tif"),
        ("a_b_20200901", "s1/a_b_20200903T131212_S1A.tif", "s2/a_b/a_b_20200901.tif"),
        ("c_20200607T100000", "s1/c_2020-06-07_S1A.tif", "s2/c/c_20200607T100000.tif")]
    assert entries[0].times == {"s1": 1591488000, "s2": 1591249599}
    assert [row for row in rows if isinstance(row, Reject)] == [
        Reject("s2/a_b/a_b_20191224.tif", "no S1 image of 'a_b' is left for it"),
        Reject("s1/d_20200607_S1A.tif", "no S2 image of 'd' is left for it"),
        Reject("s2/e/e_20200607.tif", "no S1 image of 'e' is left for it"),
        Reject("s2/f/f_20201345.tif", "'20201345' is no time (month must be in 1..12); expected one like "
                                      "2020-06-07T18:01:00Z"),
        Unmatched("s2/a_b/other_20201224.tif", "fits no pattern; expected a name like 's2/{place}/{place}_{date}.tif' "
                  "(s2.files of geotiff.json)", 1, ("s2/a_b/other_20201224.tif",))]


def test_without_dates_a_place_has_one_image_of_each_sensor(tmp_path):
    raw = describe(tmp_path, s1=S1 | {"files": "s1/{place}.tif"}, s2=S2 | {"files": "s2/{place}_*.tif"})
    rows = names(raw, ["s1/a.tif", "s1/b.tif", "s2/a_x.tif", "s2/b_x.tif", "s2/b_y.tif"])
    assert rows[0].id == "a" and rows[0].times["s2"] == -1
    assert rows[1:] == [Reject("b", "several images and no {date} in 'files' to pair them by")]


def test_bands_in_files_of_their_own_by_names_of_ones_own(tmp_path):
    tokens = {band: f"{band}_{20 if band in ('B05', 'B8A') else 10}m" for band in S2_BANDS}
    raw = describe(tmp_path, s1=S1, s2=S2 | {"bands": tokens})
    (raw / "pairs.csv").write_text("s1,s2\ns1.tif,s2/T33_{band}.tif\n")
    write(raw / "s1.tif", decibels())
    s2 = reflectance()
    for i, token in enumerate(tokens.values()):
        step = 2 if "20m" in token else 1
        write(raw / f"s2/T33_{token}.tif", s2[i:i + 1, ::step, ::step], PLACE @ Affine.scale(step))
        s2[i] = s2[i, ::step, ::step].repeat(step, 0).repeat(step, 1)
    pair = read(raw)
    np.testing.assert_array_equal(pair.images["s2"], np.moveaxis(s2, 0, -1))
    assert pair.id == "s2/T33"
    write(raw / "s2/T33_B05_20m.tif", np.ones((1, 9, 9), np.uint16), PLACE)
    with pytest.raises(UserError, match="'s2/T33_{band}.tif': band of 9x9 pixels does not fill 32x32"):
        read(raw)
    write(raw / "s2/T33_B05_20m.tif", np.ones((2, 32, 32), np.uint16), PLACE)
    with pytest.raises(UserError, match="s2/T33_B05_20m.tif' has 2 bands, expected B05 only"):
        read(raw)
    (raw / "s2/T33_B8A_20m.tif").unlink()
    assert list(make(raw).entries()) == [Reject("s2/T33", "'s2/T33_B8A_20m.tif' is missing")]


# The table

def test_facts_of_the_table_reach_the_records(tmp_path, capsys):
    one(tmp_path)
    (tmp_path / "pairs.csv").write_text(
        "\ufeffid, s2,s1,s1_time,s2_time,location_id,split,lat,lon,cloud,mine\n"  # as a spreadsheet writes it
        "b,s2.tif,s1.tif,2020-06-07T03:08:00+02:00,1591249599,here,test,47.5,-9,12.5,x\n"
        "a,s2.tif,s1.tif,2020-06-07,,,,,,,\n")
    first, second = make(tmp_path).entries()
    assert "not used: column 'mine'" in capsys.readouterr().out
    assert (first.id, first.location_id, first.split, first.cloud) == ("b", "here", "test", 12.5)
    assert first.times == {"s1": 1591492080, "s2": 1591249599}
    assert (second.id, second.location_id, second.split) == ("a", "a", "")
    assert second.times == {"s1": 1591488000, "s2": -1}
    pair = read(tmp_path, entry=first)
    assert (pair.lat, pair.lon, pair.cloud, pair.split, pair.times["s1"]) == (47.5, -9, 12.5, "test", 1591492080)
    pair = read(tmp_path, entry=second)
    assert pair.lat == pytest.approx(46.94, abs=0.01) and pair.lon == pytest.approx(10.31, abs=0.01)
    pyarrow.parquet.write_table(pyarrow.table({
        "s1": ["s1.tif"], "S2": ["s2.tif"], "id": [0], "cloud": [None],
        "s1_time": [datetime.datetime(2020, 6, 7, 1, 8, tzinfo=datetime.UTC)]}), tmp_path / "pairs.parquet")
    (tmp_path / "pairs.csv").unlink()
    (entry,) = make(tmp_path).entries()
    assert (entry.id, entry.times["s1"], entry.times["s2"]) == ("0", 1591492080, -1)


@pytest.mark.parametrize("columns, cells, reason", [
    ("s1,s2", "s1.tif,", "no s2 in line 2"), ("s1,s2", "gone.tif,s2.tif", "'gone.tif' is missing"),
    ("s1,s2,s1_time", "s1.tif,s2.tif,7 June",
     "line 2: s1_time '7 June' is no time; expected one like 2020-06-07T18:01:00Z"),
    ("s1,s2,s1_time", "s1.tif,s2.tif,01/02/2020", "line 2: s1_time '01/02/2020' is no time: the day or the month may "
     "come first; expected one like 2020-06-07T18:01:00Z"),
    ("s1,s2,lat", "s1.tif,s2.tif,47 N", "line 2: lat is '47 N', no number; write it like 12.5"),
    ("s1,s2,lat", 's1.tif,s2.tif,"47,5"', "line 2: lat is '47,5', a decimal comma; write it like 12.5"),
    ("s1,s2,lat", "s1.tif,s2.tif,470", "line 2: lat is 470.0, expected degrees"),
    ("s1,s2,lon", "s1.tif,s2.tif,600000", "line 2: lon is 600000.0, expected degrees"),
    ("s1,s2,cloud", "s1.tif,s2.tif,101", "line 2: cloud is 101.0, expected percent"),
    ("s1,s2", "s1.tif\0,s2.tif", "'s1.tif\\x00' is missing")])
def test_rows_that_cannot_be_records_are_rejects(tmp_path, columns, cells, reason):
    one(tmp_path)
    (tmp_path / "pairs.csv").write_text(f"id,{columns}\nx,{cells}\n")
    assert [item for item in make(tmp_path).entries() if not isinstance(item, Unmatched)] == [Reject("x", reason)]


@pytest.mark.parametrize("table, message", [
    ("s1,s2,id\ns1.tif,s2.tif,Köln\n".encode("latin-1"), "pairs.csv' cannot be read as a table .* CSV in UTF-8"),
    (b"s1,s2,id\ns1.tif,s2.tif," + b"x" * 200_000, "pairs.csv' cannot be read as a table .line 2: field larger"),
    (b's1,s2,id\ns1.tif,s2.tif,"a"b\n', "pairs.csv' cannot be read as a table .line 2: ',' expected after"),
    (b's1,s2,id\ns1.tif,s2.tif,"a\n\n', "pairs.csv' cannot be read as a table .line 3: unexpected end of data"),
    (b"s1,s2,S1\ns1.tif,s2.tif,a\n", "pairs.csv' has the column 's1' 2 times; keep one"),
    (b"", r"pairs.csv' has no column s1 s2 \(it has \); add it")])
def test_tables_that_are_wrong_as_a_whole_are_told(tmp_path, table, message):
    one(tmp_path)
    (tmp_path / "pairs.csv").write_bytes(table)
    with pytest.raises(UserError, match=message):
        list(make(tmp_path).entries())


def test_description_and_table_make_the_identity(tmp_path):
    def digest():
        return importers.load("geotiff").layout("pairs", tmp_path).source["description"]

    one(tmp_path)
    first = digest()
    assert len(first) == 12 and int(first, 16) >= 0 and digest() == first
    (tmp_path / "pairs.csv").write_text("s1,s2\ns1.tif,s2.tif\ns1.tif,s2.tif\n")
    second = digest()
    describe(tmp_path, s1=S1, s2=S2 | {"offset": 1000})
    assert len({first, second, digest()}) == 3


def test_the_offset_by_column_must_be_said_for_each_image(tmp_path):
    one(tmp_path)
    describe(tmp_path, s1=S1, s2=S2 | {"offset": "column"})
    with pytest.raises(UserError, match=r"pairs.csv' has no column s2_offset \(it has s1 s2\)"):
        list(make(tmp_path).entries())
    (tmp_path / "pairs.csv").write_text("id,s1,s2,s2_offset\n" + "".join(
        f"{name},s1.tif,s2.tif,{offset}\n" for name, offset in [("a", 1000), ("b", 0), ("c", ""), ("d", 100)]))
    a, b, c, d = make(tmp_path).entries()
    raw = pixels(tmp_path / "s2.tif").astype(int)
    for entry, removed in ((a, 1000), (b, 0)):
        pair = read(tmp_path, entry=entry)
        assert pair.s2_offset_removed == removed
        np.testing.assert_array_equal(pair.images["s2"], np.moveaxis(np.maximum(raw - removed, 1), 0, -1))
    assert c == Reject("c", "line 4: s2_offset is empty, expected 0 or 1000")
    assert d == Reject("d", "line 5: s2_offset is 100, expected 0 or 1000")


# Bands

def test_bands_are_picked_by_name_from_the_file_or_the_description(tmp_path):
    order = [S2_BANDS[i] for i in np.random.default_rng(1).permutation(12)]
    s1, s2 = one(tmp_path, s1=decibels(), s2=reflectance())
    unnamed = {"s1": {"unit": "dB", "product": "grd"}, "s2": {"level": "l2a", "offset": 0}}
    named = {"s1": unnamed["s1"] | {"bands": ["vh", "VV"]}, "s2": unnamed["s2"] | {"bands": order}}
    for described in (True, False):
        describe(tmp_path, **(unnamed if described else named))
        write(tmp_path / "s1.tif", s1[::-1], names=("VH", "vv") if described else ())
        write(tmp_path / "s2.tif", s2[[S2_BANDS.index(band) for band in order]],
              names=[band.replace("B0", "B") for band in order] if described else ["bands"] * 12)
        pair = read(tmp_path)
        np.testing.assert_array_equal(pair.images["s1"], hundredths(s1))
        np.testing.assert_array_equal(pair.images["s2"], np.moveaxis(s2, 0, -1))


def test_some_bands_make_a_sensor_of_them_and_some_of_these_may_be_chosen(tmp_path):
    _, s2 = one(tmp_path, s2=reflectance()[:5])
    describe(tmp_path, s1=S1, s2=S2 | {"bands": ["B04", "quality", "B2", "B03", "B08"]})
    assert importers.load("geotiff").layout("pairs", tmp_path).sensors["s2"] == ("s2_l2a:B02+B03+B04+B08",)
    assert read(tmp_path).images["s2"].shape == (32, 32, 4)
    np.testing.assert_array_equal(read(tmp_path).images["s2"], np.moveaxis(s2[[2, 3, 0, 4]], 0, -1))
    chosen = importers.load("geotiff")(tmp_path, "pairs", {"s1": "s1_grd:VH", "s2": "s2_l2a:B02+B08"})
    images = chosen.read(next(iter(chosen.entries()))).images
    np.testing.assert_array_equal(images["s2"], np.moveaxis(s2[[2, 4]], 0, -1))
    np.testing.assert_array_equal(images["s1"], hundredths(decibels())[..., 1:])
    write(tmp_path / "s2_B08.tif", s2[4:])
    write(tmp_path / "s2_B02.tif", s2[2:3])
    describe(tmp_path, [{"s1": "s1.tif", "s2": "s2_{band}.tif", "id": "a"}], s1=S1, s2=S2 | {"bands": ["B08", "B02"]})
    np.testing.assert_array_equal(read(tmp_path).images["s2"], np.moveaxis(s2[[2, 4]], 0, -1))


def test_bands_that_contradict_or_lack_are_told(tmp_path):
    s1, s2 = one(tmp_path)
    write(tmp_path / "s1.tif", s1, names=("VH", "VV"))  # GEO-Bench's trap
    with pytest.raises(UserError, match="s1.tif' calls a band VH, geotiff.json calls it VV; list the bands of s1_grd"):
        read(tmp_path)
    write(tmp_path / "s1.tif", s1[:1])
    with pytest.raises(UserError, match="s1.tif' has 1 bands, geotiff.json lists 2"):
        read(tmp_path)
    write(tmp_path / "s1.tif", s1)
    describe(tmp_path, s1={"unit": "dB", "product": "grd"}, s2=S2)
    with pytest.raises(UserError, match=r"s1.tif' does not say which band is VV VH \(it has no descriptions\)"):
        read(tmp_path)
    write(tmp_path / "s1.tif", s1, names=("VV", "HH"))
    with pytest.raises(UserError, match=r"s1.tif' does not say which band is VH \(it has VV HH\)"):
        read(tmp_path)


# No data

def test_no_data_of_radar_is_no_data_in_both_bands(tmp_path):
    s1 = decibels()
    s1[0, 0, 0], s1[1, 1, 1], s1[0, 2, 2], s1[0, 3, 3] = np.nan, -np.inf, -9999, -99
    one(tmp_path, s1)
    # Said by nobody or by the file, that is of another value: not taken for decibels.
    for tag in (None, -99):
        write(tmp_path / "s1.tif", s1, nodata=tag)
        with pytest.raises(UserError, match="'s1.tif' holds -9999, which is no dB .*, say so in s1.no_data of geotiff"):
            read(tmp_path)
    # Said by the description, by the file, by both: the description counts.
    for said, tag, gone in ((-9999, None, {0, 1, 2}), (None, -9999, {0, 1, 2}), (-9999, -99, {0, 1, 2})):
        describe(tmp_path, s1=S1 | {"no_data": said}, s2=S2)
        write(tmp_path / "s1.tif", s1, nodata=tag)
        stored = read(tmp_path).images["s1"]
        assert {(i, j) for i, j, _ in np.argwhere(stored == -32768)} == {(i, i) for i in gone}
        assert (stored == -32768).sum() == 2 * len(gone)


def test_power_that_no_target_has_is_told(tmp_path):
    power = (10 ** (decibels() / 10)).astype(np.float32)
    power[0, 4, 4] = 3e38
    one(tmp_path, power)
    describe(tmp_path, s1=S1 | {"unit": "linear"}, s2=S2)
    with pytest.raises(UserError, match="'s1.tif' holds 3e.38, which is no linear of a radar image"):
        read(tmp_path)


def test_the_no_data_of_each_file_counts_for_its_band(tmp_path):
    s1, s2 = one(tmp_path)
    (tmp_path / "pairs.csv").write_text("s1,s2\ns1_{band}.tif,s2_{band}.tif\n")
    s1[0, 1, 1], s1[1, 2, 2], s1[0, 3, 3] = -50, -60, -60  # -60 is data in VV
    for i, (band, tag) in enumerate((("VV", -50), ("VH", -60))):
        write(tmp_path / f"s1_{band}.tif", s1[i:i + 1], nodata=tag)
    s2[0, 5, 5], s2[1, 6, 6], s2[2, 7, 7] = 65535, 65534, 65534
    for i, band in enumerate(S2_BANDS):
        write(tmp_path / f"s2_{band}.tif", s2[i:i + 1], nodata=65534 if i == 1 else 65535)
    pair = read(tmp_path)
    assert {(i, j) for i, j, _ in np.argwhere(pair.images["s1"] == -32768)} == {(1, 1), (2, 2)}
    assert pair.images["s1"][3, 3, 0] == -6000
    assert {(i, j) for i, j, _ in np.argwhere(pair.images["s2"] == 0)} == {(5, 5), (6, 6)}
    assert not pair.images["s2"][6, 6].any()


def test_no_data_of_s2(tmp_path):
    s2 = reflectance().astype(np.int16)
    s2[:, 0, 0], s2[3, 1, 1], s2[5, 2, 2] = 0, 0, -9999
    one(tmp_path, s2=s2)
    with pytest.raises(UserError, match="'s2.tif' holds -9999, expected reflectance x 10000; if it means no data"):
        read(tmp_path)
    describe(tmp_path, s1=S1, s2=S2 | {"no_data": -9999})
    image = read(tmp_path).images["s2"]
    assert (image[2, 2] == 0).all()  # no data in one band: none in the pixel
    assert image[1, 1, 3] == 0 and image[1, 1].any()  # a dark band of a pixel with data
    assert (image[0, 0] == 0).all() and (image == 0).sum() == 12 + 1 + 12
    write(tmp_path / "s2.tif", s2, nodata=-9999)
    describe(tmp_path, s1=S1, s2=S2)
    np.testing.assert_array_equal(read(tmp_path).images["s2"], image)


# Radiometry

def test_linear_power_becomes_decibels(tmp_path):
    db = decibels()
    power = (10 ** (db / 10)).astype(np.float32)
    power[:, :2] = 0  # a border
    one(tmp_path, power)
    describe(tmp_path, s1=S1 | {"unit": "linear", "product": "rtc"}, s2=S2)
    pair = read(tmp_path)
    np.testing.assert_allclose(pair.images["s1"][2:], hundredths(db)[2:], atol=1)
    assert (pair.images["s1"][:2] == -32768).all()


def test_a_wrong_unit_and_wrong_types_are_told(tmp_path):
    one(tmp_path, (10 ** (decibels() / 10)).astype(np.float32))
    with pytest.raises(UserError, match="'s1.tif' has the median 0.03.*, which is not 'dB'; mend s1.unit or s1.no_d"):
        read(tmp_path)
    one(tmp_path)
    describe(tmp_path, s1=S1 | {"unit": "linear"}, s2=S2)
    with pytest.raises(UserError, match="median -15.*, which is not 'linear'"):
        read(tmp_path)
    one(tmp_path, s1=np.rint(decibels()).astype(np.int16))  # whole decibels: torchgeo's trap
    with pytest.raises(UserError, match="s1.tif' is int16, expected floats"):
        read(tmp_path)
    one(tmp_path, s2=reflectance() / np.float32(10000))
    with pytest.raises(UserError, match="'s2.tif' is float32, expected integers, reflectance x 10000"):
        read(tmp_path)


# Grids

def test_a_radar_scene_of_another_crs_is_cut_and_warped_in_linear_power(tmp_path):
    size = 32
    x, y = rasterio.warp.transform("EPSG:32632", "EPSG:4326", [600000], [5200000])
    scene = Affine(1e-4, 0, x[0] - 0.01, 0, -1e-4, y[0] + 0.01)

    def field(longitude, latitude):
        return 0.05 * (1.5 + np.sin(longitude * 1000) * np.cos(latitude * 1200))

    longitude, latitude = scene @ (np.arange(300)[None] + 0.5, np.arange(250)[:, None] + 0.5)
    power = np.broadcast_to(field(longitude, latitude), (250, 300))
    one(tmp_path)
    write(tmp_path / "s1.tif", np.stack([10 * np.log10(power)] * 2).astype(np.float32), scene, "EPSG:4326")
    xs, ys = PLACE @ tuple(np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5))
    longitude, latitude = rasterio.warp.transform("EPSG:32632", "EPSG:4326", xs.ravel(), ys.ravel())
    expected = 1000 * np.log10(field(np.array(longitude), np.array(latitude))).reshape(size, size)
    assert np.ptp(expected) > 300
    np.testing.assert_allclose(read(tmp_path).images["s1"][..., 0], expected, atol=4)  # hundredths of dB


def test_of_a_scene_only_the_part_that_is_needed_is_read(tmp_path):
    one(tmp_path)
    scene = np.full((2, 1024, 1024), -10, np.float32)
    write(tmp_path / "s1.tif", scene, PLACE @ Affine.translation(-60, -60), tiled=True, blockxsize=128, blockysize=128,
          interleave="pixel")
    whole = (tmp_path / "s1.tif").read_bytes()
    (tmp_path / "s1.tif").write_bytes(whole[:len(whole) // 2])  # the southern half is gone
    assert (read(tmp_path).images["s1"] == -1000).all()


def test_the_mean_is_that_of_the_power_and_no_data_has_no_share_in_it(tmp_path):
    checkers = np.indices((66, 66)).sum(axis=0) % 2
    db = np.stack([np.where(checkers, 0.0, -30.0)] * 2).astype(np.float32)
    db[:, :33] = np.nan
    one(tmp_path)
    write(tmp_path / "s1.tif", db, Affine(5, 0, 600000 - 5, 0, -5, 5200000 + 5))  # 5 m pixels, half of S2's
    s1 = read(tmp_path).images["s1"]
    assert (s1[:15] == -32768).all()
    # Half of the pixels at 1, half at 0.001: -3 dB. The mean of the decibels would be -15.
    np.testing.assert_allclose(s1[18:-1, 1:-1], -301, atol=2)
    valid = s1[s1 != -32768]
    assert valid.min() > -900 and valid.max() <= 0


def test_images_apart_without_place_and_of_another_size_are_told(tmp_path):
    s1, s2 = one(tmp_path)
    write(tmp_path / "s1.tif", s1, PLACE @ Affine.translation(40, 0))
    with pytest.raises(UserError, match="s1.tif' covers latitude .*, its partner latitude .*: they do not overlap"):
        read(tmp_path)
    write(tmp_path / "s2.tif", s2[:, :30])
    with pytest.raises(UserError, match="'s2.tif' is 30x32 pixels, geotiff.json says size 32"):
        read(tmp_path)
    write(tmp_path / "s2.tif", s2)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write(tmp_path / "s1.tif", s1, Affine.identity(), None)
    with pytest.raises(UserError, match="s1.tif': cannot align 32x32 pixels without georeference with latitude"):
        read(tmp_path)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write(tmp_path / "s2.tif", s2, Affine.identity(), None)
    pair = read(tmp_path)  # both without, one size
    np.testing.assert_array_equal(pair.images["s1"], hundredths(s1))
    assert np.isnan(pair.lat)


def test_radar_bands_on_two_grids_are_told(tmp_path):
    one(tmp_path)
    (tmp_path / "pairs.csv").write_text("s1,s2\ns1_{band}.tif,s2.tif\n")
    write(tmp_path / "s1_VV.tif", decibels()[:1])
    write(tmp_path / "s1_VH.tif", decibels()[1:], PLACE @ Affine.translation(3, 0))
    with pytest.raises(UserError, match="'s1_{band}.tif': its bands are not on one grid"):
        read(tmp_path)


def test_s2_bands_of_two_places_are_told(tmp_path):
    s1, s2 = one(tmp_path)
    (tmp_path / "pairs.csv").write_text("s1,s2\ns1.tif,s2_{band}.tif\n")
    for i, band in enumerate(S2_BANDS):
        write(tmp_path / f"s2_{band}.tif", s2[i:i + 1])
    coarse = np.ones((1, 16, 16), np.uint16)
    near = PLACE @ Affine.scale(2) @ Affine.translation(-0.4, 0.4)  # 60 m pixels need not begin where those of 10 m do
    write(tmp_path / "s2_B05.tif", coarse, near)
    assert (read(tmp_path).images["s2"][..., S2_BANDS.index("B05")] == 1).all()
    for values, place, crs in ((coarse, PLACE @ Affine.scale(2) @ Affine.translation(1, 0), "EPSG:32632"),
                               (coarse, PLACE @ Affine.scale(2), "EPSG:32633"), (coarse, PLACE, "EPSG:32632"),
                               (s2[:1], PLACE @ Affine.translation(0, 1), "EPSG:32632")):
        write(tmp_path / "s2_B05.tif", values, place, crs)
        with pytest.raises(UserError, match=r"s2_{band}.tif': B05 is \d+x\d+ at latitude .* in EPSG:3263., B01 is "
                                            "32x32 at latitude .* expected all bands of one image on one grid"):
            read(tmp_path)


def test_the_place_is_known_while_listing(tmp_path):
    one(tmp_path)
    (entry,) = make(tmp_path).entries()
    pair = read(tmp_path)
    assert entry.lat == pytest.approx(46.94, abs=0.01) and entry.lon == pytest.approx(10.31, abs=0.01)
    assert (pair.lat, pair.lon) == (entry.lat, entry.lon)
    describe(tmp_path, s1=S1 | {"files": "{place}1.tif"}, s2=S2 | {"files": "{place}2.tif"})
    (named,) = make(tmp_path).entries()
    assert (named.lat, named.lon) == (entry.lat, entry.lon)
    (tmp_path / "s2.tif").write_bytes(b"II*")  # reading says more
    assert np.isnan(next(make(tmp_path).entries()).lat)


# Labels

def test_labels_are_indices_on_the_grid_of_the_image(tmp_path):
    one(tmp_path)
    values = np.random.default_rng(0).choice(np.array([7, 3, 0, -1], np.int16), (1, 40, 40))
    write(tmp_path / "label.tif", values, PLACE @ Affine.translation(-4.3, -2.3), nodata=0)
    describe(tmp_path, [{"s1": "s1.tif", "s2": "s2.tif", "label": "label.tif"}], s1=S1, s2=S2,
             label={"classes": {"dry": 7, "wet": 3}, "ignore": [-1]})
    s1 = decibels()
    s1[:, 5, 5] = np.nan
    write(tmp_path / "s1.tif", s1)
    tile = read(tmp_path, "tiles")
    expected = np.choose(np.searchsorted([-1, 0, 3, 7], values[0, 2:34, 4:36]), [255, 255, 1, 0])
    expected[5, 5] = 255
    np.testing.assert_array_equal(tile.label, expected)
    values[0, 20, 20] = 9
    write(tmp_path / "label.tif", values, PLACE @ Affine.translation(-4.3, -2.3))
    with pytest.raises(UserError, match=r"label.tif' holds 0, which is no class of geotiff.json \(dry 7, wet 3\)"):
        read(tmp_path, "tiles")


def test_tiles_of_one_sensor(tmp_path):
    s1 = decibels()
    raw = describe(tmp_path, s1=S1 | {"files": "{place}_{date}_s1.tif"},
                   label=LABEL | {"files": "{place}_{date}_label.tif"})
    write(raw / "a_20200607_s1.tif", s1)
    label = write(raw / "a_20200607_label.tif", np.random.default_rng(0).integers(-1, 2, (1, 32, 32), np.int16))
    write(raw / "b_20200607_s1.tif", s1)
    entry, reject = make(raw, "tiles", ["s1"]).entries()
    assert reject == Reject("b_20200607", "'b_20200607_label.tif' is missing")
    tile = read(raw, "tiles", ["s1"], entry)
    np.testing.assert_array_equal(tile.images["s1"], hundredths(s1))
    np.testing.assert_array_equal(tile.label, np.where(label[0] < 0, 255, label[0]))
    assert (tile.times, tile.s2_offset_removed) == ({"s1": 1591488000}, 0)
    with pytest.raises(UserError, match="has no pairs; .* describes s1 only"):
        importers.load("geotiff").layout("pairs", raw)


# What the description is told

@pytest.mark.parametrize("sections, message", [
    ({}, "describes neither s1 nor s2"),
    ({"s1": S1, "siez": 3}, "unknown key 'siez'; did you mean 'size'"),
    ({"s1": S1 | {"nodata": 0}}, "unknown key 's1.nodata'; did you mean 'no_data'"),
    ({"s1": S1, "size": "32"}, "size is '32', expected the height and width"),
    ({"s1": {"product": "grd"}}, "s1.unit is None, expected one of 'dB', 'linear'"),
    ({"s1": S1 | {"product": "slc"}}, "s1.product is 'slc', expected one of 'grd', 'rtc'"),
    ({"s2": {"level": "l2a"}}, "s2.offset is None, expected one of 0, 1000, 'column'"),
    ({"s2": S2 | {"offset": False}}, "s2.offset is False, expected one of"),
    ({"s2": S2 | {"bands": ["B02", "B3A"]}}, "s2.bands: the bands B02 B3A lack B01 .* and B3A is none of its bands"),
    ({"s2": S2 | {"bands": ["red", "green"]}}, "s2.bands: the bands RED GREEN lack B01"),
    ({"s2": S2 | {"bands": 12}}, "s2.bands is 12, expected the names"),
    ({"s1": S1 | {"files": "{place}.tif"}, "s2": S2}, "'s2' has no 'files', another section has"),
    ({"s2": S2 | {"files": "{place}.tif", "offset": "column"}}, "s2.offset is 'column', names of files have no col"),
    ({"s1": S1, "label": {"classes": ["a"]}}, "label.classes is .*expected two or more names"),
    ({"s1": S1, "label": LABEL | {"files": "{band}.tif"}}, "label.files is '{band}.tif'; it may hold"),
    ({"s1": S1 | {"no_data": "-9999"}}, "s1.no_data is '-9999', expected a number"),
    ({"s2": S2 | {"no_data": True}}, "s2.no_data is True, expected a number"),
    ({"s1": S1 | {"files": "/data/{place}.tif"}}, "s1.files is '/data/{place}.tif', expected a text relative to"),
    ({"s2": S2 | {"files": ["{place}.tif"]}}, r"s2.files is \['{place}.tif'\], expected a text relative to"),
    ({"s1": S1, "label": LABEL | {"files": 3}}, "label.files is 3, expected a text relative to"),
    ({"s1": []}, "s1 is no JSON object")])
def test_mistakes_in_the_description_are_told(tmp_path, sections, message):
    describe(tmp_path, **sections)
    with pytest.raises(UserError, match=message):
        importers.load("geotiff").layout("tiles", tmp_path)


@pytest.mark.parametrize("files, message", [
    ("s1/{date}.tif", "s1.files is 's1/{date}.tif'; it must hold {place}"),
    ("s1/{place}_{time}.tif", "s1.files has '{time}'; it may hold"),
    ("s1/{place}.tiff", "no file in .* is named like 's1/{place}.tiff'")])
def test_mistakes_in_the_patterns_are_told(tmp_path, files, message):
    describe(tmp_path, s1=S1 | {"files": files}, s2=S2 | {"files": "s2/{place}.tif"})
    with pytest.raises(UserError, match=message):
        names(tmp_path, ["s1/a.tif", "s2/a.tif"])


def test_missing_and_damaged_files_are_told(tmp_path):
    importer = importers.load("geotiff")
    with pytest.raises(UserError, match="geotiff.json' is missing; it describes your GeoTIFFs"):
        importer.layout("pairs", tmp_path)
    with pytest.raises(UserError, match="importer 'geotiff' has no fixed sensors and size"):
        importer.layout("pairs")
    (tmp_path / "geotiff.json").write_text("{")
    with pytest.raises(UserError, match="geotiff.json' is no JSON"):
        importer.layout("pairs", tmp_path)
    one(tmp_path)
    with pytest.raises(UserError, match="importer 'geotiff' has no tiles; .* has no 'label'"):
        importer.layout("tiles", tmp_path)
    (entry,) = make(tmp_path).entries()
    whole = (tmp_path / "s2.tif").read_bytes()
    (tmp_path / "s2.tif").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(UserError, match="s2.tif' cannot be read as GeoTIFF .*truncated"):
        make(tmp_path).read(entry)
    (tmp_path / "s2.tif").unlink()
    with pytest.raises(UserError, match="s2.tif' is missing"):
        make(tmp_path).read(entry)
    (tmp_path / "pairs.csv").write_text("s1\ns1.tif\n")
    with pytest.raises(UserError, match=r"pairs.csv' has no column s2 \(it has s1\)"):
        list(make(tmp_path).entries())
    (tmp_path / "pairs.csv").rename(tmp_path / "pairs.parquet")
    with pytest.raises(UserError, match="pairs.parquet' cannot be read as Parquet"):
        list(make(tmp_path).entries())
    (tmp_path / "pairs.parquet").unlink()
    with pytest.raises(UserError, match="pairs.csv' is missing; list your pairs there, or give 'files'"):
        list(make(tmp_path).entries())


def test_the_example_of_the_docstring_works(tmp_path):
    from data_prep.importers import geotiff

    text = geotiff.__doc__
    (tmp_path / "geotiff.json").write_text(text[text.index('{"size"'):text.index("    size  ")])
    for day, place in (("20200607T180100", "lagos"), ("20200702T180101", "lagos"), ("20200605T053300", "oslo")):
        (tmp_path / "s1").mkdir(exist_ok=True)
        (tmp_path / "s1" / f"{place}_{day}.tif").touch()
    for day, place in (("20200604T101031", "lagos"), ("20200704T101031", "lagos"), ("20200605T104031", "oslo")):
        (tmp_path / "s2").mkdir(exist_ok=True)
        (tmp_path / "s2" / f"{place}_{day}.tif").touch()
    for place in ("lagos", "oslo"):
        (tmp_path / "label").mkdir(exist_ok=True)
        (tmp_path / "label" / f"{place}.tif").touch()
    rows = list(make(tmp_path, "tiles").entries())
    assert [row.where["s1"] for row in rows] == [
        "s1/lagos_20200607T180100.tif", "s1/lagos_20200702T180101.tif", "s1/oslo_20200605T053300.tif"]
    assert rows[0].where == {"s1": "s1/lagos_20200607T180100.tif", "s2": "s2/lagos_20200604T101031.tif",
                             "label": "label/lagos.tif", "s2_offset": 1000}
