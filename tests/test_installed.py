"""An installed wheel, in an empty folder: the commands under one name, with the configurations that come along."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from dual_encoder.__main__ import COMMANDS
from tests.runs import VIT_FLAGS

ROOT = pathlib.Path(__file__).parent.parent
TINY = ("--config.schedule.steps=1", *VIT_FLAGS, "--config.augment.crop=32", "--config.batch_size=8",
        "--config.projection.hidden=8", "--config.projection.dim=8", "--config.data.split=train",
        "--config.data.eval_split=test")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the packages of the wheel, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "demo_run", "data", "runs", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    shutil.copytree(ROOT / "dual_encoder" / "data", source / "dual_encoder" / "data", dirs_exist_ok=True)
    _pip("wheel", "--no-build-isolation", "--wheel-dir", folder / "wheel", source)
    _pip("install", "--target", folder / "packages", *(folder / "wheel").iterdir())
    return folder / "packages"


def _pip(command, *arguments):
    ended = subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", command, "--no-deps",
                            *map(str, arguments)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def run(installed, tmp_path):
    """Runs `dual-encoder ARGUMENTS` in an empty folder; returns what it printed."""
    def call(*arguments, code=0):
        environment = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu", "NO_COLOR": "1"}
        ended = subprocess.run([sys.executable, installed / "bin" / "dual-encoder", *map(str, arguments)], cwd=tmp_path,
                               env=environment, capture_output=True, text=True, timeout=300)
        assert ended.returncode == code, ended.stderr
        return ended.stderr if code else ended.stdout
    return call


def test_a_wheel_trains_reports_and_exports_in_an_empty_folder(run, write_dataset, tmp_path):
    run("train", "--config=configs/pretrain.py:smoke", "--workdir=run", f"--config.data.dir={write_dataset()}", *TINY)
    assert "run/report.html" in run("report", "--workdir=run")
    run("export", "--workdir=run", "--sensor=s2", "--out=encoder")
    assert (tmp_path / "encoder" / "model.safetensors").exists()


def test_help_names_commands_configurations_variants_and_keys(run):
    text = run("--help")
    assert all(f"  {name} " in text for name in COMMANDS)
    assert "configs/pretrain.py" in (text := run("train", "--help")) and "variants: paper, small, smoke" in text
    assert "--config.loss.temperature=0.07  (number, at least 0.01; " in run(
        "train", "--config=configs/pretrain.py:smoke", "--help")
    assert "--raw" in run("build", "--help")
    assert run("--version") == run("train", "--version") == run("build", "--version") == "dual_encoder 0.1.0\n"


def test_a_misspelt_command_is_one_line(run):
    assert run("trian", code=2) == "error: unknown command 'trian'; did you mean 'train'?\n"

