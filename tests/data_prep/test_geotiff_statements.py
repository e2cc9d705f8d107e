"""What a GeoTIFF says about itself is compared with geotiff.json: bands, unit, product, level, offset."""

import numpy as np
import pytest
from rasterio.enums import ColorInterp

from dual_encoder.errors import UserError
from dual_encoder.imagery.geotiff_statements import bands_said
from tests.data_prep.geotiff_writing import BANDS, S1, S2, decibels, describe, digital_numbers, pair, read, tif

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("text, feature, bands", [
    ("Sigma0_VH_db", "s1", ["VH"]), ("0_VH", "s1", ["VH"]), ("vv", "s1", ["VV"]), ("VVdB", "s1", ["VV"]),
    ("Gamma0-VV", "s1", ["VV"]), ("VV/VH", "s1", ["VV", "VH"]), ("Sigma0_HH", "s1", ["HH"]), ("savvy", "s1", []),
    ("S2_B8A_20m", "s2", ["B8A"]), ("B2", "s2", ["B02"]), ("b08a", "s2", ["B8A"]), ("swir16", "s2", ["B11"]),
    ("B4, central wavelength 665 nm", "s2", ["B04"]), ("Band 2", "s2", []), ("band_2", "s2", []), ("S2B", "s2", []),
    ("T32TNT_20200607T101031_B02_10m", "s2", ["B02"]), ("(B03)", "s2", ["B03"]), ("infrared", "s2", [])])
def test_a_band_is_named_by_its_token(text, feature, bands):
    assert bands_said(text, feature) == bands


ORDER = [*BANDS[:8], "B09", "B11", "B12", "B8A"]  # by the alphabet


@pytest.mark.parametrize("said", [
    {"names": ["Sigma0_VH_db", "Sigma0_VV_db"]}, {"band_tags": [{"BANDNAME": "VH"}, {"BANDNAME": "VV"}]},
    {"band_tags": [{"long_name": "sigma0 VH"}, {}]}, {"tags": {"band_names": "VH,VV"}},
    {"tags": {"Band_1": "Sigma0_VH", "Band_2": "Sigma0_VV"}}, {"band_tags": [{"POLARISATION": "VH"}, {}]},
    {"names": ["", "0_VV"]}, {"names": ["VV", "HV"]}])
def test_radar_bands_that_contradict_are_told(tmp_path, said):
    pair(tmp_path)
    tif(tmp_path / "s1.tif", decibels(), **said)
    tif(tmp_path / "s2.tif", digital_numbers())
    with pytest.raises(UserError, match=r"s1.tif' calls a band ..?, geotiff.json calls it V.; .*its band [12] is '"):
        read(tmp_path)


def test_optical_bands_that_contradict_are_told(tmp_path):
    pair(tmp_path)
    tif(tmp_path / "s1.tif", decibels())
    tif(tmp_path / "s2.tif", digital_numbers(), names=[f"S2_{band}_20m" for band in ORDER])
    with pytest.raises(UserError, match=r"s2.tif' calls a band B09, geotiff.json calls it B8A; .*'S2_B09_20m'"):
        read(tmp_path)
    tif(tmp_path / "s2.tif", digital_numbers(),
        colorinterp=[ColorInterp.green, ColorInterp.blue, *[ColorInterp.undefined] * 10])
    with pytest.raises(UserError, match="s2.tif' calls a band B03, geotiff.json calls it B01; .* band 1 is 'green'"):
        read(tmp_path)
    tif(tmp_path / "s2.tif", digital_numbers())
    (tmp_path / "s2.tif.aux.xml").write_text('<PAMDataset><PAMRasterBand band="2"><ColorInterp>NIR</ColorInterp>'
                                             '</PAMRasterBand></PAMDataset>')
    with pytest.raises(UserError, match="s2.tif' calls a band B08, geotiff.json calls it B02; .* band 2 is 'nir'"):
        read(tmp_path)
    (tmp_path / "s2.tif.aux.xml").write_text('<PAMDataset><PAMRasterBand band="9"><ColorInterp>NIR</ColorInterp>'
                                             '</PAMRasterBand></PAMDataset>')
    assert read(tmp_path).remarks[0] == "s2: order of the bands taken from geotiff.json"


