"""`describe` writes a geotiff.json of folders as people have them; a build reads it as it is."""

import json
import pathlib
import re

import numpy as np
import pytest
from affine import Affine

from data_prep.describe.description import describe
from data_prep.importers import _geotiff_json
from dual_encoder.errors import UserError
from tests.data_prep.geotiff_writing import BANDS, decibels, digital_numbers, tif

PLACES = ("lagos", "oslo", "new_york", "rome")
GEE = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12", "QA60"]
GRD = ("s1.product=GRD",)  # any letter case


def images():
    """Yields the number, the place, radar, optical values and the transform of some pairs."""
    for number, place in enumerate(PLACES):
        yield number, place, decibels(), digital_numbers(), Affine(10, 0, 600000 + 3e4 * number, 0, -10, 5200000)


def same_names(raw):
    for _, place, radar, optical, at in images():
        tif(raw / f"s1/{place}.tif", radar, at)
        tif(raw / f"s2/{place}.tif", optical + 1000, at)
    return {"s1": {"files": "s1/{place}.tif", "unit": "dB"}, "s2": {"offset": 1000, "unit": "reflectance x 10000"}}


def a_file_per_band(raw):
    for _, place, radar, optical, at in images():
        for band, values in zip(("VV", "VH", *BANDS), (*radar, *optical), strict=True):
            tif(raw / f"{place}_{band}.tif", values[None], at)
    return {"s1": {"files": "{place}_{band}.tif", "bands": ["VH", "VV"]}, "s2": {"files": "{place}_{band}.tif"}}


def stacks(raw):
    for number, _, radar, optical, at in images():
        tif(raw / f"patch_{number:03d}.tif", np.concatenate([radar, optical.astype(np.float32)]), at)
    return {"s1": {"files": "patch_{place}.tif", "bands": ["VV", "VH", *BANDS]}, "s2": {"files": "patch_{place}.tif"}}


def hand_labels(raw):
    for number, _, radar, optical, at in images():
        name = f"Ghana_{103272 + number}"
        tif(raw / f"S1Hand/{name}_S1Hand.tif", radar, at)
        tif(raw / f"S2Hand/{name}_S2Hand.tif", np.insert(optical, 10, 20, axis=0), at)
        label = np.tile(np.array([-1, 0, 1, 1], np.int16), (16, 4))
        tif(raw / f"LabelHand/{name}_LabelHand.tif", label[None], at)
    return {"s2": {"level": "l1c"}, "label": {"classes": {"class_0": 0, "class_1": 1}, "ignore": [-1],
                                              "files": "LabelHand/Ghana_{place}_LabelHand.tif"}}


def earth_engine(raw):
    for number, place, radar, optical, at in images():
        tif(raw / f"S1_{place}_2020060{number + 1}.tif", np.concatenate([radar, radar[:1] * 0 + 38]), at,
            names=["VV", "VH", "angle"])
        floats = np.concatenate([optical, optical[:1]]) / np.float32(10000)
        tif(raw / f"S2_{place}_2020060{number + 2}.tif", floats, at, names=GEE)
    return {"s1": {"files": "S1_{place}_{date}.tif", "bands": ["VV", "VH", "ANGLE"]},
            "s2": {"files": "S2_{place}_{date}.tif", "unit": "reflectance"}}


def products(raw):
    for number, _, radar, optical, at in images():
        tile, clock = f"T32TQ{'MNPQ'[number]}", f"2020060{number + 1}T10103{number}"
        tif(raw / tile / f"S1A_IW_GRDH_1SDV_{clock}_{clock}_03290{number}_{tile}.tif", 10 ** (radar / 10), at)
        tif(raw / tile / f"S2A_MSIL2A_{clock}_N0214_R022_{tile}_20200604T13000{number}.tif", optical, at)
    return {"s1": {"files": "{place}/S1A_IW_GRDH_1SDV_{date}_{date}_*_{place}.tif", "unit": "linear", "product": "grd"},
            "s2": {"files": "{place}/S2A_MSIL2A_{date}_N0214_R022_{place}_*.tif"}}


