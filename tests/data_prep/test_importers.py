"""OMBRIA, Sen1Floods11 and npz: pixels against independent reads of the real files; what bad input is told."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import rasterio
from PIL import Image

from data_prep import importers, record
from data_prep.build.config import make_config
from data_prep.importers import Entry, Reject
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS, sensor

pytestmark = pytest.mark.quick

BOTH = ("s1", "s2")


def make(name, raw, kind="pairs", features=BOTH):
    """The importer with the usual sensors for `features`."""
    sensors = importers.load(name).layout(kind, pathlib.Path(raw)).sensors
    return importers.load(name)(pathlib.Path(raw), kind, {feature: sensors[feature][0] for feature in features})


def by_id(importer):
    items = {item.id: item for item in importer.entries()}
    for item in items.values():
        if isinstance(item, Entry):  # it travels to the process that reads as JSON
            assert json.loads(json.dumps(item.where)) == item.where
    return items


def check(importer, entry, name, kind, features=BOTH):
    layout = importers.load(name).layout(kind, getattr(importer, "_raw", None))
    specs = {feature: sensor(layout.sensors[feature][0]) for feature in features}
    item = importer.read(entry)
    record.check(item, specs, layout.size, layout.label)
    for fact in ("id", "location_id", "split", "times"):
        assert getattr(item, fact) == getattr(entry, fact)
    return item


def test_unknown_importer_gets_the_nearest_name():
    with pytest.raises(UserError, match="unknown importer 'ombira'; did you mean 'ombria'"):
        importers.load("ombira")


def test_importers_state_licence_and_attribution():
    for name in ("bigearthnet", "dfc2020", "ombria", "sen12ms", "sen12ms_cr", "sen1floods11", "so2sat"):
        for kind in ("pairs", "tiles") if name != "sen12ms_cr" else ("pairs",):
            layout = importers.load(name).layout(kind, None)
            assert set(layout.source) == {"licence", "attribution", "notes"} and all(layout.source.values())
            assert all(choice in SENSORS for choices in layout.sensors.values() for choice in choices)
            assert bool(layout.classes) == (kind == "tiles") and set(layout.default) <= set(layout.sensors)


# OMBRIA

def test_ombria_pairs_are_the_files_pixels(real_data):
    importer = make("ombria", real_data / "ombria")
    entries = by_id(importer)
    assert len(entries) == 630
    splits = [entry.split for entry in entries.values()]
    assert splits.count("train") == 490 and splits.count("test") == 140
    before, after = entries["ombria_0013_before"], entries["ombria_0013_after"]
    assert before.location_id == after.location_id and before.split == after.split == "test"
    pair = check(importer, after, "ombria", "pairs")
    folder = real_data / "ombria"
    with Image.open(folder / "OmbriaS1/test/AFTER/S1_after_0013.png") as radar, \
            Image.open(folder / "OmbriaS2/test/AFTER/S2_after_0013.png") as optical:
        for x, y in ((0, 0), (255, 0), (17, 200)):
            assert pair.images["s1"][y, x, 0] == radar.getpixel((x, y))
            assert tuple(pair.images["s2"][y, x]) == optical.getpixel((x, y))
    # A location that is in one split only, for all its dates.
    split_of = {}
    for entry in entries.values():
        assert split_of.setdefault(entry.location_id, entry.split) == entry.split


def test_ombria_tiles_are_after_images_with_their_mask(real_data):
    importer = make("ombria", real_data / "ombria", "tiles", ("s1",))
    entries = by_id(importer)
    assert len(entries) == 315 and all(name.endswith("_after") for name in entries)
    tile = check(importer, entries["ombria_0001_after"], "ombria", "tiles", ("s1",))
    assert set(tile.images) == {"s1"}
    with Image.open(real_data / "ombria/OmbriaS1/train/MASK/S1_mask_0001.png") as image:
        mask = np.asarray(image)
    np.testing.assert_array_equal(tile.label, np.where(mask == 255, 1, 0))
    assert 0 < tile.label.mean() < 1


def test_ombria_tiles_may_hold_the_images_before_the_flood(real_data):
    features = ("s1", "s2", "s1_before", "s2_before")
    importer = make("ombria", real_data / "ombria", "tiles", features)
    entries = by_id(importer)
    assert len(entries) == 315
    tile = check(importer, entries["ombria_0001_after"], "ombria", "tiles", features)
    for feature, file in (("s1", "OmbriaS1/train/AFTER/S1_after"), ("s1_before", "OmbriaS1/train/BEFORE/S1_before"),
                          ("s2", "OmbriaS2/train/AFTER/S2_after"), ("s2_before", "OmbriaS2/train/BEFORE/S2_before")):
        with Image.open(real_data / "ombria" / f"{file}_0001.png") as image:
            np.testing.assert_array_equal(tile.images[feature].squeeze(), np.asarray(image), err_msg=feature)
    default, both = (make_config("ombria", "tiles", sensors=sensors) for sensors in ((), features))
    assert (default.name, both.name) == ("ombria", "ombria_s1_s2_s1_before_s2_before")
    assert both.sensors == dict(zip(features, ("ombria_s1", "ombria_s2") * 2, strict=True))
    assert make_config("ombria", "tiles", sensors=("ombria_s1",)).sensors == {"s1": "ombria_s1"}


def test_ombria_names_missing_folders_partners_and_bad_files(real_data, tmp_path):
    with pytest.raises(UserError, match="OmbriaS1/train/BEFORE' is missing; --raw must name"):
        next(make("ombria", tmp_path).entries())
    for split in ("train", "test"):
        for when in ("BEFORE", "AFTER"):
            for s in ("S1", "S2"):
                (tmp_path / f"Ombria{s}" / split / when).mkdir(parents=True)
    source = real_data / "ombria"
    s1 = tmp_path / "OmbriaS1/train/BEFORE/S1_before_0001.png"
    s2 = tmp_path / "OmbriaS2/train/BEFORE/S2_before_0001.png"
    shutil.copy(source / "OmbriaS1/train/BEFORE/S1_before_0001.png", s1)
    other = tmp_path / "OmbriaS2/test/AFTER/S2_after_0002.png"
    shutil.copy(source / "OmbriaS2/test/AFTER/S2_after_0013.png", other)
    s1_name, s2_name = "OmbriaS1/train/BEFORE/S1_before_0001.png", "OmbriaS2/train/BEFORE/S2_before_0001.png"
    assert list(make("ombria", tmp_path).entries()) == [
        Reject("ombria_0001_before", f"'{s1_name}' has no partner '{s2_name}'"),
        Reject("ombria_0002_after", "'OmbriaS2/test/AFTER/S2_after_0002.png' has no partner "
                                    "'OmbriaS1/test/AFTER/S1_after_0002.png'")]
    other.unlink()
    with pytest.raises(UserError, match="OmbriaS1/train/MASK' is missing"):
        next(make("ombria", tmp_path, "tiles", ("s1",)).entries())
    s2.write_bytes((source / "OmbriaS2/train/BEFORE/S2_before_0001.png").read_bytes()[:5000])
    importer = make("ombria", tmp_path)
    with pytest.raises(UserError, match="S2_before_0001.png' cannot be read as PNG"):
        importer.read(next(importer.entries()))
    shutil.copy(s1, s2)
    with pytest.raises(UserError, match="S2_before_0001.png' has mode L, expected RGB"):
        importer.read(next(importer.entries()))


# Sen1Floods11

@pytest.fixture
def floods(real_data):
    return real_data / "sen1floods11"


def hand(root, layer, chip):
    return root / "data/flood_events/HandLabeled" / layer / f"{chip}_{layer}.tif"


def test_sen1floods11_turns_away_what_cannot_be_used_and_says_why(floods):
    importer = make("sen1floods11", floods, "tiles", ("s1",))
    entries = by_id(importer)
    assert len(entries) == 11 and all(isinstance(entry, Entry) and entry.split == "" for entry in entries.values())
    with pytest.raises(UserError, match="Paraguay_34417': s1 is without data in every pixel"):
        check(importer, entries["Paraguay_34417"], "sen1floods11", "tiles", ("s1",))
    assert (importer.read(entries["Ghana_83483"]).label == 255).all()  # -1 everywhere; the build leaves it out
    usable = set(entries) - {"Paraguay_34417"}
    for chip in usable:
        check(importer, entries[chip], "sen1floods11", "tiles", ("s1",))
    with_s2 = by_id(make("sen1floods11", floods, "tiles"))
    assert {chip for chip, item in with_s2.items() if isinstance(item, Entry)} == {"Spain_7370579"}
    assert {item for item in with_s2.values() if isinstance(item, Reject)} == {
        Reject(chip, "no S2Hand image") for chip in set(entries) - {"Spain_7370579"}}


def test_sen1floods11_tiles_are_the_files_pixels(floods):
    importer = make("sen1floods11", floods, "tiles")
    entries = by_id(importer)
    tile = check(importer, entries["Spain_7370579"], "sen1floods11", "tiles")
    with rasterio.open(hand(floods, "S1Hand", "Spain_7370579")) as file:
        vv, vh, bounds = file.read(1), file.read(2), file.bounds
        assert file.descriptions[:2] == ("VV", "VH")
    np.testing.assert_allclose(tile.images["s1"][..., 0], vv * 100, atol=0.51)
    np.testing.assert_allclose(tile.images["s1"][..., 1], vh * 100, atol=0.51)
    with rasterio.open(hand(floods, "S2Hand", "Spain_7370579")) as file:
        for band, name in enumerate(SENSORS["s2_l1c"].bands):
            np.testing.assert_array_equal(tile.images["s2"][..., band], file.read(band + 1))
            assert file.descriptions[band].replace("B", "").lstrip("0") == name.replace("B", "").lstrip("0")
    with rasterio.open(hand(floods, "LabelHand", "Spain_7370579")) as file:
        raw = file.read(1)
    for value, stored in ((-1, 255), (0, 0), (1, 1)):
        assert (raw == value).any() and (tile.label[raw == value] == stored).all()
    assert bounds.bottom < tile.lat < bounds.top and bounds.left < tile.lon < bounds.right
    assert tile.times["s2"] - tile.times["s1"] == 86400 and tile.times["s1"] == 1568678400  # 2019-09-17, 2019-09-18


def test_sen1floods11_nan_in_one_band_is_no_data_and_ignored(floods, tmp_path):
    for layer in ("S1Hand", "LabelHand"):
        hand(tmp_path, layer, "x").parent.mkdir(parents=True)
        shutil.copy(hand(floods, layer, "Mekong_333434"), hand(tmp_path, layer, "Mekong_1"))
    with rasterio.open(hand(floods, "S1Hand", "Mekong_333434")) as file:
        profile, radar = file.profile, file.read()
    radar[1, 5:9, 7] = np.nan
    with rasterio.open(hand(tmp_path, "S1Hand", "Mekong_1"), "w", **profile) as file:
        file.write(radar)
    importer = make("sen1floods11", tmp_path, "tiles", ("s1",))
    tile = check(importer, next(importer.entries()), "sen1floods11", "tiles", ("s1",))
    with rasterio.open(hand(floods, "LabelHand", "Mekong_333434")) as file:
        raw = file.read(1)
    assert (raw[5:9, 7] != -1).any()
    expected = np.where(raw == -1, 255, raw)
    expected[5:9, 7] = 255
    np.testing.assert_array_equal(tile.label, expected)
    assert (tile.images["s1"][5:9, 7] == -32768).all() and (tile.images["s1"] == -32768).sum() == 8
    assert tile.times == {"s1": 1533427200}  # the event is Cambodia, 2018-08-05; no S2 image stored


def test_sen1floods11_takes_the_official_splits(floods, tmp_path):
    shutil.copytree(floods, tmp_path / "v1.1")
    folder = tmp_path / "v1.1/splits/flood_handlabeled"
    folder.mkdir(parents=True)
    for name, chip in (("train", "Spain_7370579"), ("valid", "India_900498"), ("test", "Ghana_53713"),
                       ("bolivia", "Somalia_699062")):
        (folder / f"flood_{name}_data.csv").write_text(f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n")
    entries = by_id(make("sen1floods11", tmp_path, "tiles", ("s1",)))
    assert {chip: entries[chip].split for chip in ("Spain_7370579", "India_900498", "Ghana_53713", "Somalia_699062")} \
        == {"Spain_7370579": "train", "India_900498": "validation", "Ghana_53713": "test", "Somalia_699062": "bolivia"}
    assert entries["Sri-Lanka_534068"].split == ""


@pytest.mark.parametrize("deep, splits, raw", [
    ("", "", ""), ("v1.1", "v1.1", ""), ("v1.1", "", ""), ("", "", "data/flood_events/HandLabeled")])
@pytest.mark.parametrize("flat", [False, True])
def test_sen1floods11_finds_the_splits_beside_each_layout(floods, tmp_path, deep, splits, raw, flat):
    chip = "Spain_7370579"
    for layer in ("S1Hand", "LabelHand"):
        path = hand(tmp_path / deep, layer, chip)
        if flat and not raw:
            path = tmp_path / "HandLabeled" / layer / path.name
        path.parent.mkdir(parents=True)
        shutil.copy(hand(floods, layer, chip), path)
    table = tmp_path / splits / "splits/flood_handlabeled/flood_test_data.csv"
    table.parent.mkdir(parents=True)
    table.write_text(f"{chip}_S1Hand.tif,{chip}_LabelHand.tif\n")
    importer = make("sen1floods11", tmp_path / raw, "tiles", ("s1",))
    (entry,) = importer.entries()
    assert entry.split == "test"
    tile = check(importer, entry, "sen1floods11", "tiles", ("s1",))
    assert entry.lat == pytest.approx(38, abs=2) and (tile.lat, tile.lon) == (entry.lat, entry.lon)


def test_sen1floods11_names_bad_input(floods, tmp_path):
    with pytest.raises(UserError, match="S1Hand' is missing; --raw must name the folder of Sen1Floods11"):
        make("sen1floods11", tmp_path, "tiles", ("s1",))
    for layer in ("S1Hand", "LabelHand"):
        hand(tmp_path, layer, "x").parent.mkdir(parents=True)
    with pytest.raises(UserError, match="S2Hand' is missing; fetch that layer .* or leave s2 out"):
        make("sen1floods11", tmp_path, "tiles")
    s1, label = hand(tmp_path, "S1Hand", "Ghana_53713"), hand(tmp_path, "LabelHand", "Ghana_53713")
    shutil.copy(hand(floods, "S1Hand", "Ghana_53713"), s1)
    assert list(make("sen1floods11", tmp_path, "tiles", ("s1",)).entries()) == [
        Reject("Ghana_53713", "no LabelHand image")]
    shutil.copy(hand(floods, "LabelHand", "Ghana_53713"), label)
    s1.chmod(0o644)
    s1.write_bytes(s1.read_bytes()[:900_000])
    importer = make("sen1floods11", tmp_path, "tiles", ("s1",))
    entry = next(importer.entries())
    with pytest.raises(UserError, match="Ghana_53713_S1Hand.tif' cannot be read as GeoTIFF .* truncated") as error:
        importer.read(entry)
    assert "\n" not in str(error.value)
    shutil.copy(label, hand(tmp_path, "S1Hand", "Ghana_53713"))
    with pytest.raises(UserError, match="has 1 bands, 2 expected"):
        importer.read(entry)
    s1.unlink()
    items = list(make("sen1floods11", tmp_path, "tiles", ("s1",)).entries())
    assert items == [Reject("Ghana_53713", "no S1Hand image")]


def test_sen1floods11_optical_tiles_do_without_radar(floods, tmp_path):
    for layer in ("S2Hand", "LabelHand"):
        hand(tmp_path, layer, "x").parent.mkdir(parents=True)
        shutil.copy(hand(floods, layer, "Spain_7370579"), hand(tmp_path, layer, "Spain_7370579"))
    path = hand(tmp_path, "S2Hand", "Spain_7370579")
    path.chmod(0o644)
    with rasterio.open(path, "r+") as file:
        optical = file.read()
        optical[:, 7, :30] = 0
        file.write(optical)
    importer = make("sen1floods11", tmp_path, "tiles", ("s2",))
    tile = check(importer, next(importer.entries()), "sen1floods11", "tiles", ("s2",))
    assert tile.times == {"s2": 1568764800} and tile.lat == pytest.approx(38, abs=2)
    assert (tile.label[7, :30] == 255).all() and not (tile.label[6, :30] == 255).all()


# npz

def test_npz_reads_the_real_pairs(real_data):
    importer = make("npz", real_data / "bigearthnet")
    entries = list(importer.entries())
    assert len(entries) == 115
    with np.load(real_data / "bigearthnet" / "pairs.npz") as file:
        ids, s1, s2 = file["id"], file["s1_cdb"], file["s2"]
        vv, b8a = file["s1_bands"].tolist().index("VV"), file["s2_bands"].tolist().index("B8A")
    for row in (0, 57, 114):
        assert entries[row].id == ids[row]
        pair = check(importer, entries[row], "npz", "pairs")
        np.testing.assert_array_equal(pair.images["s1"][..., 0], s1[row, vv])
        np.testing.assert_array_equal(pair.images["s2"][..., SENSORS["s2_l2a"].bands.index("B8A")], s2[row, b8a])
        assert pair.times == {} and np.isnan(pair.lat)


@pytest.fixture
def own(tmp_path):
    """Arrays of a small .npz with shuffled bands, and a function that writes them and opens the importer."""
    random = np.random.default_rng(0)
    s1 = random.normal(-15, 5, (3, 2, 10, 10)).astype(np.float32)
    s1[0, 0, 0, 0] = np.nan
    arrays = {"id": np.array(["a", "b", "c"]), "s1": s1, "s1_bands": np.array(["VH", "VV"]),
              "s2": random.integers(1, 9000, (3, 13, 10, 10), np.uint16),
              "s2_bands": np.array(SENSORS["s2_l1c"].bands[::-1])}

    def write(kind="pairs", features=BOTH, **changes):
        np.savez(tmp_path / "own.npz", **{k: v for k, v in (arrays | changes).items() if v is not None})
        return make("npz", tmp_path, kind, features)
    return arrays, write


def test_npz_picks_bands_by_name_and_rounds_decibels(own):
    arrays, write = own
    importer = write(s1_time=np.array([1, 2, 3]), lat=np.array([1.5, 2.5, 3.5]), split=np.array(["train", "", "test"]),
                     location_id=np.array(["x", "x", "y"]))
    entries = list(importer.entries())
    assert [(e.location_id, e.split) for e in entries] == [("x", "train"), ("x", ""), ("y", "test")]
    pair = check(importer, entries[1], "npz", "pairs")
    # VV stands second in the file.
    np.testing.assert_allclose(pair.images["s1"][..., 0], arrays["s1"][1, 1] * 100, atol=0.51)
    for band, name in enumerate(SENSORS["s2_l1c"].bands):
        np.testing.assert_array_equal(pair.images["s2"][..., band], arrays["s2"][1, 12 - band], err_msg=name)
    assert (pair.times, pair.lat) == ({"s1": 2}, 2.5)
    assert (importer.read(entries[0]).images["s1"][0, 0] == -32768).all()


def test_npz_with_some_bands_makes_a_sensor_of_them(own, tmp_path):
    arrays, write = own
    names = arrays["s2_bands"].tolist()
    rgb = [names.index(band) for band in ("B04", "B02", "B03")]
    importer = write(s2=arrays["s2"][:, rgb], s2_bands=arrays["s2_bands"][rgb], s1=arrays["s1"][:, 1:],
                     s1_bands=arrays["s1_bands"][1:])
    layout = importers.load("npz").layout("pairs", importer._raw)
    assert layout.sensors == {"s1": ("s1_grd:VV",), "s2": ("s2_l2a:B02+B03+B04",)}  # no B10: L2A, as for all bands
    pair = check(importer, next(iter(importer.entries())), "npz", "pairs")
    for band, name in enumerate(("B02", "B03", "B04")):
        np.testing.assert_array_equal(pair.images["s2"][..., band], arrays["s2"][0, names.index(name)])
    config = make_config("npz", "pairs", raw=tmp_path, sensors=("s1", "s2_l2a:B04+B03"))
    assert config.name == "npz_s1_s2_l2a-B03-B04" and config.facts()["sensors"]["s2"]["bands"] == ["B03", "B04"]
    assert config.facts()["sensors"]["s2"]["mean"] == list(SENSORS["s2_l2a"].mean[2:4])
    for wanted, message in (("s2_l2a:B08", "bands 'B08' are no part of sensor 's2_l2a:B02"),
                            ("s2_l1c:B04", "has no image 's2_l1c:B04'")):
        with pytest.raises(UserError, match=message):
            make_config("npz", "pairs", raw=tmp_path, sensors=("s1", wanted))
    with pytest.raises(UserError, match="importer 'bigearthnet' has no image 's2_l2a:B04'"):
        make_config("bigearthnet", "pairs", sensors=("s1", "s2_l2a:B04"))


def test_npz_pixel_without_one_radar_band_has_none(own):
    _, write = own
    stored = np.full((3, 2, 10, 10), -900, np.int16)
    stored[1, 0, 4, 5] = -32768
    importer = write(s1=None, s1_cdb=stored)
    pair = importer.read(list(importer.entries())[1])
    assert (pair.images["s1"][4, 5] == -32768).all() and (pair.images["s1"] == -32768).sum() == 2


def test_npz_tiles_may_hold_one_sensor(own):
    _, write = own
    label = np.zeros((3, 10, 10), np.uint8)
    label[2] = 255
    importer = write("tiles", ("s1",), s2=None, s2_bands=None, label=label, classes=np.array(["no", "yes"]),
                     s1_sensor=np.array("s1_rtc"))
    layout = importers.load("npz").layout("tiles", importer._raw)
    assert layout.sensors == {"s1": ("s1_rtc",)} and layout.classes == ("no", "yes") and layout.size == 10
    tile = check(importer, list(importer.entries())[2], "npz", "tiles", ("s1",))
    np.testing.assert_array_equal(tile.label, label[2])


def test_npz_tiles_may_hold_images_before_a_change(own):
    arrays, write = own
    features = ("s1", "s2", "s1_before", "s2_before")
    stored = np.full((3, 2, 10, 10), -900, np.int16)
    stored[:, 1] = -700
    importer = write("tiles", features, s1_before_cdb=stored, s2_before=arrays["s2"] + 1,
                     label=np.zeros((3, 10, 10), np.uint8), classes=np.array(["no", "yes"]))
    assert importers.load("npz").layout("tiles", importer._raw).default == features
    tile = check(importer, list(importer.entries())[1], "npz", "tiles", features)
    assert (tile.images["s1_before"] == [-700, -900]).all()
    np.testing.assert_array_equal(tile.images["s2_before"], tile.images["s2"] + 1)
    importer = write("tiles", features, s1_before=np.zeros((3, 2, 10, 10), np.int16), s2_before=arrays["s2"],
                     label=np.zeros((3, 10, 10), np.uint8), classes=np.array(["no", "yes"]))
    with pytest.raises(UserError, match="s1_before is int16, expected float dB; name hundredths of dB 's1_before_cdb'"):
        importer.read(list(importer.entries())[1])


@pytest.mark.parametrize("changes, message", [
    ({"s1_bands": np.array(["VV", "HH"])}, "s1_bands: the bands VV HH lack VH of sensor 's1_grd', and HH is none"),
    ({"s2_bands": np.array(["B02"] * 13)}, "B02 is there twice"),
    ({"id": np.array(["a", "b"])}, "s1 has 3 entries, id has 2"),
    ({"id": None}, "lacks the array 'id'"),
    ({"location_id": np.array(["x"])}, "location_id has 1 entries, id has 3"),
    ({"lat": np.array(1.5)}, "lat has 1 entries, id has 3"),
    ({"s1": np.zeros((3, 2, 10, 10), np.int32)}, "s1 is int32, expected float dB"),
    ({"s2": None, "s2_bands": None}, r"holds only \['s1'\] .* pairs need s1 and s2"),
    ({"s1_time": np.array([1.5e9] * 3)}, "s1_time is float64, expected integers, Unix seconds"),
    ({"s2_time": np.array(["2020-06-07"] * 3, "M8[s]")}, r"s2_time is datetime64\[s\], expected integers"),
    ({"s1_time": np.array([1591492080000] * 3)}, "s1_time holds 1591492080000, expected Unix seconds; divide"),
    ({"lat": np.array(["47 N"] * 3)}, "lat is <U4, expected degrees"),
    ({"split": np.array([b"train"] * 3)}, r"split is \|S5, expected text"),
    ({"id": np.array([{}, {}, {}])}, "cannot be read as .npz .* no object arrays"),
])
def test_npz_names_bad_arrays(own, changes, message):
    _, write = own
    with pytest.raises(UserError, match=message) as error:
        importer = write(**changes)
        importer.read(next(importer.entries()))
    assert "own.npz" in str(error.value) and "\n" not in str(error.value)


def test_npz_names_bad_folders(own, tmp_path):
    _, write = own
    with pytest.raises(UserError, match="holds no .npz file"):
        make("npz", tmp_path)
    write()
    with pytest.raises(UserError, match=f"is a file; --raw must name the folder that holds it, '{tmp_path}'"):
        make("npz", tmp_path / "own.npz")
    with pytest.raises(UserError, match="lacks the arrays label and classes"):
        make("npz", tmp_path, "tiles")
    with pytest.raises(UserError, match="no fixed sensors and size"):
        importers.load("npz").layout("pairs", None)
    whole = (tmp_path / "own.npz").read_bytes()
    np.savez(tmp_path / "second.npz", id=np.array(["d"]), s1=np.zeros((1, 2, 10, 10), np.float32),
             s1_bands=np.array(["VV", "VH"]))
    with pytest.raises(UserError, match="second.npz' holds .*keep files of different sensors"):
        list(make("npz", tmp_path).entries())
    (tmp_path / "own.npz").write_bytes(whole[:3000])
    with pytest.raises(UserError, match="own.npz' cannot be read as .npz"):
        make("npz", tmp_path)


def test_npz_names_damage_inside_a_compressed_array(own, tmp_path):
    arrays, write = own
    write()
    entry = next(make("npz", tmp_path).entries())
    few = {name: np.full_like(array, 7) if name in ("s1", "s2") else array for name, array in arrays.items()}
    np.savez_compressed(tmp_path / "own.npz", **few)
    whole = (tmp_path / "own.npz").read_bytes()
    importer = make("npz", tmp_path)
    for at in range(whole.index(b"s1.npy") + 40, whole.index(b"s1_bands.npy") - 40):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        (tmp_path / "own.npz").write_bytes(damaged)
        with pytest.raises(UserError, match="own.npz' cannot be read as .npz"):
            importer.read(entry)
