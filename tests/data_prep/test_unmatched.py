"""Files that fit no pattern: counted by every importer with a first example, said by the build, never a fault."""

import json
import pathlib

import pyarrow
import pyarrow.parquet
import pytest

from data_prep import importers, turned_away
from data_prep.build import plan
from data_prep.build.selection import Filters
from data_prep.importers import Entry, Reject, Unmatched
from data_prep.importers._unmatched import NamedPaths, UnmatchedFiles, is_data, shown
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick

SENSORS = {"s1": "s1_grd", "s2": "s2_l2a"}
PRODUCT_1, PRODUCT_2 = "S1A_IW_GRDH_1SDV_20200510T174031_x", "20200511T174031_T44RKT"
PATCH_1, PATCH_2 = "S1A_IW_GRDH_1SDV_20170612T165043_33UUP_26_57", "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
SEN12MS = ["ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p30.tif", "ROIs1158_spring/s2_1/ROIs1158_spring_s2_1_p30.tif"]
HAND = "data/flood_events/HandLabeled"
OMBRIA = [f"Ombria{sensor}/{split}/{when}/{sensor}_{when.lower()}_0001.png"
          for sensor in ("S1", "S2") for split in ("train", "test") for when in ("BEFORE", "AFTER")]

# importer, sensors, files that it takes, files that it must count (a folder ends in '/').
LAYOUTS = [
    ("ombria", {"s1": "ombria_s1", "s2": "ombria_s2"}, OMBRIA,
     ["OmbriaS1/train/BEFORE/S1_before_0002.PNG", "OmbriaS1/test/AFTER/S1_after_0001 (1).png",
      "OmbriaS2/test/AFTER/x/"]),
    ("sen1floods11", {"s1": "s1_grd", "s2": "s2_l1c"},
     [f"{HAND}/S1Hand/Ghana_1_S1Hand.tif", f"{HAND}/S2Hand/Ghana_1_S2Hand.tif"],
     [f"{HAND}/S1Hand/Ghana_2_S1Hand.TIF", f"{HAND}/S1Hand/Ghana_3_S1.tif", f"{HAND}/S2Hand/Ghana_1_S1Hand.tif"]),
    ("sen12ms", {"s1": "s1_grd", "s2": "s2_l1c"}, SEN12MS,
     ["ROIs1158_spring.tar.gz", "ROIs1158_spring/s1_1/ROIs1158_spring_s1_1_p31.TIF", "ROIs1158/",
      "ROIs1158_spring/s2_1/ROIs1158_spring_1_p30.tif", "ROIs1158_spring/s1/"]),
    ("sen12ms_cr", {"s1": "s1_grd", "s2": "s2_l1c"},
     ["s1/ROIs1970_fall_139_p839.tif", "s2_cloudfree/ROIs1970_fall_139_p839.tif"],
     ["s1/ROIs1970_fall_139_p839_copy.tif", "s2_cloudfree/preview.png"]),
    ("dfc2020", {"s1": "s1_grd", "s2": "s2_l1c"},
     [name.replace("ROIs1158_spring", "ROIs0000_test") for name in SEN12MS],
     ["ROIs0000_test/s1_1/a.tif", "ROIs0000_test/s2_1/deeper/"]),
    ("ssl4eo_s12", SENSORS, [f"s1/0000200/{PRODUCT_1}/VV.tif", f"s2a/0000200/{PRODUCT_2}/B1.tif"],
     ["s1/200/", "s1/000200/", "s2a/part.tar", "s2a/0000200/B1.tif"]),
    ("ssl4eo_s12_v11", SENSORS, ["train/S1GRD/a.zarr.zip", "train/S2L2A/a.zarr.zip"],
     ["train/S1GRD/a.zarr", "train/S2L2A/b.tar.gz", "train/S2L2A/c.zarr/"]),
    ("terramesh", SENSORS, ["val/S1GRD/a.zarr.zip", "val/S2L2A/a.zarr.zip"], ["val/S1GRD/b.ZIP", "val/S2L2A/old/"]),
    ("terramesh", {"s1": "s1_rtc", "s2": "s2_l2a"}, ["S1RTC/a.tif", "S2L2A/a.tif"], ["S1RTC/b.tiff", "S2L2A/c/"]),
    ("majortom", {"s1": "s1_rtc", "s2": "s2_l2a"},
     ["Core-S1RTC/images/part_1.parquet", "Core-S2L2A/images/part_1.parquet"],
     ["Core-S1RTC/images/part_2.parquet", "Core-S2L2A/images/part_1.parquet.crdownload"]),
    ("majortom", {"s1": "s1_rtc", "s2": "s2_l2a"},
     [f"Core-S1RTC/433D/433D_1160R/{PRODUCT_1}/vv.tif", f"Core-S2L2A/433D/433D_1160R/{PRODUCT_1}/B02.tif"],
     ["Core-S1RTC/433D/433D/", "Core-S1RTC/row/", "Core-S2L2A/433D/433D_1160R/B02.tif"]),
    ("bigearthnet", SENSORS, [f"BigEarthNet-S1/{PATCH_1.rsplit('_', 3)[0]}/{PATCH_1}/{PATCH_1}_VV.tif",
                              f"BigEarthNet-S2/{PATCH_2.rsplit('_', 2)[0]}/{PATCH_2}/{PATCH_2}_B02.tif"],
     [f"BigEarthNet-S1/{PATCH_1.rsplit('_', 3)[0]}/{PATCH_1[:-1]}8/", "BigEarthNet-S2/scene/patch/",
      "BigEarthNet-S2/lost.tif"])]


