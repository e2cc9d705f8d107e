"""BigEarthNet in all its forms: pairs by table, bands by name, times and places from names, and bad input."""

import dataclasses
import json
import math
import os
import pathlib
import shutil

import lmdb
import numpy as np
import pytest
import rasterio
import safetensors.numpy

from data_prep import record, sample
from data_prep.importers import Entry, Reject, bigearthnet, npz
from data_prep.importers import _bigearthnet_tables as tables
from data_prep.importers import _bigearthnet_v1_labels as v1_labels
from dual_encoder.data.labels import LabelSpec
from dual_encoder.data.manifest import load_info
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.sensors import SENSORS

BOTH = ("s1", "s2")
SPECS = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}
COARSE = {"B01": 6, "B09": 6} | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2)


def open_(raw, kind="pairs", features=BOTH, labels=""):
    return bigearthnet.Importer(pathlib.Path(raw), kind, {feature: SPECS[feature].name for feature in features}, labels)


def over_json(entry):
    """The entry as the process that reads gets it."""
    return Entry(**json.loads(json.dumps(dataclasses.asdict(entry))))


def in_file_order(real_pairs, row):
    """[120, 120, bands] of a row of pairs.npz, bands in our order."""
    s1 = [real_pairs["s1_bands"].tolist().index(band) for band in ("VV", "VH")]
    s2 = [real_pairs["s2_bands"].tolist().index(band) for band in SPECS["s2"].bands]
    return (np.stack([real_pairs["s1_cdb"][row][band] for band in s1], -1),
            np.stack([real_pairs["s2"][row][band] for band in s2], -1))


def test_mini_sets_of_both_forms_merge_by_patch(mini_sets, real_pairs):
    importer = open_(mini_sets)
    entries = list(map(over_json, open_(mini_sets).entries()))
    ids = [str(patch_id) for patch_id in real_pairs["id"][:10]]
    # LMDB by LMDB; what both hold is read from the first one.
    assert [entry.id for entry in entries] == sorted(ids[:6]) + sorted(ids[6:])
    # Rows 4 and 5 are in both wheels; the first one's split holds.
    splits = dict(zip(ids, ["test", "train"] * 3 + ["validation"] * 2 + ["train"] * 2, strict=True))
    assert {entry.id: entry.split for entry in entries} == splits
    for entry in entries:
        pair = importer.read(entry)
        record.check(pair, SPECS, 120)
        s1, s2 = in_file_order(real_pairs, ids.index(entry.id))
        np.testing.assert_array_equal(pair.images["s1"], s1)
        np.testing.assert_array_equal(pair.images["s2"], s2)
        # VV over land is brighter than VH: swapped bands cannot pass.
        assert pair.images["s1"][..., 0].mean() > pair.images["s1"][..., 1].mean() + 300
        assert pair.times == {"s1": 1497286243, "s2": 1497348631}  # 2017-06-12 16:50:43, 2017-06-13 10:10:31
        assert entry.times == {"s1": pair.times["s1"], "s2": pair.times["s2"]} and math.isnan(pair.lat)


def test_mini_sets_have_no_reference_maps(mini_sets):
    with pytest.raises(UserError, match="no tiles; .* give --labels=water_weak"):
        open_(mini_sets, "tiles")


def test_land_cover_of_both_forms_is_that_of_the_tables(mini_sets, real_pairs):
    importer = open_(mini_sets, "tiles", ("s2",), "land_cover")
    spec = importer.layout("tiles").other_labels["land_cover"]
    assert spec == LabelSpec("image_classes", tuple(map(str, real_pairs["classes"]))) and len(spec.classes) == 19
    rows = {str(patch_id): row for row, patch_id in enumerate(real_pairs["id"])}
    entries = list(map(over_json, importer.entries()))
    assert len(entries) == 10
    for entry in entries:
        tile = importer.read(entry)
        record.check(tile, {"s2": SPECS["s2"]}, 120, spec)
        np.testing.assert_array_equal(tile.label, real_pairs["labels"][rows[entry.id]])
        assert list(tile.images) == ["s2"] and tile.label.any()


