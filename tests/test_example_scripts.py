"""The scripts in examples/ run on real data and print what their docstrings promise."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests import runs, saved

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(write_dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    saved.save_run(runs.configure(write_dataset()), workdir)
    return workdir


def script(name, *arguments):
    done = subprocess.run([sys.executable, f"examples/{name}.py", *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
                          timeout=300)
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