def fill(raw, files):
    for name in files:
        path = raw / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()


def tables(raw):
    """The tables of BigEarthNet and Major-TOM, for the files above."""
    if (raw / "BigEarthNet-S1").is_dir():
        pyarrow.parquet.write_table(pyarrow.table({"patch_id": [PATCH_2], "s1_name": [PATCH_1], "split": ["train"]}),
                                    raw / "metadata.parquet")
    for folder in (raw / "Core-S1RTC", raw / "Core-S2L2A"):
        if (folder / "images").is_dir():
            pyarrow.parquet.write_table(pyarrow.table({
                "grid_cell": ["433D_1160R"], "product_id": [PRODUCT_1], "centre_lat": [1.0], "centre_lon": [2.0],
                "parquet_url": ["https://x/part_1.parquet"], "parquet_row": [0]}), folder / "metadata.parquet")


@pytest.mark.parametrize("name, sensors, taken, beside", LAYOUTS, ids=[f"{row[0]}-{row[2][0]}" for row in LAYOUTS])
def test_every_importer_counts_what_it_does_not_take(tmp_path, name, sensors, taken, beside):
    fill(tmp_path, taken)
    tables(tmp_path)
    before = list(importers.open_raw(name, tmp_path, "pairs", sensors).entries())
    folder = taken[0].rsplit("/", 1)[0]
    ending = "".join(pathlib.PurePath(taken[0]).suffixes)
    fill(tmp_path, [f"{folder}/README.md", f"{folder}/._{pathlib.PurePath(taken[0]).name}", f"{folder}/.hidden{ending}",
                    f"{folder}/a.aux.xml", f"{folder}/Thumbs.db"])
    assert before and not any(isinstance(item, Unmatched) for item in before)
    assert list(importers.open_raw(name, tmp_path, "pairs", sensors).entries()) == before
    fill(tmp_path, beside)
    found = list(importers.open_raw(name, tmp_path, "pairs", sensors).entries())
    unmatched = [item for item in found if isinstance(item, Unmatched)]
    assert sum(item.count for item in unmatched) == len(beside)
    examples = {example for item in unmatched for example in item.examples}
    root = f"{HAND}/" if name == "sen1floods11" else ""
    assert {f"{root}{example}" for example in examples} <= set(beside)
    assert [item for item in found if not isinstance(item, Unmatched)] == before  # the records are the same


def test_npz_and_mmearth_count_what_lies_beside(tmp_path):
    from tests.data_prep.test_build_at_scale import write_raw
    from tests.data_prep.test_mmearth import make
    from tests.data_prep.test_mmearth import write as write_mmearth

    raw = write_raw(tmp_path / "npz", files=1)
    fill(raw, ["b.NPZ", "c.npy", "old/d.npz", "figures/e.png", "notes.txt", "._part0.npz"])
    found = list(importers.open_raw("npz", raw, "pairs", SENSORS).entries())
    assert [item.examples for item in found if isinstance(item, Unmatched)] == [("b.NPZ", "c.npy", "old/")]
    write_mmearth(tmp_path / "mmearth")
    fill(tmp_path / "mmearth", ["data_1M.hdf5", "x.json"])
    found = list(make(tmp_path / "mmearth").entries())
    assert [item.examples for item in found if isinstance(item, Unmatched)] == [("data_1M.hdf5",)]