@pytest.mark.quick
@pytest.mark.parametrize("layout", [same_names, a_file_per_band, stacks, hand_labels, earth_engine, products])
def test_each_layout_is_described_and_read(tmp_path, layout):
    expected = layout(tmp_path)
    lines = list(describe(tmp_path, () if layout is products else GRD, anew=False))
    said = json.loads((tmp_path / "geotiff.json").read_text())
    assert said["size"] == 16 and "decide" not in said
    for section, values in expected.items():
        assert {key: said[section][key] for key in values} == values
    kind = "tiles" if layout is hand_labels else "pairs"
    assert f"tried: {len(PLACES)} {kind}, {len(PLACES)} of them read" in lines
    assert not [line for line in lines if line.startswith(("not taken", "not usable"))]
    assert lines[-1].startswith(f"next: python -m data_prep build --importer=geotiff --raw={tmp_path} --data_dir=data")


@pytest.mark.quick
def test_what_no_file_says_is_for_a_person_to_decide(tmp_path):
    same_names(tmp_path)
    for _, place, _, optical, at in images():
        if place == "oslo":
            tif(tmp_path / f"s2/{place}.tif", optical, at)  # without the offset of the others
    lines = list(describe(tmp_path, (), anew=False))
    said = json.loads((tmp_path / "geotiff.json").read_text())
    assert said["s1"]["product"] == said["s2"]["offset"] == "?" and set(said["decide"]) == {"s1.product", "s2.offset"}
    assert any(line.startswith("decide s2.offset: 3 of 4 images look like 1000") for line in lines)
    with pytest.raises(UserError, match=r"s1.product is '\?', expected one of 'grd', 'rtc'"):
        _geotiff_json.read(tmp_path)
    command = lines[-1].split(" (")[0].removeprefix("next: python -m data_prep describe ")
    assert command == f"{tmp_path} --set=s1.product=VALUE --set=s2.offset=VALUE"

    # An answer is kept, and what a person wrote is not overwritten.
    said["s2"]["offset"], said["licence"] = 1000, "CC0"
    (tmp_path / "geotiff.json").write_text(json.dumps(said))
    lines = list(describe(tmp_path, ("s1.product=rtc",), anew=False))
    assert any(line.startswith("tried: 4 pairs") for line in lines)
    said = json.loads((tmp_path / "geotiff.json").read_text())
    assert (said["s1"]["product"], said["s2"]["offset"], said["licence"]) == ("rtc", 1000, "CC0")


@pytest.mark.quick
def test_a_wrong_folder_or_answer_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no radar or optical raster"):
        list(describe(tmp_path, (), anew=False))
    same_names(tmp_path)
    with pytest.raises(UserError, match="--set=product has no such form"):
        list(describe(tmp_path, ("product",), anew=False))
    with pytest.raises(UserError, match="unknown key 's1.prodct'"):
        list(describe(tmp_path, ("s1.product=grd", "s1.prodct=grd"), anew=False))


def test_after_a_mended_description_the_same_build_command_starts_anew(cli, tmp_path):
    def build():
        return cli("build", "--importer=geotiff", f"--raw={raw}", f"--data_dir={tmp_path / 'data'}", "--workers=1",
                   "--max-rejected=2")

    raw = tmp_path / "raw"
    same_names(raw)
    said = {"size": 16, "s1": {"files": "s1/{place}.tif", "bands": ["VV", "VH"], "unit": "linear", "product": "grd"},
            "s2": {"files": "s2/{place}.tif", "bands": list(BANDS), "level": "l2a", "offset": 1000}}
    (raw / "geotiff.json").write_text(json.dumps(said))
    first = build()
    assert first.returncode == 2 and "mend" in first.stderr
    work = tmp_path / "data/s1s2_pairs/geotiff/incomplete.1.0.0"
    (work / "notes").mkdir(exist_ok=True)
    (work / "notes/train-00000.json").write_text("{}")  # as if a shard had finished
    said["s1"]["unit"] = "DB"
    (raw / "geotiff.json").write_text(json.dumps(said))
    second = build()
    assert second.returncode == 0, second.stderr
    assert "the description of the raw data changed" in second.stdout and "built 4 records" in second.stdout


@pytest.mark.quick
def test_the_two_examples_of_the_documentation_are_complete(tmp_path):
    text = (pathlib.Path(__file__).parents[2] / "docs/data.md").read_text()
    examples = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        (tmp_path / "geotiff.json").write_text(example)
        assert set(_geotiff_json.read(tmp_path).images) == {"s1", "s2"}
