"""SSL4EO-S12 v1.1 in both published forms, written here with real pixels of v1.0: pairs by file_id, offset by form."""

import json
import pathlib

import numpy as np
import pytest
import rasterio

from data_prep import record
from data_prep.importers import Entry, Reject, ssl4eo_s12_v11
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS
from tests.data_prep.zarr_writing import write_tar, zarr_zip

pytestmark = pytest.mark.quick

# In the order of names, as the products were written: not that of time (issue 4 of the data set's repository).
S1_IDS = ("S1A_IW_GRDH_1SDV_20200510T174031_20200510T174056_032506_03C3BC_30A2",
          "S1A_IW_GRDH_1SDV_20210210T174036_20210210T174101_036531_044A3A_3DC8",
          "S1B_IW_GRDH_1SDV_20200808T174006_20200808T174031_022835_02B578_CC7B",
          "S1B_IW_GRDH_1SDV_20201109T060646_20201109T060711_024192_02DFBC_9C77")
S2_IDS = ("20200507T052649_20200507T053037_T44RKT", "20200811T052649_20200811T053037_T44RKT",
          "20201105T053021_20201105T053023_T44RKT", "20210203T053021_20210203T053023_T44RKT")
PARTNERS = (0, 2, 3, 1)  # of each S2 date
PLACES = ("0080717", "0060573")
S2_SENSORS = {"S2L2A": "s2_l2a", "S2L1C": "s2_l1c"}


def open_(raw, s2="s2_l2a"):
    return ssl4eo_s12_v11.Importer(pathlib.Path(raw), "pairs", {"s1": "s1_grd", "s2": s2})


def split(found):
    found = list(found)
    return [e for e in found if isinstance(e, Entry)], [r for r in found if isinstance(r, Reject)]


@pytest.fixture(scope="module")
def pixels(real_data):
    """Product -> [place 2, time 4, band, y, x]: the two real dates of v1.0, flipped for the others, all different."""
    found = {}
    for product, folder, bands in (("S1GRD", "s1", ("VV", "VH")), ("S2L2A", "s2a", SENSORS["s2_l2a"].bands),
                                   ("S2L1C", "s2c", SENSORS["s2_l1c"].bands)):
        dates = []
        for date in sorted((real_data / "ssl4eo_s12" / folder / "0000200").iterdir()):
            images = []
            for band in bands:
                with rasterio.open(date / f"{band.replace('B0', 'B')}.tif") as file:
                    images.append(file.read(1, out_shape=(264, 264), resampling=rasterio.enums.Resampling.nearest))
            dates.append(np.stack(images))
        four = np.stack([*dates, *(date[:, ::-1] for date in dates)])
        found[product] = np.stack([four, four[..., ::-1]])
    found["S1GRD"] = found["S1GRD"].astype(np.float16)
    assert found["S2L2A"].min() > 0
    return found


def facts(product, places, ids):
    """The arrays beside `bands` and `cloud_mask` of a file with these places."""
    known = {"0080717": (42.66, 125.6), "0060573": (-30.64, 121.4)}
    sorted_times = np.array([["2020-05-10", "2020-08-08", "2020-11-09", "2021-02-10"]] * len(places), "M8[ns]")
    names = ("vv", "vh") if product == "S1GRD" else SENSORS[S2_SENSORS[product]].bands
    return {"band": (("band",), np.array(names)), "sample": (("sample",), np.array(places)),
            "center_lat": (("sample",), [known[place][0] for place in places]),
            "center_lon": (("sample",), [known[place][1] for place in places]),
            "crs": (("sample",), [32651] * len(places)), "file_id": (("sample", "time"), np.array([ids] * len(places))),
            "time_": (("sample", "time"), sorted_times.astype(np.int64))}


def chunk_file(pixels, product, places, ids=None, **options):
    """A file of the Zarr form: 64 places in truth, int16 with the offset."""
    values = pixels[product][[PLACES.index(place) for place in places]]
    arrays = facts(product, places, ids or (S1_IDS if product == "S1GRD" else S2_IDS))
    if product != "S1GRD":
        values = (values.astype(int) + 1000).astype(np.int16)
        mask = np.zeros((len(places), 4, 264, 264), np.uint8)
        mask[..., :66] = np.arange(1, 5)[:, None, None]  # a quarter: water, snow, thin, thick cloud, by date
        mask[..., 264 - 132:] = 6
        arrays["cloud_mask"] = ("sample", "time", "y", "x"), mask
    arrays["bands"] = ("sample", "time", "band", "y", "x"), values
    chunks = {"bands": (1, 1, *values.shape[2:]), "cloud_mask": (1, 1, 264, 264)}
    return zarr_zip(arrays, chunks, **options)


