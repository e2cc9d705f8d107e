"""Names and tables of own GeoTIFFs: literal, in either form of Unicode; slices of a pass; files that fit no pattern."""

import os
import pathlib
import unicodedata

import numpy as np
import pytest
from affine import Affine

from data_prep import importers, record
from data_prep.importers import Entry, Reject, Unmatched
from data_prep.importers._geotiff_bands import Part, whole_images
from data_prep.pairing import nearest_in_time
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster
from dual_encoder.imagery.geotiff_json import alternatives
from tests.data_prep.test_geotiff import PLACE, S1, S2, S2_BANDS, decibels, describe, make, names, reflectance, write

pytestmark = pytest.mark.quick

NFC, NFD = (unicodedata.normalize(form, "Córdoba") for form in ("NFC", "NFD"))
NAMED = {"s1": S1 | {"files": "s1/{place}_{date}.tif"}, "s2": S2 | {"files": "s2/{place}_{date}.tif"}}


def parted(rows):
    rows = list(rows)
    return ([row for row in rows if isinstance(row, Entry)], [row for row in rows if type(row) is Reject],
            [row for row in rows if isinstance(row, Unmatched)])


def pair_of(raw, name="a", **options):
    write(raw / f"s1/{name}_20200607.tif", decibels(), **options)
    write(raw / f"s2/{name}_20200605.tif", reflectance(), **options)


# Names

@pytest.mark.parametrize("s1, s2, files", [
    ("{place}_{date} [GRD].tif", "{place}_{date} [L2A].tif",
     ("a_20200607 [GRD].tif", "a_20200605 [L2A].tif", "a_20200607 G.tif", "a_20200605 L.tif")),
    ("{place}_{date}?.tif", "{place}!_{date}.tif",
     ("a_20200607?.tif", "a!_20200605.tif", "a_20200607x.tif", "a_20200605.tif")),
    ("./{place}_s1_{date}.TIF", "{place}\\x_{date}.tif",  # a backslash is a slash
     ("a_s1_20200607.TIF", "a/x_20200605.tif", "a_s1_20200608.tif", "a/x_20200605.tiff"))])
def test_names_are_literal(tmp_path, s1, s2, files):
    raw = describe(tmp_path, s1=S1 | {"files": s1}, s2=S2 | {"files": s2})
    entries, rejects, unmatched = parted(names(raw, files))
    assert [(entry.where["s1"], entry.where["s2"]) for entry in entries] == [files[:2]] and not rejects
    assert sum(item.count for item in unmatched) == 2 and {item.id for item in unmatched} <= set(files[2:])


def test_another_letter_case_is_said(tmp_path):
    raw = describe(tmp_path, **NAMED)
    _, _, (unmatched,) = parted(names(raw, ["s1/a_20200607.tif", "s2/a_20200607.tif", "s2/B_20200607.TIF"]))
    assert unmatched.id == "s2/B_20200607.TIF" and unmatched.reason.endswith("in this letter case")


def test_product_names_in_small_letters_and_bands_that_differ_in_more_than_the_band(tmp_path):
    raw = describe(tmp_path, s2=S2 | {"files": "s2/{place}/S2*_MSIL2A_{date}_*.tif"}, s1=S1 | {
        "files": "s1/{place}/s1*-iw-grd-{band}-{date}-*.tiff", "bands": {"VV": "vv", "VH": "vh"}})
    s1 = decibels()
    for number, band in enumerate(("vv", "vh")):
        write(raw / f"s1/a/s1c-iw-grd-{band}-20250607t180100-20250607t180125-001234-00abcd-00{number + 1}.tiff",
              s1[number:number + 1])
    write(raw / "s2/a/S2C_MSIL2A_20250607T101031_N0511_R022_T32TNT_20250607T140000.tif", reflectance())
    (entry,), rejects, unmatched = parted(make(raw).entries())
    assert not rejects and not unmatched and entry.times == {"s1": 1749319260, "s2": 1749291031}
    pair = make(raw).read(entry)
    np.testing.assert_array_equal(pair.images["s1"][..., 1], np.rint(s1[1].astype(float) * 100))


def test_bands_in_folders_of_their_resolution(tmp_path):
    tokens = {band: f"{band}_{60 if band in ('B01', 'B09') else 10}m" for band in S2_BANDS}
    raw = describe(tmp_path, s1=NAMED["s1"], s2=S2 | {"files": "{place}/R*/T*_{date}_{band}.tif", "bands": tokens})
    files = [f"a/R{token[-3:]}/T32_20200605_{token}.tif" for token in tokens.values()]
    (entry,), rejects, (unmatched,) = parted(names(raw, [
        "s1/a_20200607.tif", *files, "a/R10m/T32_20200605_TCI_10m.tif"]))
    assert list(alternatives(entry.where["s2"], S2_BANDS).values()) == files and not rejects
    assert unmatched.examples == ("a/R10m/T32_20200605_TCI_10m.tif",)
    (raw / files[4]).unlink()
    _, (reject,), _ = parted(make(raw).entries())
    assert reject.reason == "'a/R10m/T32_20200605_B05_10m.tif' is missing"


