"""Folders of images: pixels against independent reads of the real files, band order of EuroSAT, tables and faults."""

import io
import json
import warnings

import numpy as np
import pytest
import rasterio
from PIL import Image

from data_prep import importers, record
from data_prep.importers import Entry, Reject, Unmatched
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS, sensor

pytestmark = pytest.mark.quick

EUROSAT_BANDS = "B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A".split()


def make(raw, kind="tiles"):
    sensors = importers.load("image_folders").layout(kind, raw).sensors
    return importers.load("image_folders")(raw, kind, {feature: names[0] for feature, names in sensors.items()})


def check(importer, entry, kind="tiles"):
    layout = importers.load("image_folders").layout(kind, importer._raw)
    assert json.loads(json.dumps(entry.where)) == entry.where
    item = importer.read(entry)
    specs = {feature: sensor(names[0]) for feature, names in layout.sensors.items()}
    record.check(item, specs, layout.size, layout.label)
    return item


def picture(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def tif(path, values, crs="EPSG:32632"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2],
                           dtype=values.dtype, crs=crs,
                           transform=rasterio.Affine(10, 0, 600000, 0, -10, 5200000) if crs else None) as file:
            file.write(values)


def test_eurosat_rgb_is_the_files_pixels_and_the_folders_classes(real_data):
    raw = real_data / "eurosat_rgb"
    importer = make(raw)
    entries = {entry.id: entry for entry in importer.entries()}
    assert len(entries) == 2000 and all(entry.location_id == name for name, entry in entries.items())
    layout = importers.load("image_folders").layout("tiles", raw)
    assert layout.sensors == {"s2": ("s2_rgb",)} and layout.size == 64 and len(layout.classes) == 10
    for name in ("AnnualCrop/AnnualCrop_1015", "SeaLake/SeaLake_146"):
        tile = check(importer, entries[name])
        assert layout.classes[tile.label] == name.split("/")[0] and np.isnan(tile.lat) and tile.split == ""
        with Image.open(raw / f"{name}.jpg") as image:
            for x, y in ((0, 0), (63, 5), (17, 40)):
                assert tuple(tile.images["s2"][y, x]) == image.getpixel((x, y))


def test_eurosat_multispectral_has_b8a_last_and_a_place(tmp_path):
    for number, folder in enumerate(("Forest", "River")):
        values = np.arange(13, dtype=np.uint16)[:, None, None] * 100 + np.full((13, 16, 16), 50 + number, np.uint16)
        tif(tmp_path / f"{folder}/{folder}_1.tif", values)
    values[:, 3, 4] = 0
    tif(tmp_path / "River/River_2.tif", values)
    importer = make(tmp_path)
    assert importer._sensors == {"s2": "s2_l1c"}
    entries = list(importer.entries())
    assert [entry.where["class"] for entry in entries] == [0, 1, 1]
    assert entries[0].lat == pytest.approx(46.9, abs=0.1) and entries[0].lon == pytest.approx(10.3, abs=0.1)
    tile = check(importer, entries[1])
    for band, name in enumerate(SENSORS["s2_l1c"].bands):
        assert (tile.images["s2"][..., band] == EUROSAT_BANDS.index(name) * 100 + 51).all(), name
    holds = SENSORS["s2_l1c"].holds_data(check(importer, entries[2]).images["s2"])
    assert not holds[3, 4] and holds.sum() == 255


def test_eurosat_sar_is_decibels(tmp_path):
    values = np.random.default_rng(0).normal(-15, 4, (2, 16, 16)).astype(np.float32)
    values[1, 2, 3] = np.nan
    for folder in ("Forest", "River"):
        tif(tmp_path / f"{folder}/{folder}_1.tif", values)
    importer = make(tmp_path)
    tile = check(importer, next(importer.entries()))
    assert importer._sensors == {"s1": "s1_grd"} and (tile.images["s1"][2, 3] == -32768).all()
    valid = np.isfinite(values).all(axis=0)
    np.testing.assert_allclose(tile.images["s1"][valid], np.moveaxis(values, 0, -1)[valid] * 100, atol=0.51)


def test_pairs_of_grey_levels_are_the_files_pixels(real_data):
    raw = real_data / "volkov_la_sanantonio"
    importer = make(raw, "pairs")
    entries = list(importer.entries())
    assert len(entries) == 53 and importer._sensors == {"s1": "s1_vh", "s2": "s2_rgb"}
    pair = check(importer, entries[7], "pairs")
    name = f"{pair.id}.jpg"
    with Image.open(raw / "s1_vh" / name) as radar, Image.open(raw / "s2_rgb" / name) as optical:
        for x, y in ((0, 0), (511, 0), (17, 200)):
            assert pair.images["s1"][y, x, 0] == radar.getpixel((x, y))
            assert tuple(pair.images["s2"][y, x]) == optical.getpixel((x, y))
    assert len(record.cut(pair, 256)) == 4