def sample_file(pixels, product, place, ids=None):
    """A member of the tar form: one place, no offset."""
    values = pixels[product][PLACES.index(place)]
    arrays = {name: (dims[1:], np.asarray(array)[0]) if dims[0] == "sample" else (dims, array)
              for name, (dims, array) in facts(product, [place], ids or (S1_IDS if product == "S1GRD"
                                                                         else S2_IDS)).items()}
    arrays["bands"] = ("time", "band", "y", "x"), values if product == "S1GRD" else values.astype(np.int16)
    if product != "S1GRD":
        arrays["cloud_mask"] = ("time", "y", "x"), np.zeros((4, 264, 264), np.uint8)
    return zarr_zip(arrays)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def check_pixels(importer, entry, pixels, product, offset):
    entry = Entry(**json.loads(json.dumps({name: getattr(entry, name) for name in Entry.__slots__})))
    pair = importer.read(entry)
    sensor = S2_SENSORS[product]
    record.check(pair, {"s1": SENSORS["s1_grd"], "s2": SENSORS[sensor]}, 264)
    place, date = PLACES.index(entry.location_id), int(entry.id.rsplit("_", 1)[1])
    expected = np.maximum(np.moveaxis(pixels[product][place, date], 0, -1), 1 if offset else 0)
    np.testing.assert_array_equal(pair.images["s2"], expected)
    db = np.moveaxis(pixels["S1GRD"][place, PARTNERS[date]], 0, -1).astype(np.float64)
    np.testing.assert_array_equal(pair.images["s1"], np.rint(db * 100))
    assert abs(pair.times["s1"] - pair.times["s2"]) < 8 * 86400 and pair.s2_offset_removed == offset
    assert (pair.lat, pair.lon) == ((42.66, 125.6), (-30.64, 121.4))[place]
    assert (pair.times["s1"], pair.times["s2"], pair.split) == (entry.times["s1"], entry.times["s2"], entry.split)
    return pair


@pytest.mark.parametrize("product", ["S2L2A", "S2L1C"])
@pytest.mark.parametrize("consolidated", [True, False])
def test_zarr_form(tmp_path, pixels, product, consolidated):
    """The places stand in another order in the radar file, and its dates in the order of names."""
    name = "ssl4eos12_train_seasonal_data_000001.zarr.zip"
    write(tmp_path / "train" / product / name, chunk_file(pixels, product, PLACES, consolidated=consolidated))
    write(tmp_path / "train" / "S1GRD" / name, chunk_file(pixels, "S1GRD", PLACES[::-1], consolidated=consolidated))
    importer = open_(tmp_path, S2_SENSORS[product])
    entries, rejects = split(importer.entries())
    assert not rejects and len(entries) == 8 and {entry.split for entry in entries} == {"train"}
    assert [entry.id for entry in entries] == [f"{place}_{date}" for place in PLACES for date in range(4)]
    clouds = [check_pixels(importer, entry, pixels, product, 1000).cloud for entry in entries]
    assert clouds == [0, 0, 50, 50] * 2  # of the half that has data


def test_tar_form(tmp_path, pixels):
    """The members stand in another order in the radar's shard, and its dates in the order of names."""
    write_tar(tmp_path / "val/S2L2A/ssl4eos12_shard_000001.tar",
              {f"ssl4eos12_val_seasonal_data_000000{i}": sample_file(pixels, "S2L2A", PLACES[i]) for i in (0, 1)})
    write_tar(tmp_path / "val/S1GRD/ssl4eos12_shard_000001.tar",
              {f"ssl4eos12_val_seasonal_data_000000{i}": sample_file(pixels, "S1GRD", PLACES[i]) for i in (1, 0)})
    importer = open_(tmp_path)
    entries, rejects = split(importer.entries())
    assert not rejects and len(entries) == 8 and {entry.split for entry in entries} == {"validation"}
    for entry in entries:
        assert check_pixels(importer, entry, pixels, "S2L2A", 0).cloud == 0


def test_both_splits_and_members_unpacked_from_the_tars(tmp_path, pixels):
    for folder, form in (("train", "000001"), ("val", "0000001")):
        for product in ("S1GRD", "S2L2A"):
            content = (chunk_file(pixels, product, PLACES[:1]) if folder == "train"
                       else sample_file(pixels, product, PLACES[1]))
            write(tmp_path / folder / product / f"ssl4eos12_{folder}_seasonal_data_{form}.zarr.zip", content)
    importer = open_(tmp_path)
    entries, rejects = split(importer.entries())
    assert not rejects and [entry.split for entry in entries] == ["train"] * 4 + ["validation"] * 4
    for entry in entries:
        check_pixels(importer, entry, pixels, "S2L2A", 1000 if entry.split == "train" else 0)


def test_radar_without_data(tmp_path, pixels):
    pixels = dict(pixels, S1GRD=pixels["S1GRD"].copy())
    pixels["S1GRD"][0, 0, 0, 5, 6:8] = np.nan
    pixels["S1GRD"][0, 0, 1, 9, 9] = 0
    for product in ("S1GRD", "S2L2A"):
        write(tmp_path / "val" / product / "a.zarr.zip", chunk_file(pixels, product, PLACES[:1]))
    importer = open_(tmp_path)
    pair = importer.read(next(importer.entries()))
    assert (pair.images["s1"] == -32768).sum() == 6
    assert (pair.images["s1"][5, 6:8] == -32768).all() and (pair.images["s1"][9, 9] == -32768).all()