def test_bands_are_joined_only_if_each_is_there_once():
    def parts(*found):
        return [Part(f"{stars}_{{band}}", bits, f"{stars}/") for stars, bits in found]

    assert list(whole_images(parts(("x", 3), ("y", 3)), ["v", "h"])) == ["x_{band}", "y_{band}"]
    assert list(whole_images(parts(("x", 1), ("y", 2)), ["v", "h"])) == ["{x_v|y_h}"]
    assert list(whole_images(parts(("x", 1), ("y", 2), ("z", 2)), ["v", "h"])) == ["x_{band}", "y_{band}", "z_{band}"]
    assert list(whole_images(parts(("x", 0)), [])) == ["x_{band}"]
    assert alternatives("{x_v|y_h}", ("VV", "VH")) == {"VV": "x_v", "VH": "y_h"}
    assert alternatives("a_{band}.tif", ("VV", "VH")) is None is alternatives("{a|b|c}", ("VV", "VH"))


@pytest.mark.parametrize("folder, file", ((NFC, NFD), (NFD, NFC), (NFD, NFD)))
def test_both_forms_of_unicode_are_one_name(tmp_path, folder, file):
    by_name = describe(tmp_path / "names", s1=S1 | {"files": f"{NFC}/{{place}}_{{band}}.tif"},
                       s2=S2 | {"files": "s2/{place}.tif"})
    by_table = describe(tmp_path / "table", [{"s1": f"{NFC}/{NFC}_{{band}}.tif", "s2": f"s2/{NFD}.tif"}], s1=S1, s2=S2)
    for raw in (by_name, by_table):
        for band in ("VV", "VH"):
            write(raw / folder / f"{file}_{band}.tif", decibels()[:1])
        write(raw / f"s2/{NFC}.tif", reflectance())
        (entry,), rejects, unmatched = parted(make(raw).entries())
        assert not rejects and not unmatched and entry.id == (NFC if raw == by_name else f"s2/{NFC}")
        assert make(raw).read(entry).images["s1"].shape == (32, 32, 2)


def test_tables_may_have_backslashes_dots_and_blank_rows(tmp_path):
    raw = describe(tmp_path, s1=S1, s2=S2)
    pair_of(raw)
    (raw / "pairs.csv").write_text("s1,s2,id\ns1\\a_20200607.tif,s2\\a_20200605.tif,back\n,,\n"
                                   "./s1/a_20200607.tif,s2//a_20200605.tif,dots\n,,\n")
    entries, rejects, unmatched = parted(make(raw).entries())
    assert [entry.id for entry in entries] == ["back", "dots"] and not rejects and not unmatched
    assert {entry.where["s1"] for entry in entries} == {"s1/a_20200607.tif"}


def test_names_that_are_no_text_are_rejected_in_printable_letters(tmp_path):
    raw = describe(tmp_path, s1=S1 | {"files": "s1/{place}.tif"}, s2=S2 | {"files": "s2/{place}.tif"})
    for folder in ("s1", "s2"):
        (raw / folder).mkdir()
        for name in (b"K\xf6ln.tif", b"new\nline.tif", b"n\xc2\xa0bsp.tif"):
            open(os.fsencode(raw / folder) + b"/" + name, "w").close()
    open(os.fsencode(raw / "s1") + b"/lost\xff.png", "w").close()
    (entry,), rejects, (unmatched,) = parted(make(raw).entries())
    assert entry.id == "n\u00a0bsp" and [item.id for item in rejects] == ["K\\udcf6ln", "new\\nline"]
    assert "line breaks, or bytes that are no UTF-8" in rejects[0].reason and unmatched.id == "s1/lost\\udcff.png"


@pytest.mark.parametrize("name", ("we[i]rd # é?", "a:b", "zip+file:", "GTIFF_DIR:1:x", "x\ny", "q'uo\"te", "%20", "-x",
                                  "vsizip", "*"))
def test_the_raw_folder_may_be_called_anything(tmp_path, monkeypatch, name):
    raw = describe(tmp_path / name, **NAMED)
    pair_of(raw)
    monkeypatch.chdir(tmp_path)
    for given in (raw, pathlib.Path(name)):
        importer = importers.open_raw("geotiff", given, "pairs", {"s1": "s1_grd", "s2": "s2_l2a"})
        (entry,) = importer.entries()
        assert importer.read(entry).images["s1"].shape == (32, 32, 2) and entry.lat == pytest.approx(46.94, abs=0.01)