def test_land_cover_needs_labels_that_are_known(mini_sets, tmp_path):
    shutil.copytree(mini_sets / "configilm-0.6.3", tmp_path / "old")
    names = tmp_path / "old/BENv2/patch_id_label_mapping.csv"
    table = (tmp_path / "old/BENv2/patch_id_s1_mapping.csv").read_text()
    ids = sorted(line.split(",")[0] for line in table.split()[1:])
    names.write_text(f'patch_id,label\n{ids[0]},Marine waters\n{ids[1]},Water courses\n')
    items = {item.id: item for item in open_(tmp_path, "tiles", BOTH, "land_cover").entries()}
    assert items[ids[0]].where["land_cover"] == [18]
    assert "label 'Water courses', which is none of the 19 classes" in items[ids[1]].reason
    assert "gives it no labels" in items[ids[2]].reason
    names.unlink()
    with pytest.raises(UserError, match="patch_id_label_mapping.csv' is missing; it names the land cover"):
        list(open_(tmp_path, "tiles", BOTH, "land_cover").entries())
    assert len(list(open_(tmp_path).entries())) == 6  # pairs need no labels


def test_land_cover_is_built_by_its_name(mini_sets, cli, tmp_path):
    command = "build", "--importer=bigearthnet", f"--raw={mini_sets}", f"--data_dir={tmp_path}"
    process = cli(*command, "--kind=tiles", "--labels=land_cover", "--workers=2")
    assert process.returncode == 0, process.stderr
    info = load_info(tmp_path / "s1s2_tiles/bigearthnet_land_cover/1.0.0")
    assert info.label.kind == "image_classes" and info.label.classes == tables.LAND_COVER
    assert info.source["labels"] == "land_cover" and info.tensors["label"].shape == (19,)
    assert "already built: 10" in cli(*command, "--labels=land_cover").stdout
    for option, message in (("--labels=land_cove", "no labels 'land_cove'; did you mean 'land_cover'?"),
                            ("--size=60", "whose label is that of the whole image; leave --size out")):
        process = cli(*command, "--labels=land_cover", option)
        assert process.returncode == 2 and process.stderr.count("\n") == 1 and message in process.stderr


def test_names_tell_the_place():
    for name in ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_06_57", "S2B_MSIL2A_20180101T101031_R022_T33UUP_6_57"):
        assert tables.place(name) == "T33UUP_6_57"
    # v1 and v2 names of one patch, from the v2 table.
    assert tables.place("S2A_MSIL2A_20171101T94132_0_0", "S1B_IW_GRDH_1SDV_20171101T154016_35VNJ_0_0") \
        == tables.place("S2A_MSIL2A_20171101T094131_N9999_R036_T35VNJ_00_00") == "T35VNJ_0_0"
    for names in (("S2A_MSIL2A_20171101T94132_0_0", "S1B_IW_GRDH"), ("S2A_MSIL2A_20171101T94132", "S1B_35VNJ_0_0")):
        with pytest.raises(UserError, match="name no tile and position; expected"):
            tables.place(*names)


def test_v1_clocks_are_numbers_that_were_counted_up(real_data):
    v2 = tables.optical_time("S2A_MSIL2A_20171101T094131_N9999_R036_T35VNJ_00_00")
    assert tables.optical_time("S2A_MSIL2A_20171101T94132_0_0") == v2 + 1  # the same image
    assert tables.optical_time("S2B_MSIL2A_20180204T94161_57_38") == 1517737319  # 09:41:59, from 94159 + 2
    assert tables.optical_time("S2B_MSIL2A_20180204T101060_57_38") == 1517739059
    with pytest.raises(UserError, match="'20180204T96100' .*is no time"):
        tables.optical_time("S2B_MSIL2A_20180204T96100_57_38")
    with np.load(real_data / "bigearthnet" / "pairs.npz") as file:
        for name in file["id"]:
            assert 1496275200 <= tables.optical_time(str(name)) < 1527811200  # June 2017 to May 2018


