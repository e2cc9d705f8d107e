"""BigEarthNet in all its forms: pairs by table, bands by name, times from names, and bad input."""

import dataclasses
import os
import pathlib
import shutil

import lmdb
import numpy as np
import pytest
import rasterio
import safetensors.numpy

from data_prep import record, sample
from data_prep.importers import bigearthnet, npz
from dual_encoder.errors import UserError
from dual_encoder.sensors import SENSORS

BOTH = ("s1", "s2")
SPECS = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}
COARSE = {"B01": 6, "B09": 6} | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2)


def open_(raw, kind="pairs", features=BOTH):
    return bigearthnet.Importer(pathlib.Path(raw), kind, features)


def in_file_order(real_pairs, row):
    """[120, 120, bands] of a row of pairs.npz, bands in our order."""
    s1 = [real_pairs["s1_bands"].tolist().index(band) for band in ("VV", "VH")]
    s2 = [real_pairs["s2_bands"].tolist().index(band) for band in SPECS["s2"].bands]
    return (np.stack([real_pairs["s1_cdb"][row][band] for band in s1], -1),
            np.stack([real_pairs["s2"][row][band] for band in s2], -1))


def test_mini_sets_of_both_forms_merge_by_patch(mini_sets, real_pairs):
    importer = open_(mini_sets)
    entries = importer.entries()
    ids = [str(patch_id) for patch_id in real_pairs["id"][:10]]
    assert [entry.id for entry in entries] == sorted(ids)
    # Rows 4 and 5 are in both wheels; the first one's split holds.
    splits = dict(zip(ids, ["test", "train"] * 3 + ["validation"] * 2 + ["train"] * 2, strict=True))
    assert {entry.id: entry.split for entry in entries} == splits
    for entry in entries:
        pair = importer.read(entry)
        record.check(pair, SPECS, 120)
        s1, s2 = in_file_order(real_pairs, ids.index(entry.id))
        np.testing.assert_array_equal(pair.s1, s1)
        np.testing.assert_array_equal(pair.s2, s2)
        # VV over land is brighter than VH: swapped bands cannot pass.
        assert pair.s1[..., 0].mean() > pair.s1[..., 1].mean() + 300
        assert (pair.s1_time, pair.s2_time) == (1497286243, 1497348631)  # 2017-06-12 16:50:43, 2017-06-13 10:10:31


def test_mini_sets_have_no_reference_maps(mini_sets):
    with pytest.raises(UserError, match="no tiles; .* give --labels=water_weak"):
        open_(mini_sets, "tiles")


def test_names_tell_time_and_place():
    assert bigearthnet.acquisition_time("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57") == 1497348631
    assert bigearthnet.acquisition_time("S2B_MSIL2A_20170924T93020_5_55") == 1506245420  # 09:30:20
    with pytest.raises(UserError, match="no acquisition time in the name 'S2A_26_57'"):
        bigearthnet.acquisition_time("S2A_26_57")
    for name in ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_06_57", "S2B_MSIL2A_20180101T101031_R022_T33UUP_6_57"):
        assert bigearthnet.place(name) == "T33UUP_6_57"


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
    importer, independent = open_(tmp_path), npz.Importer(real_data / "bigearthnet", "pairs", BOTH)
    others = {entry.id: entry for entry in independent.entries()}
    entries = importer.entries()
    assert {entry.id for entry in entries} == set(map(str, real_pairs["id"])) and len(entries) == 32
    for entry in entries:
        pair, other = importer.read(entry), independent.read(others[entry.id])
        # pairs.npz was rounded in float32, where a value can fall on the other side of a half.
        assert np.abs(pair.s1.astype(int) - other.s1).max() <= 1 and (pair.s1 != other.s1).mean() < 1e-3
        np.testing.assert_array_equal(pair.s2, other.s2)
        bands = radar[entry.where["s1_name"]]
        for y, x in ((0, 0), (119, 3), (60, 60)):
            assert pair.s1[y, x].tolist() == [round(float(bands[name][y, x]) * 100) for name in ("VV", "VH")]
        assert 0 < abs(pair.s1_time - pair.s2_time) < 2 * 86400 and entry.split in ("train", "validation", "test")
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
    importer = open_(archive)
    entries = importer.entries()
    assert "left out 2 of 5 table rows: neither patch is on disk" in capsys.readouterr().out
    ids = [str(patch_id) for patch_id in real_pairs["id"][:3]]
    assert sorted(entry.id for entry in entries) == sorted(ids)
    for entry in entries:
        pair = importer.read(entry)
        s1, s2 = in_file_order(real_pairs, ids.index(entry.id))
        np.testing.assert_array_equal(pair.s1, s1)
        np.testing.assert_array_equal(pair.s2, s2)
        assert 47 < pair.lat < 49 and 12 < pair.lon < 15  # Austria
        assert pair.s1_time == 1497286689