# Files that fit no pattern

def test_what_fits_no_pattern_is_counted_with_examples_and_what_is_no_data_is_not(tmp_path):
    raw = describe(tmp_path, s1=S1 | {"files": "{place}_s1_{date}.tif"}, s2=S2 | {"files": "{place}_s2_{date}.tif"},
                   label={"classes": {"land": 0, "water": 1}, "files": "label/{place}.tif"})
    found = names(raw, [
        "a_s1_20200607.tif", "a_s2_20200607.tif", "a_s1_2020.tif", "a.zip", "b.tif.part", "old/a_s1_20200607.tif",
        "label/a.tif", "README", "readme.md", "LICENSE.txt", "pairs.csv", "a_s1_20200607.tif.aux.xml",
        "a_s2_20200607.tif.ovr", "a_s2_20200607.tif.msk", ".hidden.tif", "._b_s1_20200607.tif",
        "Thumbs.db", ".DS_Store", "scene.json",
        "__MACOSX/a_s1_20200607.tif", "preview.xml"])
    entries, rejects, (unmatched,) = parted(found)
    assert len(entries) == 1 and not rejects  # one folder of two patterns counts once; `label` has a pattern of its own
    assert (unmatched.count, unmatched.examples) == (4, ("a.zip", "a_s1_2020.tif", "b.tif.part"))
    (raw / "old").rename(raw / "0")
    assert parted(make(raw).entries())[2][0].id == "0/"


def test_labels_that_no_image_takes_are_counted(tmp_path):
    raw = describe(tmp_path, s1=NAMED["s1"], label={"classes": {"land": 0, "water": 1},
                                                    "files": "label/{place}_{date}.tif"})
    for name in ("s1/a_20200607T180100.tif", "label/a_2020-06-07T18-01-00.tif", "label/a_20200608.tif", "label/b_1.tif",
                 "label/c_20200607.tif", "s1/d_20200607.tif"):
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).touch()
    (entry,), (reject,), unmatched = parted(make(raw, "tiles", ("s1",)).entries())
    assert entry.where["label"] == "label/a_2020-06-07T18-01-00.tif"  # the same time in another form
    assert reject == Reject("d_20200607", "'label/d_20200607.tif' is missing")
    assert [(item.id, item.count) for item in unmatched] == [("label/b_1.tif", 1), ("label/a_20200608.tif", 2)]


def test_files_that_the_table_does_not_name_are_counted(tmp_path):
    raw = describe(tmp_path, [{"s1": "s1/a_20200607.tif", "s2": "s2/a_20200605.tif", "label": "s2/label.tif"}], s1=S1,
                   s2=S2)
    pair_of(raw)
    for name in ("s1/b.tif", "s1/b.tif.aux.xml", "s2/label.tif", "elsewhere/c.tif", "s2/c.png"):
        (raw / name).parent.mkdir(exist_ok=True)
        (raw / name).touch()
    _, rejects, (unmatched,) = parted(make(raw).entries())
    assert (unmatched.count, unmatched.examples) == (2, ("s1/b.tif", "s2/c.png")) and not rejects


def test_a_pattern_that_fits_nothing_says_what_lies_there(tmp_path):
    raw = describe(tmp_path, **NAMED)
    with pytest.raises(UserError, match=r"named like 's1/{place}_{date}.tif' \(s1.files of geotiff.json\) \(beside it: "
                                        r"2 files, first 's1/a.tif'\); mend the pattern"):
        names(raw, ["s1/a.tif", "s1/b.tif"])


def test_a_table_that_is_not_read_is_said(tmp_path, capsys):
    raw = describe(tmp_path, [{"s1": "s1/a_20200607.tif", "s2": "s2/a_20200605.tif"}], s1=S1, s2=S2)
    pair_of(raw)
    (raw / "pairs.parquet").touch()
    assert len(list(make(raw).entries())) == 1
    assert "pairs.parquet' is not read: 'pairs.csv' lies beside it" in capsys.readouterr().out
    describe(raw, **NAMED)
    assert len(list(make(raw).entries())) == 1
    assert "pairs.csv' is not read: geotiff.json gives patterns in 'files'" in capsys.readouterr().out


# Slices of one pass