def test_wheels_give_the_pairs_that_are_in_pairs_npz(real_data, real_pairs, tmp_path):
    folder = pathlib.Path(os.environ.get("S1S2_WHEELS", ""))
    wheels = sorted(folder.glob("configilm-*.whl")) if os.environ.get("S1S2_WHEELS") else []
    if not wheels:
        pytest.skip("S1S2_WHEELS names no folder with configilm wheels")
    assert sample.fetch(tmp_path, wheels)
    radar = {}
    for path in tmp_path.rglob("BigEarthNet-V2-LMDB"):
        with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
            radar |= {bytes(key).decode(): safetensors.numpy.load(bytes(value)) for key, value in transaction.cursor()}
    importer, independent = open_(tmp_path), npz.Importer(real_data / "bigearthnet", "pairs",
                                                          {feature: spec.name for feature, spec in SPECS.items()})
    others = {entry.id: entry for entry in independent.entries()}
    entries = list(importer.entries())
    assert {entry.id for entry in entries} == set(map(str, real_pairs["id"])) and len(entries) == 32
    for entry in entries:
        pair, other = importer.read(entry), independent.read(others[entry.id])
        # pairs.npz was rounded in float32, where a value can fall on the other side of a half.
        ours, theirs = pair.images["s1"], other.images["s1"]
        assert np.abs(ours.astype(int) - theirs).max() <= 1 and (ours != theirs).mean() < 1e-3
        np.testing.assert_array_equal(pair.images["s2"], other.images["s2"])
        bands = radar[entry.where["s1_name"]]
        for y, x in ((0, 0), (119, 3), (60, 60)):
            assert pair.images["s1"][y, x].tolist() == [round(float(bands[name][y, x]) * 100) for name in ("VV", "VH")]
        assert 0 < abs(pair.times["s1"] - pair.times["s2"]) < 2 * 86400
        assert entry.split in ("train", "validation", "test")
    assert {entry.split for entry in entries} == {"train", "validation", "test"}


# The archive's folders

def write_tiff(path, array, top_left, pixel):
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", width=array.shape[1], height=array.shape[0], count=1,
                       dtype=array.dtype, crs="EPSG:32633",
                       transform=rasterio.Affine(pixel, 0, top_left[0], 0, -pixel, top_left[1])) as file:
        file.write(array, 1)


@pytest.fixture
def archive(real_data, real_pairs, tmp_path):
    """Rows 0 to 2 in the v2 layout (row 0 with its real reference map), and a table with two rows more."""
    from pyarrow import parquet, table

    raw, names = tmp_path / "archive", {}
    for row in range(3):
        patch_id = str(real_pairs["id"][row])
        # The radar's name order is the reverse of the optical one: pairing by list order would be wrong.
        s1_name = f"S1B_IW_GRDH_1SDV_20170612T165809_33UUP_{9 - row}_0"
        names[patch_id] = s1_name
        s1, s2 = in_file_order(real_pairs, row)
        column, line = map(int, patch_id.split("_")[-2:])
        corner = 300000 + 1200 * column, 5400000 - 1200 * line
        for band, name in enumerate(("VV", "VH")):
            write_tiff(raw / "BigEarthNet-S1" / "S1B_IW_GRDH_1SDV_20170612T165809" / s1_name / f"{s1_name}_{name}.tif",
                       s1[..., band] * np.float32(0.01), corner, 10)
        for band, name in enumerate(SPECS["s2"].bands):
            step = COARSE.get(name, 1)
            write_tiff(raw / "BigEarthNet-S2" / patch_id.rsplit("_", 2)[0] / patch_id / f"{patch_id}_{name}.tif",
                       s2[::step, ::step, band], corner, 10 * step)
    shutil.copytree(real_data / "bigearthnet" / "Reference_Maps", raw / "Reference_Maps")
    absent = {str(real_pairs["id"][row]): f"S1A_IW_GRDH_1SDV_20170612T165809_33UUP_{row}_1" for row in (3, 4)}
    ids = list(names | absent)
    parquet.write_table(table({"patch_id": ids, "s1_name": list((names | absent).values()), "split": ["train"] * 5}),
                        raw / "metadata.parquet")
    return raw