def test_agreement_and_silence_are_remarks(tmp_path):
    pair(tmp_path)
    s1 = tif(tmp_path / "s1.tif", decibels(), names=["Sigma0_VV_db", "Sigma0_VH_db"])
    tif(tmp_path / "s2.tif", digital_numbers())
    item = read(tmp_path)
    assert item.remarks == ("s2: order of the bands taken from geotiff.json", "s1: bands as the files name them")
    np.testing.assert_array_equal(item.images["s1"], np.rint(np.moveaxis(s1.astype(float), 0, -1) * 100))
    # The colours that any picture of three bands or more has, and numbers of bands, say nothing.
    for said in ({"photometric": "rgb"}, {"names": [f"b{i}" for i in range(1, 13)]},
                 {"names": [f"B{i}" for i in range(12)]}, {"names": [f"Band {i}" for i in range(1, 13)]}):
        tif(tmp_path / "s2.tif", digital_numbers(), **said)
        assert read(tmp_path).remarks[0] == "s2: order of the bands taken from geotiff.json"
    tif(tmp_path / "s2.tif", digital_numbers(), names=[f"S2_{band}_20m" for band in BANDS])
    assert read(tmp_path).remarks[0] == "s2: bands as the files name them"
    # Without a list in geotiff.json the file alone names them.
    pair(tmp_path, s2={key: value for key, value in S2.items() if key != "bands"})
    s2 = tif(tmp_path / "s2.tif", digital_numbers(), names=[f"S2_{band}_20m" for band in ORDER])
    np.testing.assert_array_equal(read(tmp_path).images["s2"], np.moveaxis(s2[[ORDER.index(b) for b in BANDS]], 0, -1))


@pytest.mark.parametrize("section, said, message", [
    (S1 | {"unit": "linear"}, {"names": ["Sigma0_VV_db", "Sigma0_VH_db"]}, r"says 'Sigma0_VV_db' \(dB\), s1.unit .*"),
    (S1, {"units": ["linear", "linear"]}, r"says 'linear' \(linear\), s1.unit of geotiff.json is 'dB'"),
    (S1, {"names": ["Amplitude_VV", "Amplitude_VH"]}, r"says 'Amplitude_VV' \(amplitude\), s1.unit"),
    (S1, {"names": ["Gamma0_VV", "Gamma0_VH"]}, r"says 'Gamma0_VV' \(gamma0\), s1.product .* 'grd' \(sigma0\)"),
    (S1 | {"product": "rtc"}, {"names": ["sigma0_vv", "sigma0_vh"]}, r".*\(sigma0\), s1.product .* 'rtc' \(gamma0\)"),
    (S1, {"names": ["VV_db", "VH_linear"]}, r"says 'VH_linear' \(linear\), s1.unit"),
    (S1, {"names": ["Beta0_VV", "Beta0_VH"]}, r".*\(beta0\), s1.product")])
def test_unit_and_product_that_contradict_are_told(tmp_path, section, said, message):
    pair(tmp_path, s1=section)
    tif(tmp_path / "s1.tif", decibels(), **said)
    tif(tmp_path / "s2.tif", digital_numbers())
    with pytest.raises(UserError, match=f"s1.tif' {message}"):
        read(tmp_path)


@pytest.mark.parametrize("name, message", [
    ("a_gamma0_dB.tif", "'a_gamma0_dB' .gamma0., s1.product"), ("a_linear.tif", "'a_linear' .linear., s1.unit"),
    ("S1A_IW_20230613T180100_DVP_RTC10_G_gpuned_ABCD.tif", "gpu' .linear., s1.unit"),
    ("VH_VV.tif", "calls a band VH, geotiff.json calls it VV"),
    ("S1A_EW_GRDH_1SDH_20230613.tif", "with HH and HV, expected VV and VH")])
