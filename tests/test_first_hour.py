"""The first recipe runs as it stands, and each command prints the next one."""

import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from affine import Affine

from tests.data_prep.geotiff_writing import decibels, digital_numbers, tif

ROOT = pathlib.Path(__file__).parent.parent


def recipe(title: str) -> list[str]:
    """The commands of a recipe, in order."""
    text = (ROOT / "docs/recipes.md").read_text()
    section = re.search(rf"## {title}\n(.*?)(?=\n## |\Z)", text, re.DOTALL)[1]
    return re.findall(r"^    (python .*)$", section, re.MULTILINE)


@pytest.fixture
def here(tmp_path):
    """A folder like that of the repository, with own pairs and labels in 'mine'."""
    for name in ("main.py", "configs", "dual_encoder", "data_prep"):
        (tmp_path / name).symlink_to(ROOT / name)
    for number in range(24):
        at = Affine(10, 0, 300000 + 60000 * (number % 6), 0, -10, 5200000 + 120000 * (number // 6))
        name, noise = f"site_{number:02d}.tif", np.random.default_rng(number)
        tif(tmp_path / "mine/s1" / name, decibels(32) + noise.normal(size=(2, 1, 1)).astype(np.float32), at)
        tif(tmp_path / "mine/s2" / name, digital_numbers(32), at)
        tif(tmp_path / "mine/label" / name, noise.integers(0, 2, (1, 32, 32), np.uint8), at)
    return tmp_path


def run(command: str, folder: pathlib.Path) -> str:
    """Runs a command as printed; returns what it prints."""
    words = shlex.split(command)
    assert words[0] == "python"
    process = subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, f"{command}\n{process.stdout[-2000:]}\n{process.stderr[-2000:]}"
    assert "Very slow compile" not in process.stderr
    return process.stdout


@pytest.mark.slow
def test_own_data_from_a_folder_to_a_report(here):
    describe, pairs, pretrain, tiles, finetune, evaluate = recipe("Own data")
    out = run(describe, here)
    assert f"for pre-training: {pairs}" in out and f"next: {tiles}" in out
    assert f"next: {pretrain}" in run(pairs, here)
    out = run(pretrain, here)
    assert "compiling the training step" in out and out.endswith("report: runs/geotiff_pretrain/report.html\n")
    printed = re.search("next: (.*)", run(tiles, here))[1]
    assert set(shlex.split(finetune)) - {"--config.init_from=runs/geotiff_pretrain"} <= set(shlex.split(printed))
    out = run(finetune, here)
    assert "evaluation at step" in out and (here / "runs/geotiff_finetune/best").is_dir()
    assert "split 'validation'" in run(evaluate, here)
    assert (here / "runs/geotiff_validation/evaluation/segmentation.csv").exists()
