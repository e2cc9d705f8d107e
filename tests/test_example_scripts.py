"""The scripts in examples/ run on real data and print what their docstrings promise."""

import re

import numpy as np
import pytest
import rasterio

from dual_encoder import calibrate
from dual_encoder.inference.segmenter import load_segmentation
from dual_encoder.workdir import calibration
from tests import commands, runs, saved


@pytest.fixture(scope="module")
def run(write_dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    saved.save_run(runs.configure(write_dataset()), workdir)
    return workdir


@pytest.fixture(scope="module")
def flood_run(write_dataset, tmp_path_factory):
    """A segmentation run that has learnt nothing, with a calibration on 16 places."""
    workdir = tmp_path_factory.mktemp("flood")
    config = runs.configure(write_dataset(labels=True), "water_weak", init_from="")
    saved.save_run(config, workdir)
    _, records = runs.open_run(config)
    found = calibrate.measure(load_segmentation(workdir), records, records.location_ids, "split 'train'")
    calibration.write(workdir, found)
    return workdir


def script(name, *arguments):
    done = commands.run(f"examples/{name}.py", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_folder_is_embedded(real_data, run):
    folder = real_data / "sen1floods11" / "data" / "flood_events" / "HandLabeled" / "S1Hand"
    first, *others = script("embed_folder", run, folder)
    assert first == "bands VV VH, unit dB (sigma0, GRD)"
    assert sum("left out: " in line and "Paraguay_34417" in line for line in others) == 1
    found = [match.groups() for line in others if (match := re.fullmatch(r"(\S+)  ->  (\S+)  (-?[01]\.\d{3})", line))]
    assert len(found) == 10 and all(name != other for name, other, _ in found)


def test_few_labels_find_floods(real_data, run):
    lines = script("few_shot_flood", run, real_data / "sen1floods11", "--draws=3")
    assert "493 patches of 7 events, 32% flooded" in lines
    scores = {line.split(":")[0]: float(re.search(r"curve (\S+)", line)[1]) for line in lines if "curve" in line}
    # Water is dark: the mean backscatter alone tells most of it, and random weights let enough of that through.
    assert scores["mean backscatter"] > 0.9 and scores["vectors"] > 0.7


def test_a_scene_is_mapped(real_data, flood_run, tmp_path):
    chip = real_data / "sen1floods11/data/flood_events/HandLabeled/S1Hand/India_900498_S1Hand.tif"
    first, *lines = script("map_scene", flood_run, chip, f"--out={tmp_path / 'map.tif'}")
    assert first == "calibrated on s1s2_pairs/synthetic/1.0.0, split 'train'"
    number = r"(\d+\.\d)"
    areas = [re.fullmatch(rf"(dry|wet): {number} ha, 90% interval {number} to {number} ha", line) for line in lines]
    assert [match[1] for match in areas] == ["dry", "wet"]
    assert all(float(match[3]) <= float(match[2]) <= float(match[4]) for match in areas)
    with rasterio.open(chip) as scene, rasterio.open(tmp_path / "map.tif") as made:
        np.testing.assert_array_equal(made.read(1) == 255, ~np.isfinite(scene.read()).all(axis=0))
        assert (made.transform, made.crs) == (scene.transform, scene.crs)
    assert sum(float(match[2]) for match in areas) == pytest.approx(512 * 512 * 0.0099, rel=0.2)  # pixels of some 10 m