def test_a_patch_under_two_names_is_not_taken_in_silence(tmp_path):
    fill(tmp_path, [*SEN12MS, "ROIs1158_spring/s1_1/ROIs1158_spring_1_p030.tif"])
    found = list(importers.open_raw("sen12ms", tmp_path, "pairs", {"s1": "s1_grd", "s2": "s2_l1c"}).entries())
    entry, unmatched = found
    assert (entry.where["s1"], unmatched.id) == (SEN12MS[0], "ROIs1158_spring/s1_1/ROIs1158_spring_1_p030.tif")


# The build

def make(folder, entries):
    return plan.make(folder, iter(entries), {"raw": "r"}, split_by="source", count_shards=lambda count: 1,
                     block_degrees=1.0, filters=Filters())


def test_the_listing_says_it_and_no_limit_counts_it(tmp_path, capsys):
    files = UnmatchedFiles("a name like 'a.tif'")
    for number in range(1000):
        files.add(f"s1/{number:03d}.TIF")
    made = make(tmp_path, [Entry("a", "a", "train", {}), *files.result(), Reject("b", "broken")])
    assert made.faults == 1
    assert ("listed 1 entries (train 1), 1 turned away by fault, 1000 files left out ('s1/000.TIF' fits no pattern; "
            "expected a name like 'a.tif')") in capsys.readouterr().out
    rows = (tmp_path / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(row)["kind"] for row in rows] == ["fault", "unmatched"]
    assert json.loads(rows[1])["count"] == 1000
    assert json.loads(rows[1])["examples"] == ["s1/000.TIF", "s1/001.TIF", "s1/002.TIF"]
    assert list(turned_away.summary(rows, "FILE")) == [
        "1 unusable and 0 filtered out, see FILE", "  b: broken",
        "1000 files fit no pattern and are left out, see FILE",
        "  s1/000.TIF: fits no pattern; expected a name like 'a.tif'"]
    assert turned_away.count(rows, "FILE") == "1 rejected by the build, 1000 files left out, see FILE"
    assert turned_away.count(rows[:1], "FILE") == "1 rejected by the build, see FILE"
    assert turned_away.first_reason(rows) == "'b': broken" and turned_away.first_reason([]) == ""


def test_a_folder_without_a_record_says_what_lies_there(tmp_path):
    files = UnmatchedFiles("a name like 'a.tif'")
    files.add("b.TIF")
    with pytest.raises(UserError, match=r"it holds no entry, 1 file left out \('b.TIF' fits no pattern; expected"):
        make(tmp_path, files.result())


def test_a_build_ends_with_the_count(cli, tmp_path):
    from tests.data_prep.test_build_at_scale import build, data_folder, write_raw

    raw = write_raw(tmp_path / "raw", files=1)
    fill(raw, ["b.NPZ", "c.npy"])
    process = cli(*build(raw, tmp_path, "--workers=1", "--max-rejected=0"))
    assert process.returncode == 0, process.stderr
    assert ", 2 files left out ('b.NPZ' fits no pattern; expected a name that ends in .npz" in process.stdout
    assert f"2 files fit no pattern and are left out, see {data_folder(tmp_path) / 'rejected.jsonl'}" in process.stdout
    process = cli("inspect", data_folder(tmp_path), f"--out={tmp_path / 'sheet.png'}")
    assert "0 rejected by the build, 2 files left out, see" in process.stdout


# The parts

def test_what_is_clearly_no_data():
    for name in ("README", "readme.md", "LICENSE", "licence.txt", "COPYING", "a.json", "pairs.csv", "a.tif.aux.xml",
                 "a.ovr", "a.tif.msk", ".x.tif", "._a.tif", "Thumbs.db", "desktop.ini", ".DS_Store", "__MACOSX",
                 "a.tfw", "~$a.xlsx"):
        assert not is_data(name), name
    for name in ("a.tif", "A.TIF", "a.tif.part", "a.zip", "readmes.tif", "license.tif", "notice_1.tif", "s1", "a"):
        assert is_data(name), name


def test_names_as_one_line_and_a_set_of_paths():
    assert shown("a\nb\udcf6\u2028é\u00a0") == "a\\nb\\udcf6\\u2028é\u00a0"
    named = NamedPaths()
    assert "a" not in named
    for path in ("b", "a", "c"):
        named.add(path)
        assert path in named and "d" not in named