def test_archive_pairs_by_table(archive, real_pairs, capsys):
    entries = list(map(over_json, open_(archive).entries()))
    assert "left out 2 of 5 table rows: no patch is on disk" in capsys.readouterr().out
    ids = [str(patch_id) for patch_id in real_pairs["id"][:3]]
    assert [entry.id for entry in entries] == sorted(ids)
    importer = open_(archive)
    for entry in entries:
        pair = importer.read(entry)
        s1, s2 = in_file_order(real_pairs, ids.index(entry.id))
        np.testing.assert_array_equal(pair.images["s1"], s1)
        np.testing.assert_array_equal(pair.images["s2"], s2)
        assert 47 < pair.lat < 49 and 12 < pair.lon < 15  # Austria
        assert pair.times["s1"] == entry.times["s1"] == 1497286689 and pair.source == "BigEarthNet v2"
        centre = raster.centre(archive / entry.where["s2"] / f"{entry.id}_B02.tif")
        assert (entry.lat, entry.lon) == (pair.lat, pair.lon) == pytest.approx(centre, abs=1e-7)


def test_archive_tiles_take_the_reference_map(archive, real_data):
    importer = open_(archive, "tiles")
    entry = next(entry for entry in importer.entries() if entry.id.endswith("_26_57"))
    tile = importer.read(entry)
    record.check(tile, SPECS, 120, LabelSpec("pixel_classes", bigearthnet.CORINE_LEVEL_1))
    path = next((real_data / "bigearthnet" / "Reference_Maps").rglob("*.tif"))
    with rasterio.open(path) as file:
        codes = file.read(1)
    assert all(100 <= code < 600 for code in np.unique(codes))
    assert all(tile.label[y, x] == int(str(codes[y, x])[0]) - 1 for y in range(0, 120, 7) for x in range(120))
    assert bigearthnet._level_1(np.array([111, 523, 999, 0])).tolist() == [0, 4, 255, 255]


def test_archive_tiles_of_one_sensor_need_the_other_neither(archive):
    shutil.rmtree(archive / "BigEarthNet-S1")
    importer = open_(archive, "tiles", ("s2",))
    entries = list(importer.entries())
    tile = importer.read(next(entry for entry in entries if entry.id.endswith("_26_57")))
    record.check(tile, {"s2": SPECS["s2"]}, 120, LabelSpec("pixel_classes", bigearthnet.CORINE_LEVEL_1))
    assert len(entries) == 3 and tile.times == {"s2": 1497348631} and tile.lat > 47


def test_pixels_without_an_image_are_ignored(archive):
    entry = next(entry for entry in open_(archive, "tiles").entries() if entry.id.endswith("_26_57"))
    path = archive / entry.where["s1"] / f"{entry.where['s1_name']}_VH.tif"
    with rasterio.open(path, "r+") as file:
        vh = file.read(1)
        vh[3, 4:9] = np.nan
        file.write(vh, 1)
    tile = open_(archive, "tiles").read(entry)
    assert (tile.images["s1"] == -32768).sum() == 10  # both bands
    assert (tile.label[3, 4:9] == 255).all() and (tile.label == 255).sum() == 5