def test_archive_tiles_take_the_reference_map(archive, real_data):
    importer = open_(archive, "tiles")
    entry = next(entry for entry in importer.entries() if entry.id.endswith("_26_57"))
    tile = importer.read(entry)
    record.check(tile, SPECS, 120, classes=5)
    path = next((real_data / "bigearthnet" / "Reference_Maps").rglob("*.tif"))
    with rasterio.open(path) as file:
        codes = file.read(1)
    assert all(100 <= code < 600 for code in np.unique(codes))
    assert all(tile.label[y, x] == int(str(codes[y, x])[0]) - 1 for y in range(0, 120, 7) for x in range(120))
    assert bigearthnet._level_1(np.array([111, 523, 999, 0])).tolist() == [0, 4, 255, 255]


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
    pair = importer.read(importer.entries()[0])
    record.check(pair, SPECS, 120)
    for band, name in enumerate(("VV", "VH")):
        with rasterio.open(next(archive.rglob(f"{s1_name}_{name}.tif"))) as file:
            np.testing.assert_allclose(pair.s1[..., band], file.read(1) * 100, atol=0.51)
    for band, name in enumerate(SPECS["s2"].bands):
        with rasterio.open(next(archive.rglob(f"{s2_name}_{name}.tif"))) as file:
            whole = file.read(1, out_shape=(120, 120), resampling=rasterio.enums.Resampling.nearest)
        np.testing.assert_array_equal(pair.s2[..., band], whole)
    assert pair.location_id == "T33UUP_75_43"
    lost = next(archive.rglob("*_75_43_B03.tif"))
    whole = lost.read_bytes()
    lost.chmod(0o644)
    lost.write_bytes(whole[:9000])
    with pytest.raises(UserError, match="75_43_B03.tif' cannot be read as GeoTIFF .*truncated"):
        importer.read(importer.entries()[0])


def test_archive_names_what_is_missing(archive):
    importer = open_(archive)
    entries = importer.entries()
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
    shutil.rmtree(entries[0].where["s1"])
    with pytest.raises(UserError, match=f"{entries[0].id}' has no partner '.*{entries[0].where['s1_name']}'"):
        open_(archive).entries()
    (archive / "metadata.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="metadata.parquet' is no table with patch_id"):
        open_(archive).entries()
    (archive / "metadata.parquet").unlink()
    with pytest.raises(UserError, match="metadata.parquet' is missing; the table says which"):
        open_(archive).entries()
    shutil.rmtree(archive / "BigEarthNet-S1")
    with pytest.raises(UserError, match="BigEarthNet-S1' is missing; --raw must name"):
        open_(archive)
    shutil.rmtree(archive / "BigEarthNet-S2")
    with pytest.raises(UserError, match="holds neither BigEarthNet-S1 .* nor a BigEarthNet-V2-LMDB; fetch a sample"):
        open_(archive)


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
    importer = open_(later)
    with pytest.raises(UserError, match=f"lacks '{radar}', which its table pairs with '{entry.id}'"):
        importer.entries()
    shutil.copytree(mini_sets / "configilm-0.6.3", tmp_path / "damaged")
    (tmp_path / "damaged" / "BENv2" / "BigEarthNet-V2-LMDB" / "data.mdb").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as LMDB"):
        open_(tmp_path / "damaged").entries()


def test_pairs_are_frozen(mini_sets):
    importer = open_(mini_sets)
    with pytest.raises(dataclasses.FrozenInstanceError):
        importer.read(importer.entries()[0]).id = "other"
