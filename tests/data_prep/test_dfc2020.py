"""DFC2020: the contest's folders, the later release by place, the form of Copernicus-Bench; classes and splits."""

import math
import pathlib
import warnings

import numpy as np
import pytest
import rasterio

from data_prep import record
from data_prep.importers import Entry, Reject, dfc2020
from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick

SPECS = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l1c"]}
LAYERS = {"s1": (2, np.float64), "s2": (13, np.uint16), "dfc": (1, np.int32)}


def make(raw, kind="tiles", features=("s1", "s2")):
    return dfc2020.Importer(pathlib.Path(raw), kind, {feature: SPECS[feature].name for feature in features})


def write(path, array):
    """Writes [bands, height, width] with the void georeference of the published files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", count=array.shape[0], height=array.shape[1], dtype=array.dtype,
                           width=array.shape[2], crs="EPSG:4326") as file:
            file.write(array)


def fill(folder_of, season, scene, number, value=5):
    """A patch whose images tell its number; `folder_of`: layer -> folder."""
    for layer, (bands, dtype) in LAYERS.items():
        filling = {"s1": -number - 0.25, "s2": number + 1, "dfc": value}[layer]
        write(folder_of(layer) / f"{season}_{layer}_{scene}_p{number}.tif", np.full((bands, 256, 256), filling, dtype))


@pytest.fixture
def official(tmp_path):
    for season, scene, numbers in (("ROIs0000_validation", "validation", (0, 10)), ("ROIs0000_test", "0", (0, 7))):
        for number in numbers:
            # The folder of the validation patches is called _validation, their files are called _0.
            fill(lambda layer, season=season, scene=scene: tmp_path / season / f"{layer}_{scene}", season, "0", number)
    return tmp_path


@pytest.fixture
def bench(tmp_path):
    folder = tmp_path / "dfc2020_s1s2"
    for number in (5, 6, 7, 8):
        fill(lambda layer: folder / layer, "ROIs0000_test", "0", number)
    for split, number in (("train", 7), ("val", 5), ("test", 6)):
        (folder / f"dfc-{split}-new.csv").write_text(f"ROIs0000_test_dfc_0_p{number}.tif\n")
    return folder


def test_official_folders(official):
    importer = make(official)
    entries = list(importer.entries())
    assert [(entry.id, entry.split) for entry in entries] == [
        ("ROIs0000_test_0_p0", "test"), ("ROIs0000_test_0_p7", "test"), ("ROIs0000_validation_0_p0", "validation"),
        ("ROIs0000_validation_0_p10", "validation")]
    assert {entry.block for entry in entries} == {""}  # the scene is not known
    for entry in entries:
        tile, number = make(official).read(entry), int(entry.id.rsplit("_p", 1)[1])
        record.check(tile, SPECS, 256, LabelSpec("pixel_classes", dfc2020.CLASSES))
        assert (tile.images["s1"] == -100 * number - 25).all()  # not whole dB
        assert (tile.images["s2"] == number + 1).all() and (tile.label == 3).all()
        assert math.isnan(tile.lat) and math.isnan(tile.lon)  # 128 degrees north, would the files have it


def test_classes(official):
    path = official / "ROIs0000_test" / "dfc_0" / "ROIs0000_test_dfc_0_p7.tif"
    values = (np.arange(256)[None, :, None] // 24 * np.ones((1, 1, 256))).astype(np.int32)  # 0 .. 10
    write(path, values)
    importer = make(official)
    entry = {entry.id: entry for entry in importer.entries()}["ROIs0000_test_0_p7"]
    tile = importer.read(entry)
    classes = dfc2020.Importer.layout("tiles").classes
    names = {1: "forest", 2: "shrubland", 4: "grassland", 5: "wetland", 6: "cropland", 7: "urban", 9: "barren",
             10: "water"}
    for value in range(11):
        label = set(tile.label[values[0] == value].tolist())
        assert label == ({classes.index(names[value])} if value in names else {255}), value
    assert len(classes) == 8
    write(path, np.full((1, 256, 256), 12, np.int32))  # IGBP, not a class of the contest
    with pytest.raises(UserError, match=r"_dfc_0_p7.tif' holds values \[12\] that are no class"):
        importer.read(entry)
    write(path, np.full((1, 256, 256), 8, np.int32))
    assert (importer.read(entry).label == 255).all()  # the build leaves it out
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="_dfc_0_p7.tif' cannot be read as GeoTIFF"):
        importer.read(entry)


@pytest.mark.parametrize("inside", (False, True))
def test_copernicus_bench_has_splits_of_its_own(bench, inside):
    raw = bench if inside else bench.parent
    importer = make(raw)
    entries = {entry.id: entry for entry in importer.entries()}
    assert {name: entry.split for name, entry in entries.items()} == {
        "ROIs0000_test_0_p5": "validation", "ROIs0000_test_0_p6": "test", "ROIs0000_test_0_p7": "train",
        "ROIs0000_test_0_p8": ""}  # all of them are of the contest's test folder
    for number in (5, 6, 7):
        tile = make(raw).read(entries[f"ROIs0000_test_0_p{number}"])
        record.check(tile, SPECS, 256, LabelSpec("pixel_classes", dfc2020.CLASSES))
        assert (tile.images["s1"] == -100 * number - 25).all() and (tile.images["s2"] == number + 1).all()
        assert tile.location_id == f"ROIs0000_test_0_p{number}"
    (bench / "s1" / "ROIs0000_test_s1_0_p5.tif").unlink()
    items = {item.id: item for item in make(raw).entries()}
    assert isinstance(items["ROIs0000_test_0_p5"], Reject) and "layer 's1'" in items["ROIs0000_test_0_p5"].reason
    assert isinstance(next(make(raw, "tiles", ("s2",)).entries()), Entry)
    (bench / "dfc-val-new.csv").unlink()
    with pytest.raises(UserError, match="dfc-val-new.csv' is missing; it is a list of patches in the archive"):
        next(make(raw).entries())


def test_release_by_place(tmp_path):
    for season, scene in (("ROIs0000_autumn", "CapeTown"), ("ROIs0000_winter", "MexicoCity")):
        for number in (63, 440):
            fill(lambda layer, top=tmp_path / season, scene=scene: top / f"{layer}_{scene}", season, scene, number)
    entries = list(make(tmp_path).entries())
    assert [(entry.id, entry.block, entry.split) for entry in entries][:3] == [
        ("ROIs0000_autumn_CapeTown_p63", "ROIs0000_autumn_CapeTown", ""),
        ("ROIs0000_autumn_CapeTown_p440", "ROIs0000_autumn_CapeTown", ""),
        ("ROIs0000_winter_MexicoCity_p63", "ROIs0000_winter_MexicoCity", "")]
    assert (make(tmp_path).read(entries[1]).images["s2"] == 441).all()


def test_pairs_do_without_labels(official):
    for path in official.rglob("*_dfc_*.tif"):
        path.unlink()
    importer = make(official, "pairs")
    entries = list(importer.entries())
    assert len(entries) == 4
    pair = importer.read(entries[1])
    record.check(pair, SPECS, 256)
    assert (pair.images["s1"] == -725).all() and (pair.images["s2"] == 8).all()
    assert all(isinstance(item, Reject) for item in make(official).entries())  # tiles without labels
    with pytest.raises(UserError, match="holds no folder such as ROIs1158_spring/s1_1"):
        next(make(official / "ROIs0000_test").entries())