def test_the_grid_of_a_tile_is_that_of_the_real_files(real_data, tmp_path):
    """One real S2 patch tells where the real S1 patch and the real map are, 33 and 79 km away."""
    from pyarrow import parquet, table

    real = real_data / "bigearthnet"
    shutil.copytree(real, tmp_path, ignore=shutil.ignore_patterns("*.npz"), dirs_exist_ok=True)
    scene = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
    ids = [f"{scene}_{position}" for position in ("26_57", "70_48", "75_43")]
    names = [f"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{position}" for position in ("26_57", "70_48", "75_43")]
    for patch_id, name in zip(ids, names, strict=True):
        (tmp_path / "BigEarthNet-S2" / scene / patch_id).mkdir(exist_ok=True)
        (tmp_path / "BigEarthNet-S1" / "S1A_IW_GRDH_1SDV_20170613T165043" / name).mkdir(exist_ok=True)
    parquet.write_table(table({"patch_id": ids[::-1], "s1_name": names[::-1], "split": ["train"] * 3}),
                        tmp_path / "metadata.parquet")
    entries = list(open_(tmp_path).entries())
    assert [entry.id for entry in entries] == ids
    for entry, file in zip(entries, ("*_26_57_reference_map.tif", "*_70_48_VV.tif", "*_75_43_B02.tif"), strict=True):
        assert (entry.lat, entry.lon) == pytest.approx(raster.centre(next(real.rglob(file))), abs=1e-7)
    assert 60_000 < 111_000 * math.dist((entries[0].lat, 0.67 * entries[0].lon),
                                        (entries[2].lat, 0.67 * entries[2].lon)) < 65_000
    next(tmp_path.rglob("*_75_43_B02.tif")).unlink()  # then nothing tells
    assert all(math.isnan(entry.lat) for entry in open_(tmp_path).entries())


def test_real_folders_are_read_as_they_are(real_data, archive, real_pairs):
    """The two real patches, of different places, made partners: the archive's own files."""
    from pyarrow import parquet, table

    shutil.rmtree(archive)
    shutil.copytree(real_data / "bigearthnet", archive, ignore=shutil.ignore_patterns("*.npz"))
    s1_name = "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48"
    s2_name = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43"
    parquet.write_table(table({"patch_id": [s2_name], "s1_name": [s1_name], "split": ["test"]}),
                        archive / "metadata.parquet")
    importer = open_(archive)
    entry = next(importer.entries())
    pair = importer.read(entry)
    record.check(pair, SPECS, 120)
    for band, name in enumerate(("VV", "VH")):
        with rasterio.open(next(archive.rglob(f"{s1_name}_{name}.tif"))) as file:
            np.testing.assert_allclose(pair.images["s1"][..., band], file.read(1) * 100, atol=0.51)
    for band, name in enumerate(SPECS["s2"].bands):
        with rasterio.open(next(archive.rglob(f"{s2_name}_{name}.tif"))) as file:
            whole = file.read(1, out_shape=(120, 120), resampling=rasterio.enums.Resampling.nearest)
        np.testing.assert_array_equal(pair.images["s2"][..., band], whole)
    assert pair.location_id == "T33UUP_75_43" and pair.split == "test"
    assert (pair.images["s1"] % 100 != 0).mean() > 0.95  # whole dB would be a truncation
    lost = next(archive.rglob("*_75_43_B03.tif"))
    whole = lost.read_bytes()
    lost.chmod(0o644)
    lost.write_bytes(whole[:9000])
    with pytest.raises(UserError, match="75_43_B03.tif' cannot be read as GeoTIFF .*truncated"):
        importer.read(entry)