@pytest.mark.parametrize("missing, no_data", ((np.nan, None), (0, None), (-99, -99)))
def test_the_fuller_slice_of_a_pass_is_taken(tmp_path, missing, no_data):
    raw = describe(tmp_path, s1=S1 | {"files": "s1/{place}_{date}_*.tif", "no_data": no_data}, s2=NAMED["s2"])
    write(raw / "s2/a_20200605.tif", reflectance())
    corner = decibels()
    corner[:, :, 3:] = missing
    write(raw / "s1/a_20200605T180000_x.tif", corner)  # nearer to midnight
    write(raw / "s1/a_20200605T180025_y.tif", decibels())
    write(raw / "s1/a_20200605T180050_z.tif", decibels(), PLACE @ Affine.translation(20, 0))  # covers 12 of 32 columns
    (entry,), rejects, _ = parted(make(raw).entries())
    assert entry.where["s1"] == "s1/a_20200605T180025_y.tif" and len(rejects) == 2
    (raw / "s1/a_20200605T180025_y.tif").unlink()
    assert parted(make(raw).entries())[0][0].where["s1"] == "s1/a_20200605T180050_z.tif"
    (raw / "s1/a_20200605T180050_z.tif").write_bytes(b"damaged")
    assert parted(make(raw).entries())[0][0].where["s1"] == "s1/a_20200605T180000_x.tif"


def test_of_two_slices_each_optical_image_gets_its_own(tmp_path):
    raw = describe(tmp_path, s1=S1 | {"files": "s1/{place}_{date}_*.tif"}, s2=S2 | {"files": "s2/{place}_{date}_*.tif"})
    for number, x in enumerate((0, 40)):
        write(raw / f"s2/a_20200605T101031_{number}.tif", reflectance(), PLACE @ Affine.translation(x, 0))
        write(raw / f"s1/a_20200605T1800{25 - number:02}_{number}.tif", decibels(), PLACE @ Affine.translation(x, 0))
    entries, _, _ = parted(make(raw).entries())
    assert {(entry.where["s1"][-5], entry.where["s2"][-5]) for entry in entries} <= {("0", "0"), ("1", "1")}


def test_shares_are_asked_only_for_a_choice():
    asked = []

    def share(i, j):
        asked.append((i, j))
        return i

    day = 86400
    assert nearest_in_time([0, 10 * day], [0, 10 * day], share) == [(0, 0), (1, 1)] and not asked
    assert nearest_in_time([0, 25, 50, 10 * day], [0, 10 * day], share) == [(2, 0), (3, 1)]
    assert set(asked) == {(0, 0), (1, 0), (2, 0)}
    assert nearest_in_time([0, 25, 50], [0]) == [(0, 0)]  # without shares by time alone


# Longitudes

@pytest.mark.parametrize("given, folded", [
    (180.02, -179.98), (290, -70), (-190, 170), (180, -180), (-180, -180), (360, 0), (179.9, 179.9), (-70.5, -70.5)])
def test_longitudes_are_folded_in_entries_and_records(given, folded):
    entry = Entry("a", "a", "", {}, lat=1, lon=given)
    assert entry.lon == pytest.approx(folded, abs=1e-9)
    pair = record.Pair.of(Entry("a", "a", "", {}), images={}, source="", lat=1, lon=given)
    assert pair.lon == pytest.approx(folded, abs=1e-9)


@pytest.mark.parametrize("given", (360.1, -400, 600000, float("inf")))
def test_other_longitudes_are_no_longitudes(given):
    assert Entry("a", "a", "", {}, lon=given).lon == given


@pytest.mark.parametrize("radar, optical", ((290, -70), (-70, 290), (180, -180), (-180.0016, 179.9984)))
def test_grids_that_count_longitudes_in_two_ways_are_one_place(tmp_path, radar, optical):
    raw = describe(tmp_path, [{"s1": "s1.tif", "s2": "s2.tif"}], s1=S1, s2=S2)
    s1 = write(raw / "s1.tif", decibels(), Affine(1e-4, 0, radar, 0, -1e-4, -15), "EPSG:4326")
    write(raw / "s2.tif", reflectance(), Affine(1e-4, 0, optical, 0, -1e-4, -15), "EPSG:4326")
    (entry,), _, _ = parted(make(raw).entries())
    pair = make(raw).read(entry)
    assert -180 <= pair.lon < 180
    np.testing.assert_array_equal(pair.images["s1"], np.rint(np.moveaxis(s1, 0, -1).astype(float) * 100))


def test_a_scene_across_the_antimeridian_covers_chips_on_both_sides(tmp_path):
    values = np.arange(400, dtype=np.float32)[None, None].repeat(40, 1)
    write(tmp_path / "scene.tif", values, Affine(0.05, 0, 170, 0, -0.05, 1), "EPSG:4326")
    import rasterio
    for longitude, column in ((175, 100), (-175, 300), (-170.5, 390)):
        chip = raster.Grid(rasterio.crs.CRS.from_epsg(4326), Affine(0.05, 0, longitude, 0, -0.05, 0.5), (4, 4))
        part = raster.load(tmp_path / "scene.tif", around=chip)
        assert column in part.values[0] and part.values.shape[-1] < 20
        assert (raster.resample(part.values, part.grid, chip, np.nan)[0, 0] == np.arange(column, column + 4)).all()
