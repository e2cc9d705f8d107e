"""MMEarth: a small HDF5 file in the layout of the authors' convert_to_h5.py, and what bad input is told."""

import json

import h5py
import numpy as np
import pytest

from data_prep import importers, record
from data_prep.importers import Entry, Reject
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS, sensor

pytestmark = pytest.mark.quick

# As in the authors' code, in their spelling.
S2 = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8A", "B8", "B9", "B10", "B11", "B12"]
S1 = ["asc_VV", "asc_VH", "asc_HH", "asc_HV", "desc_VV", "desc_VH", "desc_HH", "desc_HV"]
L2A, L1C = {"s1": "s1_grd", "s2": "s2_l2a"}, {"s1": "s1_grd", "s2": "s2_l1c"}
# tile: level of S2, polarisations of the ascending and of the descending image
TILES = {"tile_b": ("l2a", "VV VH", "VV VH"), "tile_a": ("l1c", "VV VH", None), "tile_d": ("l2a", None, "VV VH"),
         "tile_c": ("l2a", "HH HV", None), "tile_e": ("l2a", "VV VH", "VV VH")}


def write(folder, name="data_1M_v001", size=128, tiles=TILES):
    """Writes the files of one variant; returns {tile: {band: image}}."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    info, images = {}, {}
    with h5py.File(folder / f"{name}.h5", "w") as file:
        count = len(tiles)
        s2 = file.create_dataset("sentinel2", (count, 13, size, size), "uint16", compression="gzip",
                                 chunks=(1, 13, size, size))
        s1 = file.create_dataset("sentinel1", (count, 8, size, size), "float32", compression="gzip",
                                 chunks=(1, 8, size, size))
        metadata = file.create_dataset("metadata", (count,), [("tile_id", "S100"), ("S2_type", "S10")],
                                       compression="gzip", chunks=(1,))
        for row, (tile, (level, ascending, descending)) in enumerate(tiles.items()):
            bands = {"sentinel2": [band for band in S2 if level == "l1c" or band != "B10"]
                     + (["MSK_CLDPRB", "SCL", "QA60"] if level == "l2a" else ["QA60"])}
            image = {band: rng.integers(1, 9000, (size, size), np.uint16) for band in S2}
            if level == "l2a":
                image["B10"][:] = 0
            image |= {band: np.full((size, size), -np.inf, np.float32) for band in S1}
            for orbit, polarisations in (("asc", ascending), ("desc", descending)):
                bands[f"sentinel1_{orbit}"] = polarisations.split() if polarisations else None
                for polarisation in bands[f"sentinel1_{orbit}"] or ():
                    image[f"{orbit}_{polarisation}"] = rng.uniform(-30, 5, (size, size)).astype(np.float32)
            s2[row], s1[row] = np.stack([image[b] for b in S2]), np.stack([image[b] for b in S1])
            metadata[row] = (tile, level)
            images[tile] = image
            info[tile] = {"S2_DATE": f"2019-07-{row + 1:02d}", "CRS": "EPSG:32630", "S2_type": level, "lat": 40 + row,
                          "lon": -3.5, "biome": 4, "era5": {"month1": [1.0, 2.0], "year": [3.0]}, "BANDS": bands}
    # The order of the rows is not the order of tile_info.
    (folder / f"{name}_tile_info.json").write_text(json.dumps(dict(sorted(info.items()))))
    (folder / f"{name}_splits.json").write_text(json.dumps({"train": [2, 0, 1], "val": [3, 4], "test": []}))
    return images


def change(folder, tile, **bands):
    """Writes other pixels into bands of a tile; returns the row."""
    with h5py.File(folder / "data_1M_v001.h5", "r+") as file:
        row = [t.decode() for t in file["metadata"]["tile_id"]].index(tile)
        for band, image in bands.items():
            file["sentinel1"][row, S1.index(band)] = image
    return row


def make(folder, sensors=L2A):
    return importers.load("mmearth")(folder, "pairs", sensors)


def read(folder, tile, sensors=L2A):
    entry = next(e for e in make(folder, sensors).entries() if isinstance(e, Entry) and e.id == tile)
    pair = make(folder, sensors).read(entry)  # another instance, as in another process
    record.check(pair, {feature: sensor(name) for feature, name in sensors.items()}, 128)
    return pair


def centidecibel(*bands):
    return np.rint(np.stack(bands, -1).astype(np.float64) * 100).astype(np.int16)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "data_1M_v001"
    return folder, write(folder)


def test_tiles_of_the_level_asked_for_become_entries_in_file_order(raw, capsys):
    folder, _ = raw
    entries = list(make(folder).entries())
    assert [entry.id for entry in entries] == ["tile_b", "tile_d", "tile_e"]
    assert [entry.where for entry in entries] == [{"row": 0}, {"row": 2}, {"row": 4}]
    assert [entry.split for entry in entries] == ["train", "train", "val"]
    assert capsys.readouterr().out.splitlines() == [
        "left out 1 of 5 tiles: their Sentinel-2 image is not L2A (the other sensor of s2 takes them)",
        "left out 1 of 5 tiles: neither orbit has VV and VH"]
    last = entries[-1]
    assert (last.lat, last.lon, last.location_id) == (44, -3.5, "tile_e")
    assert last.times == {"s2": 1562284800}  # 2019-07-05; radar days were not published
    assert [entry.id for entry in make(folder, L1C).entries()] == ["tile_a"]


def test_bands_are_picked_by_name(raw):
    folder, images = raw
    pair = read(folder, "tile_b")
    for i, band in enumerate(SENSORS["s2_l2a"].bands):
        np.testing.assert_array_equal(pair.images["s2"][..., i], images["tile_b"][band.replace("B0", "B")])
    pair = read(folder, "tile_a", L1C)
    for i, band in enumerate(SENSORS["s2_l1c"].bands):
        np.testing.assert_array_equal(pair.images["s2"][..., i], images["tile_a"][band.replace("B0", "B")])
    assert pair.s2_offset_removed == 0 and pair.times["s2"] == 1562025600 and pair.split == "train"


def test_the_orbit_with_more_data_is_taken_and_ascending_when_equal(raw):
    folder, images = raw
    both, only_descending = images["tile_b"], images["tile_d"]
    pair = read(folder, "tile_b")
    np.testing.assert_array_equal(pair.images["s1"], centidecibel(both["asc_VV"], both["asc_VH"]))
    assert pair.source == "data_1M_v001, S1 ascending"
    pair = read(folder, "tile_d")
    expected = centidecibel(only_descending["desc_VV"], only_descending["desc_VH"])
    np.testing.assert_array_equal(pair.images["s1"], expected)
    assert pair.source == "data_1M_v001, S1 descending"
    half = both["asc_VH"].copy()
    half[:10] = -np.inf  # in one polarisation only
    change(folder, "tile_b", asc_VH=half)
    np.testing.assert_array_equal(read(folder, "tile_b").images["s1"], centidecibel(both["desc_VV"], both["desc_VH"]))


def test_missing_radar_pixels_are_no_data_in_both_bands(raw):
    folder, images = raw
    for row, missing in enumerate((-np.inf, np.nan, 0.0)):  # 0 dB: masked by Earth Engine
        images["tile_d"]["desc_VH"][row, :5] = missing
    change(folder, "tile_d", desc_VH=images["tile_d"]["desc_VH"])
    s1 = read(folder, "tile_d").images["s1"]
    assert (s1[:3, :5] == -32768).all() and (s1 == -32768).sum() == 2 * 15


@pytest.mark.parametrize("clouds", [0, 1024])
def test_radar_bands_that_were_shifted_by_the_cloud_mask_are_rejected(raw, clouds):
    folder, images = raw
    old, mask = images["tile_b"], np.zeros((128, 128), np.float32)
    mask[:50] = clouds
    change(folder, "tile_b", asc_VV=mask, asc_VH=old["asc_VV"], desc_VV=old["asc_VH"], desc_VH=old["desc_VV"])
    with pytest.raises(UserError, match="tile 'tile_b': the first radar band holds the cloud mask QA60"):
        read(folder, "tile_b")


def test_an_ascending_image_that_is_all_masked_gives_way(raw):
    folder, images = raw
    change(folder, "tile_b", asc_VV=np.zeros((128, 128)), asc_VH=np.zeros((128, 128)))
    pair = read(folder, "tile_b")
    expected = centidecibel(images["tile_b"]["desc_VV"], images["tile_b"]["desc_VH"])
    np.testing.assert_array_equal(pair.images["s1"], expected)


def test_variants_by_their_files(tmp_path):
    write(tmp_path / "data_1M_v001_64", "data_1M_v001_64", 64)
    importer = importers.load("mmearth")
    assert importer.layout("pairs", tmp_path).size == 64  # found below --raw
    assert importer.layout("pairs").size == 128
    assert len(list(make(tmp_path).entries())) == 3
    write(tmp_path / "data_100k_v001", "data_100k_v001", 128)
    with pytest.raises(UserError, match="holds data_100k_v001.h5 and data_1M_v001_64.h5; --raw must name the folder"):
        make(tmp_path)
    with pytest.raises(UserError, match="holds no data_.*h5; --raw must name"):
        make(tmp_path / "nothing")
    with pytest.raises(UserError, match="importer 'mmearth' has no tiles"):
        importer.layout("tiles")


def test_a_file_without_levels_takes_them_from_tile_info_and_disagreement_is_rejected(raw):
    folder, _ = raw
    with h5py.File(folder / "data_1M_v001.h5", "r+") as file:
        file["metadata"][2] = ("tile_d", "l1c")
    rejects = [entry for entry in make(folder).entries() if isinstance(entry, Reject)]
    assert rejects == [Reject("tile_d", "S2_type is 'l1c' in the HDF5 file and l2a in its tile_info")]
    with h5py.File(folder / "data_1M_v001.h5", "r+") as file:
        names = file["metadata"]["tile_id"]
        del file["metadata"]
        file["metadata"] = names.astype([("tile_id", "S100")])
    assert [entry.id for entry in make(folder).entries()] == ["tile_b", "tile_d", "tile_e"]


def test_a_tile_without_facts_is_a_reject(raw):
    folder, _ = raw
    path = folder / "data_1M_v001_tile_info.json"
    info = json.loads(path.read_text())
    del info["tile_d"]
    path.write_text(json.dumps(info))
    assert Reject("tile_d", "row 2 of 'data_1M_v001.h5' is not in 'data_1M_v001_tile_info.json'") in list(
        make(folder).entries())


def test_splits_are_optional_and_must_fit(raw):
    folder, _ = raw
    splits = folder / "data_1M_v001_splits.json"
    splits.write_text(json.dumps({"train": [0, 5]}))
    with pytest.raises(UserError, match="has rows 0 to 5 in 'train', 'data_1M_v001.h5' holds 5"):
        list(make(folder).entries())
    splits.unlink()
    assert {entry.split for entry in make(folder).entries()} == {""}


def test_a_damaged_file_is_named(raw):
    folder, _ = raw
    path = folder / "data_1M_v001.h5"
    entry = Entry("tile_b", "tile_b", "", {"row": 0})
    whole = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunk = file["sentinel1"].id.get_chunk_info(0)
    whole[chunk.byte_offset:chunk.byte_offset + 2000] = bytes(2000)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="data_1M_v001.h5': array 'sentinel1', row 0, cannot be read"):
        make(folder).read(entry)


def test_a_truncated_or_foreign_file_is_named(raw):
    folder, _ = raw
    path = folder / "data_1M_v001.h5"
    whole = path.read_bytes()
    for size in (0, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="data_1M_v001.h5' cannot be read as HDF5 .*truncated"):
            list(make(folder).entries())
    with h5py.File(path, "w") as file:
        file["sentinel2"] = np.zeros((1, 12, 8, 8), np.uint16)
    with pytest.raises(UserError, match=r"array 'sentinel2' is of shape \(1, 12, 8, 8\), .*expected MMEarth v001"):
        list(make(folder).entries())


def test_damaged_and_missing_tables_are_named(raw):
    folder, _ = raw
    info = folder / "data_1M_v001_tile_info.json"
    text = info.read_text()
    info.write_text(text[:100])
    with pytest.raises(UserError, match="tile_info.json' cannot be read as JSON"):
        list(make(folder).entries())
    info.write_text(text.replace('"S2_type"', '"type"'))
    with pytest.raises(UserError, match="tile_info.json': a tile lacks or has another kind of .* \\('S2_type'\\)"):
        list(make(folder).entries())
    info.unlink()
    with pytest.raises(UserError, match="tile_info.json' is missing"):
        list(make(folder).entries())