def test_what_cannot_be_a_record_is_rejected(tmp_path, pixels):
    def both(name, s1, s2):
        write(tmp_path / "train" / "S1GRD" / f"{name}.zarr.zip", s1)
        write(tmp_path / "train" / "S2L2A" / f"{name}.zarr.zip", s2)

    radar, optical = chunk_file(pixels, "S1GRD", PLACES[:1]), chunk_file(pixels, "S2L2A", PLACES[:1])
    both("a", chunk_file(pixels, "S1GRD", PLACES[:1], ("", *S1_IDS[1:])), chunk_file(pixels, "S2L2A", PLACES))
    both("b", radar[:-50], optical)
    write(tmp_path / "train" / "S2L2A" / "c.zarr.zip", optical)
    both("d", chunk_file(pixels, "S2L2A", PLACES[1:]), sample_file(pixels, "S1GRD", PLACES[1]))  # wrong way round
    write_tar(tmp_path / "train/S1GRD/e.tar", {"e": radar})
    whole = tmp_path / "train/S2L2A/e.tar"
    write_tar(whole, {"e": optical, "f": optical})
    whole.write_bytes(whole.read_bytes()[:len(optical) + 2000])
    entries, rejects = split(open_(tmp_path).entries())
    reasons = {reject.id: reject.reason for reject in rejects}
    assert [entry.id for entry in entries if entry.where["s2"][0].endswith("/a.zarr.zip")] \
        == ["0080717_1", "0080717_2", "0080717_3"]  # the nearest three
    assert "no acquisition time in the name ''" in reasons["0080717_"]
    assert "3 S1, 4 S2" in reasons[f"0080717_{S2_IDS[0]}"]
    assert sum(reject.id.startswith("0060573_2") and "0 S1, 4 S2" in reject.reason for reject in rejects) == 4
    assert "b.zarr.zip': zip cannot be read" in reasons["train/b"]
    assert reasons["train/c"] == "not in train/S1GRD"
    assert "cannot be read as an uncompressed tar" in reasons["train/S2L2A/e.tar"]
    importer = open_(tmp_path)
    swapped = next(entry for entry in entries if entry.where["s2"][0].endswith("/d.zarr.zip"))
    with pytest.raises(UserError, match="S1GRD/d.zarr.zip' holds bands B01 .* lacks VV VH; is it another product"):
        importer.read(swapped)


def test_places_twice_or_in_the_radar_alone_are_rejected(tmp_path, pixels, capsys):
    for name, radar, optical in (("a", PLACES, PLACES[:1]), ("b", PLACES[:1], PLACES[:1] * 2),
                                 ("c", PLACES[:1] * 2, PLACES[:1])):
        write(tmp_path / "train" / "S1GRD" / f"{name}.zarr.zip", chunk_file(pixels, "S1GRD", radar))
        write(tmp_path / "train" / "S2L2A" / f"{name}.zarr.zip", chunk_file(pixels, "S2L2A", optical))
    write(tmp_path / "train" / "S1GRD" / "d.zarr.zip", b"not looked at")
    entries, rejects = split(open_(tmp_path).entries())
    reasons = {reject.id: reject.reason for reject in rejects}
    assert len(entries) == 4 and len(reasons) == 6
    assert reasons[f"0060573_{S1_IDS[0]}"] == "no S2 image left to pair with: 4 S1, 0 S2"
    assert "S2L2A/b.zarr.zip' names the place '0080717' twice" in reasons["train/b"]
    assert "S1GRD/c.zarr.zip' names the place '0080717' twice" in reasons["train/c"]
    assert "left out 1 radar images without an optical partner: zarr zips of train/S1GRD" in capsys.readouterr().out


def test_damage_is_named_on_reading(tmp_path, pixels):
    for product in ("S1GRD", "S2L2A"):
        content = chunk_file(pixels, product, PLACES[:1])
        write(tmp_path / "train" / product / "a.zarr.zip", content)
    importer = open_(tmp_path)
    entries, _ = split(importer.entries())
    damaged = bytearray(content)
    damaged[content.rindex(b"bands/0.2.0.0.0", 0, content.index(b"PK\x01\x02")) + 500] ^= 1
    write(tmp_path / "train" / "S2L2A" / "a.zarr.zip", damaged)
    importer = open_(tmp_path)
    importer.read(entries[0])
    with pytest.raises(UserError, match="S2L2A/a.zarr.zip': array 'bands' cannot be read .*fetch it again") as error:
        importer.read(entries[2])
    assert "\n" not in str(error.value)
    (tmp_path / "train" / "S1GRD" / "a.zarr.zip").unlink()
    with pytest.raises(UserError, match="S1GRD/a.zarr.zip' is missing"):
        open_(tmp_path).read(entries[0])


def test_missing_folders_are_named(tmp_path):
    (tmp_path / "train" / "S2L2A").mkdir(parents=True)
    with pytest.raises(UserError, match="train/S1GRD' is missing; --raw must name the folder that holds train/"):
        open_(tmp_path)
    with pytest.raises(UserError, match="'ssl4eo_s12_v11' has no tiles"):
        ssl4eo_s12_v11.Importer.layout("tiles")