def test_archive_names_what_is_missing(archive):
    entries = list(open_(archive).entries())
    importer = open_(archive)
    band = next(archive.rglob("*_B05.tif"))
    moved = band.rename(band.with_suffix(".away"))
    entry = next(entry for entry in entries if band.name.startswith(entry.id))
    with pytest.raises(UserError, match="_B05.tif' is missing"):
        importer.read(entry)
    with rasterio.open(moved) as file:
        write_tiff(band, file.read(1)[:50, :50], (0, 0), 20)
    with pytest.raises(UserError, match=f"patch '{entry.id}' .*band of 50x50 pixels"):
        importer.read(entry)
    with pytest.raises(UserError, match="27_55_reference_map.tif' is missing"):
        tiles = open_(archive, "tiles")
        tiles.read(next(entry for entry in tiles.entries() if entry.id.endswith("27_55")))
    shutil.rmtree(archive / entries[0].where["s1"])
    shutil.rmtree(archive / entries[2].where["s2"])
    items = list(open_(archive).entries())
    rejects = {item.id: item.reason for item in items if isinstance(item, Reject)}
    assert rejects == {
        entries[0].id: f"'{entries[0].where['s2']}' has no partner '{entries[0].where['s1']}' (by the table)",
        entries[2].id: f"'{entries[2].where['s1']}' has no partner '{entries[2].where['s2']}' (by the table)"}
    assert [item.id for item in items if isinstance(item, Entry)] == [entries[1].id]
    (archive / "metadata.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="metadata.parquet' cannot be read as a table with patch_id"):
        next(open_(archive).entries())
    (archive / "metadata.parquet").unlink()
    with pytest.raises(UserError, match="metadata.parquet' is missing; the table names the S1 patch"):
        next(open_(archive).entries())
    shutil.rmtree(archive / "BigEarthNet-S1")
    with pytest.raises(UserError, match="BigEarthNet-S1' is missing; --raw must name"):
        open_(archive)
    shutil.rmtree(archive / "BigEarthNet-S2")
    with pytest.raises(UserError, match="holds neither BigEarthNet-S1 .* nor a BigEarthNet-V2-LMDB; fetch a sample"):
        next(open_(archive).entries())
    with pytest.raises(UserError, match="no tiles; .* is not the archive of v2"):
        open_(archive, "tiles")


def test_rows_with_unusable_names_are_rejected(archive, real_pairs):
    from pyarrow import parquet, table

    good = str(real_pairs["id"][0])
    no_place, no_time = f"{good}x", good.replace("T101031", "T106131")
    radar = [f"S1B_IW_GRDH_1SDV_20170612T165809_33UUP_{position}" for position in ("9_0", "8_0", "7_0")]
    parquet.write_table(table({"patch_id": [good, no_place, no_time], "s1_name": radar, "split": ["val"] * 3}),
                        archive / "metadata.parquet")
    for name in (no_place, no_time):
        (archive / "BigEarthNet-S2" / name.rsplit("_", 2)[0] / name).mkdir(parents=True)
    items = {item.id: item for item in open_(archive).entries()}
    assert isinstance(items[good], Entry) and items[good].split == "validation"
    assert "name no tile and position" in items[no_place].reason and "is no time" in items[no_time].reason


# The folders of v1

@pytest.fixture
def v1(real_data, tmp_path):
    """Four real v1 pairs under their names in the v1 layout, in two tiles; returns (folder, rows of pairs.npz)."""
    with np.load(real_data / "bigearthnet" / "pairs.npz") as file:
        arrays = {name: file[name] for name in ("id", "s1_cdb", "s2", "s1_bands", "s2_bands")}
    rows = [arrays["id"].tolist().index(name) for name in (
        "S2B_MSIL2A_20180204T94161_57_38", "S2B_MSIL2A_20180525T94030_35_58", "S2B_MSIL2A_20180525T94030_47_82",
        "S2B_MSIL2A_20180525T94031_23_83")]
    raw, lists = tmp_path / "v1", {"train": [], "val": [], "test": []}
    for row, split in zip(rows, ("val", "train", "test", "train"), strict=True):
        name = str(arrays["id"][row])
        prefix, column, line = name.rsplit("_", 2)
        tile, left, top = ("35VNJ", 499980, 6700020) if prefix.endswith("T94031") else ("35VPK", 600000, 6800040)
        s1_name = f"S1{'AB'[int(column) % 2]}_IW_GRDH_1SDV_20180524T154016_{tile}_{int(column)}_{int(line)}"
        lists[split].insert(0, f"{name},{s1_name}")
        s1, s2 = in_file_order(arrays, row)
        corner = left + 1200 * int(column), top - 1200 * int(line)
        for band, polarisation in enumerate(("VV", "VH")):
            write_tiff(raw / "BigEarthNet-S1-v1.0" / s1_name / f"{s1_name}_{polarisation}.tif",
                       s1[..., band] * np.float32(0.01), corner, 10)
        for band, channel in enumerate(SPECS["s2"].bands):
            step = COARSE.get(channel, 1)
            write_tiff(raw / "BigEarthNet-v1.0" / name / f"{name}_{channel}.tif", s2[::step, ::step, band], corner,
                       10 * step)
        (raw / "BigEarthNet-v1.0" / name / f"{name}_labels_metadata.json").write_text("{}")
    for split, lines in lists.items():
        (raw / f"bigearthnet-{split}.csv").write_text("".join(f"{line}\n" for line in lines))
    return raw, arrays, rows


def test_v1_pairs_by_list(v1):
    raw, arrays, rows = v1
    entries, importer = list(map(over_json, open_(raw).entries())), open_(raw)
    assert [(entry.id, entry.split, entry.location_id) for entry in entries] == [
        ("S2B_MSIL2A_20180204T94161_57_38", "validation", "T35VPK_57_38"),
        ("S2B_MSIL2A_20180525T94030_35_58", "train", "T35VPK_35_58"),
        ("S2B_MSIL2A_20180525T94030_47_82", "test", "T35VPK_47_82"),
        ("S2B_MSIL2A_20180525T94031_23_83", "train", "T35VNJ_23_83")]
    for entry, row in zip(entries, rows, strict=True):
        pair = importer.read(entry)
        record.check(pair, SPECS, 120)
        s1, s2 = in_file_order(arrays, row)
        np.testing.assert_array_equal(pair.images["s1"], s1)
        np.testing.assert_array_equal(pair.images["s2"], s2)
        assert pair.source == "BigEarthNet v1" and pair.times["s1"] == 1527176416  # 2018-05-24 15:40:16
        centre = raster.centre(raw / entry.where["s1"] / f"{entry.where['s1_name']}_VV.tif")
        assert (pair.lat, pair.lon) == pytest.approx(centre, abs=1e-7)
    assert entries[1].times["s2"] == 1527241230 and entries[3].times["s2"] == 1527241231  # 2018-05-25 09:40:30


def test_v1_names_what_is_missing(v1, capsys):
    raw = v1[0]
    entries = list(open_(raw).entries())
    assert "left out" not in capsys.readouterr().out
    shutil.rmtree(raw / entries[0].where["s2"])
    shutil.rmtree(raw / entries[1].where["s1"])
    shutil.rmtree(raw / entries[1].where["s2"])
    items = list(open_(raw).entries())
    assert items[0] == Reject(entries[0].id, f"'{entries[0].where['s1']}' has no partner '{entries[0].where['s2']}' "
                                             "(by the table)")
    assert [item.id for item in items[1:]] == [entry.id for entry in entries[2:]]
    assert "left out 1 of 4 table rows" in capsys.readouterr().out
    for split in ("train", "val", "test"):
        (raw / f"bigearthnet-{split}.csv").rename(raw / f"{split}.csv")  # the name at its source
    assert [item.id for item in open_(raw).entries()] == [item.id for item in items]
    (raw / "val.csv").write_text("S2B_MSIL2A_20180204T94161_57_38\n")
    with pytest.raises(UserError, match="val.csv' is no list with lines S2 patch,S1 patch"):
        next(open_(raw).entries())
    for split in ("train", "val", "test"):
        (raw / f"{split}.csv").unlink()
    with pytest.raises(UserError, match="bigearthnet-train.csv' is missing, and val and test with it"):
        next(open_(raw).entries())
    with pytest.raises(UserError, match="no tiles; .* is not the archive of v2"):
        open_(raw, "tiles")
    with pytest.raises(UserError, match="no labels 'land_cover' of v1; its lists name no classes"):
        open_(raw, "tiles", BOTH, "land_cover")


def test_v1_names_43_classes_of_a_patch(v1):
    raw = v1[0]
    assert len(v1_labels.LAND_COVER_43) == 43
    for features, at in ((BOTH, "s2"), (("s1",), "s1")):
        importer = open_(raw, "tiles", features, "land_cover_43")
        entry = over_json(next(importer.entries()))
        path = raw / entry.where[at] / f"{pathlib.Path(entry.where[at]).name}_labels_metadata.json"
        path.write_text('{"labels": ["Mixed forest", "Sea and ocean", "Pastures"], "projection": "EPSG:32635"}')
        tile = importer.read(entry)
        record.check(tile, {feature: SPECS[feature] for feature in features}, 120,
                     importer.layout("tiles").other_labels["land_cover_43"])
        assert np.flatnonzero(tile.label).tolist() == [17, 24, 42]
    for text, message in (('{"labels": ["Glaciers"]}', "the label 'Glaciers', which is none of the 43 classes"),
                          ('{"labels": []}', "names no labels"), ("[3]", "names no labels"),
                          ('{"labels": [[]]}', "has the label"), ("{", "cannot be read as JSON")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            importer.read(entry)
    path.unlink()
    with pytest.raises(UserError, match="_labels_metadata.json' is missing; it is the land cover of a patch"):
        importer.read(entry)


# The mini sets

def test_43_classes_are_those_of_v1(mini_sets):
    with pytest.raises(UserError, match="no labels 'land_cover_43' of v2; its tables name 19 classes"):
        open_(mini_sets, "tiles", BOTH, "land_cover_43")


def test_mini_sets_name_what_is_missing(mini_sets, tmp_path):
    raw, later = tmp_path / "raw", tmp_path / "later"
    shutil.copytree(mini_sets / "configilm-0.6.3", raw)
    folder, later_folder = (place / "BENv2" / "BigEarthNet-V2-LMDB" for place in (raw, later))
    with lmdb.open(str(folder), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        keys = [bytes(key).decode() for key, _ in transaction.cursor()]
        radar = next(key for key in keys if key.startswith("S1"))
        bands = safetensors.numpy.load(transaction.get(radar.encode()))
        transaction.put(radar.encode(), safetensors.numpy.save({"VV": bands["VV"]}))
    shutil.copytree(raw, later)
    importer = open_(raw)
    entry = next(entry for entry in importer.entries() if entry.where["s1_name"] == radar)
    with pytest.raises(UserError, match=f"'{radar}' has no band VH"):
        importer.read(entry)
    with lmdb.open(str(later_folder), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        transaction.delete(radar.encode())
    items = list(open_(later).entries())
    assert [item.id for item in items if isinstance(item, Reject)] == [entry.id] and len(items) == 6
    reason = next(item.reason for item in items if isinstance(item, Reject))
    assert f"lacks '{radar}', which its table pairs with '{entry.id}'" in reason
    with pytest.raises(UserError, match=f"'{radar}' is damaged"):  # deleted after it was listed
        open_(later).read(entry)
    shutil.copytree(mini_sets / "configilm-0.6.3", tmp_path / "damaged")
    (tmp_path / "damaged" / "BENv2" / "BigEarthNet-V2-LMDB" / "data.mdb").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as LMDB"):
        next(open_(tmp_path / "damaged").entries())


def test_mini_sets_may_be_read_by_another_importer_than_lists(mini_sets):
    listing = open_(mini_sets)
    entries = list(listing.entries())
    reading = open_(mini_sets)
    for entry in entries[::-1] + entries[::3]:  # back and forth between two LMDBs
        assert reading.read(entry).id == entry.id
    assert [entry.id for entry in listing.entries()] == [entry.id for entry in entries]