@pytest.fixture
def own(tmp_path):
    """A folder with two classes, three images of 8 px; a grey, a large and an oblong picture as bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    for name in ("a/1.png", "a/2.PNG", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(noise).save(tmp_path / name)
    return tmp_path


def test_a_table_gives_places_splits_and_times(own, capsys):
    (own / "images.csv").write_text("id,location_id,split,lat,lon,s2_time\na/1,here,train,1.5,2.5,2020-06-07\n"
                                    "a/2,here,train,95,,\nb/1,,test,,,\nb/1,,train,,,\nb/9,,train,,,\n")
    twice, first, beyond, last = make(own).entries()
    assert twice == Reject("line 5", "the id 'b/1' stands in line 4, too; keep one")
    assert (first.location_id, first.split, first.lat, first.lon) == ("here", "train", 1.5, 2.5)
    assert first.times == {"s2": 1591488000} and (last.location_id, last.split) == ("b/1", "test")
    assert beyond == Reject("a/2", "line 3 of images.csv: lat is 95.0, expected degrees")
    assert "left out 1 of 4 rows of images.csv: no image is on disk, first 'b/9'" in capsys.readouterr().out


def test_files_beside_the_images_are_counted(own):
    (own / "a/notes.npy").touch()
    (own / "c").mkdir()
    *found, beside = make(own).entries()
    assert all(isinstance(item, Entry) for item in found) and len(found) == 3
    assert isinstance(beside, Unmatched) and beside.examples == ("a/notes.npy", "c/")


def test_pairs_without_a_partner_are_rejects(tmp_path):
    grey = np.full((8, 8), 7, np.uint8)
    picture(tmp_path / "s1_vh/1.jpg", grey)
    picture(tmp_path / "s1_vh/2.jpg", grey)
    picture(tmp_path / "s2_rgb/1.png", np.stack([grey] * 3, -1))
    found = list(make(tmp_path, "pairs").entries())
    assert found[0].where == {"s1": "s1_vh/1.jpg", "s2": "s2_rgb/1.png"}
    assert found[1] == Reject("2", "no image of s2_rgb has this name")


@pytest.mark.parametrize("name, values, message", [
    ("b/9.png", np.zeros((8, 8), np.uint8), "9.png' has mode L, expected RGB"),
    ("b/9.png", np.zeros((8, 5000, 3), np.uint8), "is 8x5000 pixels, expected at most 4096 a side"),
    ("b/9.tif", np.zeros((13, 8, 8), np.uint16), "has 13 bands, 3 expected"),
    ("b/9.tif", np.zeros((3, 8, 8), np.uint16), "has 3 bands of uint16, other images here are 's2_rgb'"),
    ("b/9.jpg", b"GIF89a" + bytes(600), "is a GIF picture; expected a GeoTIFF"),
])
def test_an_image_of_another_form_is_named(own, name, values, message):
    if isinstance(values, bytes):
        (own / name).write_bytes(values)
    else:
        (tif if name.endswith("tif") else picture)(own / name, values)
    importer = make(own)
    with pytest.raises(UserError, match=message) as error:
        importer.read(list(importer.entries())[-1])
    assert name in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_picture_is_named(own):
    importer = make(own)
    entries = list(importer.entries())
    data = io.BytesIO((own / "a/1.png").read_bytes())
    data.getbuffer()[60] ^= 1
    (own / "a/1.png").write_bytes(data.getvalue())
    with pytest.raises(UserError, match="1.png' cannot be read as PNG .*checksum"):
        importer.read(entries[0])
    assert importers.load("image_folders").layout("tiles", own).size == 8  # the first image of b tells the size
    (own / "b/1.jpg").write_bytes((own / "b/1.jpg").read_bytes()[:-40])
    with pytest.raises(UserError, match="1.jpg' cannot be read as a JPEG picture"):
        importer.read(entries[2])
    (own / "b/1.jpg").unlink()
    with pytest.raises(UserError, match="1.jpg' cannot be read .No such file"):
        importer.read(entries[2])


@pytest.mark.parametrize("files, kind, message", [
    ({}, "tiles", "holds 0 folders with images; --raw must name the folder that holds one folder per class"),
    ({"2750/a/1.png": (8, 8, 3)}, "tiles", "holds 0 folders with images"),
    ({"a/1.png": (8, 8), "b/1.png": (8, 8)}, "tiles", "have 1 bands of uint8, expected 3 of uint8"),
    ({"a/1.png": (8, 9, 3), "b/1.png": (8, 9, 3)}, "tiles", "is 8x9 pixels, expected a square"),
    ({"a/1.png": (8, 8, 3), "b/1.png": (8, 8, 3)}, "pairs", r"has the folders \[\], expected two named as sensors"),
    ({"s2_rgb/1.png": (8, 8, 3)}, "pairs", r"has the folders \['s2_rgb'\]"),
])
def test_folders_that_do_not_fit_are_named(tmp_path, files, kind, message):
    for name, shape in files.items():
        picture(tmp_path / name, np.zeros(shape, np.uint8))
    with pytest.raises(UserError, match=message) as error:
        make(tmp_path, kind)
    assert "\n" not in str(error.value)


def test_the_layout_needs_the_folder():
    with pytest.raises(UserError, match="no fixed sensors and size"):
        importers.load("image_folders").layout("tiles", None)