def test_the_name_of_a_file_is_a_statement(tmp_path, name, message):
    describe(tmp_path, {"s1": name, "s2": "s2.tif"}, s1=S1, s2=S2)
    tif(tmp_path / name, decibels())
    tif(tmp_path / "s2.tif", digital_numbers())
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_files_of_one_band_say_their_band_by_name_and_description(tmp_path):
    describe(tmp_path, {"s1": "s1_{band}.tif", "s2": "s2.tif"}, s1=S1 | {"bands": {"VV": "VH", "VH": "VV"}}, s2=S2)
    tif(tmp_path / "s2.tif", digital_numbers())
    for band in ("VV", "VH"):
        tif(tmp_path / f"s1_{band}.tif", decibels()[:1])
    with pytest.raises(UserError, match=r"s1_VH.tif' calls its band 's1_VH' \(VH\), geotiff.json takes it for VV"):
        read(tmp_path)
    describe(tmp_path, s1=S1, s2=S2)
    tif(tmp_path / "s1_VV.tif", decibels()[:1], names=["Sigma0_VH"])
    with pytest.raises(UserError, match=r"s1_VV.tif' calls its band 'Sigma0_VH' \(VH\), geotiff.json takes it for VV"):
        read(tmp_path)
    tif(tmp_path / "s1_VV.tif", decibels()[:1], names=["b1"])
    read(tmp_path)
    tif(tmp_path / "s1_VV.tif", decibels()[:1], names=["Sigma0_VV"])
    assert read(tmp_path).remarks[1] == "s1: bands as the names of the files say"
    # Numbers in place of names: B10 is no band of L2A, so B9 is not the band B09.
    numbers = {band: f"B{number}" for number, band in enumerate(BANDS, start=1)}
    describe(tmp_path, {"s1": "s1_{band}.tif", "s2": "s2_{band}.tif"}, s1=S1, s2=S2 | {"bands": numbers})
    for number in range(1, 13):
        tif(tmp_path / f"s2_B{number}.tif", digital_numbers()[:1])
    read(tmp_path)


@pytest.mark.parametrize("offset, scales, offsets, message", [
    (0, 1e-4, -0.1, "0.0001 . -0.1, an offset of 1000, geotiff.json states 0"),
    (1000, 1e-4, 0.0, "0.0001 . 0, an offset of 0, geotiff.json states 1000"),
    (0, 1.0, -1000.0, "an offset of 1000, geotiff.json states 0"),
    (0, 2.75e-5, -0.2, "expected a scale of 0.0001"), (1000, 1e-4, -0.1, ""), (0, 1e-4, 0.0, ""),
    (1000, 1.0, -1000.0, "")])
def test_scale_and_offset_of_a_file_are_compared_with_the_stated_offset(tmp_path, offset, scales, offsets, message):
    pair(tmp_path, s2=S2 | {"offset": offset})
    tif(tmp_path / "s1.tif", decibels())
    s2 = tif(tmp_path / "s2.tif", digital_numbers() + np.uint16(1000), scales=[scales] * 12, offsets=[offsets] * 12)
    if message:
        with pytest.raises(UserError, match=message):
            read(tmp_path)
    else:
        np.testing.assert_array_equal(read(tmp_path).images["s2"], np.moveaxis(s2 - offset, 0, -1))


def test_radar_integers_with_a_scale_are_decibels(tmp_path):
    pair(tmp_path)
    s1 = np.rint(decibels() * 100).astype(np.int16)
    s1[:, 0, 0] = -32768
    tif(tmp_path / "s1.tif", s1, scales=[0.01] * 2, offsets=[0.0] * 2, nodata=-32768)
    tif(tmp_path / "s2.tif", digital_numbers())
    np.testing.assert_array_equal(read(tmp_path).images["s1"], np.moveaxis(s1, 0, -1))


@pytest.mark.parametrize("name, tags, message", [
    ("S2A_MSIL1C_20230607_N0509_R022.tif", {}, "says 'MSIL1C', s2.level of geotiff.json is 'l2a'"),
    ("s2.tif", {"PROCESSING_LEVEL": "Level-1C"}, "says 'Level-1C', s2.level"),
    ("S2A_MSIL2A_20200607_N0214_R022.tif", {}, "baseline 0214, which adds no offset; s2.offset .* is 1000"),
    ("s2.tif", {"BOA_ADD_OFFSET": "0"}, "has the tag BOA_ADD_OFFSET=0, geotiff.json states the offset 1000")])
def test_level_and_baseline_that_contradict_are_told(tmp_path, name, tags, message):
    describe(tmp_path, {"s1": "s1.tif", "s2": name}, s1=S1, s2=S2 | {"offset": 1000})
    tif(tmp_path / "s1.tif", decibels())
    tif(tmp_path / name, digital_numbers() + np.uint16(1000), tags=tags)
    with pytest.raises(UserError, match=message):
        read(tmp_path)
