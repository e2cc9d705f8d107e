"""SEN12MS-CR: the flat and the nested form, the cloud-free partner, zeros that are data."""

import pathlib
import shutil

import numpy as np
import pytest
import rasterio

from data_prep import record
from data_prep.importers import Entry, Reject, sen12ms_cr
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick

SPECS = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l1c"]}
NAMES = ("ROIs1970_fall_139_p839", "ROIs2017_winter_112_p797")


def make(raw):
    return sen12ms_cr.Importer(pathlib.Path(raw), "pairs", {feature: spec.name for feature, spec in SPECS.items()})


def pixels(path):
    with rasterio.open(path) as file:
        return np.moveaxis(file.read(), 0, -1), file.crs, file.bounds


def check_pairs(importer, source):
    entries = list(importer.entries())
    assert [entry.id for entry in entries] == list(NAMES)
    for entry in entries:
        pair = importer.read(entry)
        record.check(pair, SPECS, 256)
        radar, crs, bounds = pixels(source / "s1" / f"{entry.id}.tif")
        np.testing.assert_allclose(pair.images["s1"], radar * 100, atol=0.51)
        assert (pair.images["s1"] % 100 != 0).mean() > 0.95  # whole dB would be a truncation
        # The cloud-free image, not the cloudy one of the same name.
        np.testing.assert_array_equal(pair.images["s2"], pixels(source / "s2_cloudfree" / f"{entry.id}.tif")[0])
        assert (pixels(source / "s2_cloudy" / f"{entry.id}.tif")[0] != pair.images["s2"]).mean() > 0.9
        assert entry.block == entry.id.rsplit("_p", 1)[0] and pair.times == {}
        x, y = rasterio.warp.transform("EPSG:4326", crs, [pair.lon], [pair.lat])
        assert bounds.left < x[0] < bounds.right and bounds.bottom < y[0] < bounds.top


def test_flat_form(real_data):
    check_pairs(make(real_data / "sen12ms_cr"), real_data / "sen12ms_cr")


@pytest.mark.parametrize("top", ("{season}_{layer}", "{season}"))
def test_nested_form_as_published(real_data, tmp_path, top):
    source = real_data / "sen12ms_cr"
    for name in NAMES:
        season, scene, number = name.rsplit("_", 2)
        for layer, folder in (("s1", "s1"), ("s2", "s2_cloudfree"), ("s2_cloudy", "s2_cloudy")):
            # Some copies of the cloudy archive call the inner folder and file s2.
            for inner in {layer, layer[:2]} if "layer" in top else {layer}:
                target = tmp_path / top.format(season=season, layer=layer) / f"{inner}_{scene}"
                target.mkdir(parents=True)
                shutil.copy(source / folder / f"{name}.tif", target / f"{season}_{inner}_{scene}_{number}.tif")
    check_pairs(make(tmp_path), source)


def test_zeros_of_the_real_radar_are_bright_not_empty(real_data):
    """58 and 222 pixels of VV stop at 0 dB; their neighbours come close to it, and VH is there."""
    importer = make(real_data / "sen12ms_cr")
    for entry, saturated in zip(importer.entries(), (58, 222), strict=True):
        radar = pixels(real_data / "sen12ms_cr" / "s1" / f"{entry.id}.tif")[0]
        at_zero = np.abs(radar[..., 0]) < 1e-6
        assert at_zero.sum() == saturated and (radar[~at_zero] < 0).all() and radar[~at_zero].max() > -0.05
        assert (radar[at_zero][:, 1] < -0.2).all()
        pair = importer.read(entry)
        assert (pair.images["s1"][at_zero][:, 0] == 0).all() and SPECS["s1"].holds_data(pair.images["s1"]).all()


def test_missing_partners_and_folders(real_data, tmp_path):
    shutil.copytree(real_data / "sen12ms_cr", tmp_path, dirs_exist_ok=True)
    (tmp_path / "s1" / f"{NAMES[0]}.tif").unlink()
    items = list(make(tmp_path).entries())
    assert items[0] == Reject(NAMES[0], f"'s2_cloudfree/{NAMES[0]}.tif' has no partner of layer 's1'")
    assert isinstance(items[1], Entry) and len(items) == 2
    shutil.rmtree(tmp_path / "s2_cloudfree")
    with pytest.raises(UserError, match="s2_cloudfree' is missing; --raw must name the folder that holds s1, s2_clo"):
        next(make(tmp_path).entries())
    with pytest.raises(UserError, match="holds no folder such as ROIs1158_spring/s1_1"):
        next(make(tmp_path / "s1").entries())


def test_there_are_no_tiles():
    with pytest.raises(UserError, match="no tiles; it has no labels; build pairs or give --labels=water_weak"):
        sen12ms_cr.Importer.layout("tiles")
