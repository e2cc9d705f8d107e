"""SSL4EO-S12 v1.0: pixels against independent reads of the real place, pairing by time, and bad input."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import rasterio

from data_prep import record
from data_prep.importers import Entry, Reject, Unmatched, ssl4eo_s12
from dual_encoder.errors import UserError
from dual_encoder.imagery.s2_offset import detect_s2_offset
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick

S1_NAMES = ("S1A_IW_GRDH_1SDV_20200510T174031_20200510T174056_032506_03C3BC_30A2",
            "S1A_IW_GRDH_1SDV_20210210T174036_20210210T174101_036531_044A3A_3DC8",
            "S1B_IW_GRDH_1SDV_20200808T174006_20200808T174031_022835_02B578_CC7B",
            "S1B_IW_GRDH_1SDV_20201109T060646_20201109T060711_024192_02DFBC_9C77")
S2_NAMES = ("20200507T052649_20200507T053037_T44RKT", "20200811T052649_20200811T053037_T44RKT",
            "20201105T053021_20201105T053023_T44RKT", "20210203T053021_20210203T053023_T44RKT")


def open_(raw, s2="s2_l2a"):
    return ssl4eo_s12.Importer(pathlib.Path(raw), "pairs", {"s1": "s1_grd", "s2": s2})


def split(found):
    found = list(found)
    return [e for e in found if isinstance(e, Entry)], [r for r in found if isinstance(r, Reject)]


@pytest.fixture
def real(real_data):
    return real_data / "ssl4eo_s12"


@pytest.fixture
def copied(real, tmp_path):
    """The real place in a folder that can be written to."""
    raw = tmp_path / "raw"
    shutil.copytree(real, raw, copy_function=shutil.copyfile)
    for path in raw.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return raw


def make_place(raw, number="0000007", s1=S1_NAMES, s2=S2_NAMES):
    """Folders of a place without images: all that listing looks at."""
    for folder, names in (("s1", s1), ("s2a", s2)):
        for name in names:
            (raw / folder / number / name).mkdir(parents=True)


@pytest.mark.parametrize("sensor, folder, clouds", [("s2_l2a", "s2a", [4.184628, 1.948562]),
                                                    ("s2_l1c", "s2c", [0.8438, 9.9194])])
def test_real_pairs_are_the_files_pixels(real, sensor, folder, clouds):
    importer = open_(real, sensor)
    entries, rejects = split(importer.entries())
    assert len(entries) == 2 and not rejects
    for entry, cloud, s1_time in zip(entries, clouds, (1591492080, 1599138732), strict=True):
        pair = importer.read(Entry(**json.loads(json.dumps({name: getattr(entry, name) for name in Entry.__slots__}))))
        record.check(pair, {"s1": SENSORS["s1_grd"], "s2": SENSORS[sensor]}, 264)
        s2 = real / folder / "0000200" / entry.id.removeprefix("0000200_")
        for band, name in enumerate(SENSORS[sensor].bands):
            with rasterio.open(s2 / f"{name.replace('B0', 'B')}.tif") as file:
                whole = file.read(1, out_shape=(264, 264), resampling=rasterio.enums.Resampling.nearest)
            np.testing.assert_array_equal(pair.images["s2"][..., band], whole, err_msg=name)
        for band, name in enumerate(("VV", "VH")):
            day = "20200607" if s1_time == 1591492080 else "20200903"
            with rasterio.open(next((real / "s1").rglob(f"*_{day}T*/{name}.tif"))) as file:
                np.testing.assert_allclose(pair.images["s1"][..., band], file.read(1) * 100, atol=0.51)
        # VV over land is brighter than VH.
        assert pair.images["s1"][..., 0].mean() > pair.images["s1"][..., 1].mean() + 300
        assert (pair.images["s1"] % 100 != 0).mean() > 0.9  # whole decibels would be a truncation
        assert pair.times["s1"] == s1_time and pair.cloud == cloud and pair.s2_offset_removed == 0
        assert abs(pair.lat - 30.464) < 1e-3 and abs(pair.lon - 73.306) < 1e-3 and entry.lat == pair.lat
        assert pair.location_id == "0000200" and pair.split == ""
    assert [entry.times["s2"] for entry in entries][0] == 1591249599  # 2020-06-04 05:46:39


@pytest.mark.parametrize("sensor", ["s2_l2a", "s2_l1c"])
def test_the_release_has_no_offset(real, sensor):
    importer = open_(real, sensor)
    for entry in importer.entries():
        assert detect_s2_offset(importer.read(entry).images["s2"], SENSORS[sensor].bands) == 0


def test_pairs_go_by_time_not_by_order_of_names(tmp_path):
    make_place(tmp_path)
    entries, rejects = split(open_(tmp_path).entries())
    assert not rejects and [pathlib.Path(entry.where["s2"]).name for entry in entries] == list(S2_NAMES)
    assert [pathlib.Path(entry.where["s1"]).name for entry in entries] == [S1_NAMES[i] for i in (0, 2, 3, 1)]
    assert all(abs(entry.times["s1"] - entry.times["s2"]) < 8 * 86400 for entry in entries)
    assert len({entry.id for entry in entries}) == 4 and {entry.location_id for entry in entries} == {"0000007"}


def test_both_widths_of_numbers_and_the_void_list(tmp_path):
    for number in ("000100", "0000200", "124990", "0124991", "0000300"):
        make_place(tmp_path, number)
    (tmp_path / "s1" / "000100").rename(tmp_path / "s1" / "0000100")  # the two products need not agree
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "void_ids.csv").write_text("124990\n124991\n")
    entries, rejects = split(open_(tmp_path).entries())
    assert not rejects
    assert [entry.location_id for entry in entries[::4]] == ["0000100", "0000200", "0000300"]  # by number: disk order


def test_what_has_no_partner_or_no_time_is_rejected(tmp_path):
    make_place(tmp_path, "0000001", s1=S1_NAMES[:3])
    make_place(tmp_path, "0000002")
    shutil.rmtree(tmp_path / "s1" / "0000002")
    make_place(tmp_path, "0000003")
    shutil.rmtree(tmp_path / "s2a" / "0000003")
    make_place(tmp_path, "0000004", s1=(*S1_NAMES, "S1A_without_time"), s2=(*S2_NAMES[:3], "20201399T052649_T44RKT"))
    make_place(tmp_path, "0000005", s1=())
    (tmp_path / "s1" / "0000005").mkdir()
    make_place(tmp_path, "0000006", s2=S2_NAMES[:3])
    make_place(tmp_path, "12", s1=("x",), s2=("y",))
    entries, rejects = split(open_(tmp_path).entries())
    assert [entry.location_id for entry in entries] == ["0000001"] * 3 + ["0000004"] * 3 + ["0000006"] * 3
    reasons = {reject.id: reject.reason for reject in rejects}
    assert len(reasons) == len(rejects) == 12
    # November's radar image is the one that is not there.
    assert "no S1 image left to pair with: 3 S1, 4 S2" in reasons[f"0000001_{S2_NAMES[2]}"]
    # So February's.
    assert "no S2 image left to pair with: 4 S1, 3 S2" in reasons[f"0000006_{S1_NAMES[1]}"]
    assert "no S2 image left to pair with: 4 S1, 3 S2" in reasons[f"0000004_{S1_NAMES[1]}"]
    assert reasons["0000002"] == "no folder in s1" and reasons["0000003"] == "no folder in s2a"
    assert "no acquisition time in the name 'S1A_without_time'" in reasons["0000004_S1A_without_time"]
    assert "'20201399T052649' in the name" in reasons["0000004_20201399T052649_T44RKT"]
    assert "0 S1, 4 S2" in reasons[f"0000005_{S2_NAMES[0]}"]
    (beside,) = (reject for reject in rejects if isinstance(reject, Unmatched))
    assert beside.examples == ("s1/12/", "s2a/12/") and beside.count == 2
    assert "a folder whose name is a number of 6 or 7 digits" in beside.reason


def test_zero_is_no_data(copied):
    path = next(copied.rglob("*0607T*/VH.tif"))
    with rasterio.open(path) as file:
        profile, values = file.profile, file.read(1)
    values[3:5, 7] = 0
    with rasterio.open(path, "w", **profile) as file:
        file.write(values, 1)
    for path in copied.rglob("20200604*/B*.tif"):
        with rasterio.open(path) as file:
            profile, values = file.profile, file.read(1)
        values[:values.shape[0] // 44] = 0
        with rasterio.open(path, "w", **profile) as file:
            file.write(values, 1)
    importer = open_(copied)
    pair = importer.read(next(importer.entries()))
    assert (pair.images["s1"][3:5, 7] == -32768).all() and (pair.images["s1"] == -32768).sum() == 4
    assert (pair.images["s2"][:6] == 0).all() and (pair.images["s2"][6:] > 0).all()


def test_cloud_is_unknown_without_its_file_and_found_when_nested(copied):
    importer = open_(copied)
    entry = next(importer.entries())
    path = copied / entry.where["s2"] / "metadata.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({"id": "x", "properties": facts}))
    assert importer.read(entry).cloud == 4.184628
    path.write_text(json.dumps(facts)[:500])
    with pytest.raises(UserError, match="metadata.json' cannot be read as the scene's JSON .* truncated"):
        importer.read(entry)
    path.unlink()
    assert np.isnan(importer.read(entry).cloud)


def test_bad_files_are_named(copied, tmp_path):
    importer = open_(copied)
    entry = next(importer.entries())
    folder = copied / entry.where["s2"]
    whole = (folder / "B8A.tif").read_bytes()
    (folder / "B8A.tif").write_bytes(whole[:20000])
    with pytest.raises(UserError, match="B8A.tif' cannot be read as GeoTIFF .*truncated") as error:
        importer.read(entry)
    assert "\n" not in str(error.value)
    (folder / "B8A.tif").unlink()
    with pytest.raises(UserError, match="T43RCP/B8A.tif' is missing"):
        importer.read(entry)
    with rasterio.open(folder / "B8.tif") as file:
        profile, values = file.profile, file.read(1)
    with rasterio.open(folder / "B8A.tif", "w", **profile | {"width": 131, "height": 131}) as file:
        file.write(values[:131, :131], 1)
    with pytest.raises(UserError, match="B8A.tif': band of 131x131 pixels does not fill 264x264"):
        importer.read(entry)
    (folder / "B1.tif").write_bytes(b"II*")  # where listing looks for the place
    assert np.isnan(next(open_(copied).entries()).lat)
    with pytest.raises(UserError, match="s1' is missing; --raw must name the folder of SSL4EO-S12 v1.0"):
        open_(tmp_path / "nowhere")
    with pytest.raises(UserError, match="'ssl4eo_s12' has no tiles"):
        ssl4eo_s12.Importer.layout("tiles")
