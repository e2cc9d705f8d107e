"""The notebook and the recipes run as they stand, and each command prints the next one."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from affine import Affine

from data_prep import sample
from tests import commands, runs, saved
from tests.data_prep.geotiff_writing import decibels, digital_numbers, tif

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples/first_hour.ipynb"
CELL = "=== cell "


def recipes() -> dict[str, list[str]]:
    """Title -> the commands of each recipe, in order."""
    text = (ROOT / "docs/recipes.md").read_text()
    parts = re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return {title: re.findall(r"^    (\S.*)$", part, re.MULTILINE) for title, part in parts}


def link_repository(folder: pathlib.Path) -> pathlib.Path:
    """Makes a folder like that of the repository."""
    for name in ("main.py", "configs", "dual_encoder", "data_prep", "Makefile"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def here(tmp_path):
    """A folder like that of the repository, with own pairs and labels in 'mine'."""
    for number in range(17):  # 13 of them to learn from: one batch of 8, so an epoch is one step
        at = Affine(10, 0, 300000 + 60000 * (number % 6), 0, -10, 5200000 + 120000 * (number // 6))
        name, noise = f"site_{number:02d}.tif", np.random.default_rng(number)
        tif(tmp_path / "mine/s1" / name, decibels(16) + noise.normal(size=(2, 1, 1)).astype(np.float32), at)
        tif(tmp_path / "mine/s2" / name, digital_numbers(16), at)
        tif(tmp_path / "mine/label" / name, noise.integers(0, 2, (1, 16, 16), np.uint8), at)
    return link_repository(tmp_path)


def run(command: str, folder: pathlib.Path) -> str:
    """Runs a command as printed; returns what it prints."""
    words = shlex.split(command)
    assert words[0] == "python"
    process = commands.run(*words[1:], cwd=folder, timeout=600)
    assert process.returncode == 0, f"{command}\n{process.stdout[-2000:]}\n{process.stderr[-2000:]}"
    assert "Very slow compile" not in process.stderr
    return process.stdout


@pytest.mark.slow
def test_own_data_from_a_folder_to_a_report(here):
    describe, pairs, pretrain, tiles, finetune, evaluate = recipes()["Own data"]
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


def code_cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def script(cells: list[dict]) -> str:
    """The cells as a program without Jupyter; before each cell it prints a line with its number."""
    parts = ["import subprocess"]
    for number, cell in enumerate(cells, start=1):
        first, _, rest = (source := "".join(cell["source"])).partition("\n")
        parts.append(f"print('{CELL}{number}', flush=True)")
        parts.append(f"subprocess.run(['bash', '-e'], input={rest!r}, text=True, check=True)" if first == "%%bash -e"
                     else source)
    return "\n".join(parts)


def lasting(text: str) -> list[str]:
    """The lines of an output that do not depend on the speed or the cache of a machine; '#' for each number."""
    lines = [line.rstrip() for line in text.splitlines() if not re.search("ETA|compil|downloading|sample is|^$", line)]
    return [re.sub(r"\d+(?:[.:]\d+)*", "#", line) for line in lines]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(a folder like that of the repository, in which the cells of the notebook have run, what each printed)."""
    wheels = sorted(pathlib.Path(os.environ.get("S1S2_WHEELS") or os.devnull).glob("configilm-*.whl"))
    if not wheels:
        pytest.skip("S1S2_WHEELS names no folder with configilm wheels")
    folder = link_repository(tmp_path_factory.mktemp("demo"))
    (folder / "examples").mkdir()
    sample.fetch(folder / "first_hour/sample", wheels)
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([sys.executable, "-c", script(code_cells())], cwd=folder / "examples", text=True, timeout=600,
                          capture_output=True, env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    # `make demo` makes the same folders by the same commands, and a model of water besides.
    (folder / "demo_run").symlink_to("first_hour")
    return folder, re.split(rf"{CELL}\d+\n", done.stdout)[1:]


@pytest.mark.quick
def test_the_notebook_is_stored_whole_small_and_without_a_trace_of_the_machine():
    cells, text = code_cells(), NOTEBOOK.read_text()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3 and len(text) < 300_000
    assert not re.search(r"(?<![\w.*/])/(?:root|home|tmp|work|Users|usr|opt|mnt)\b|iopub", text)


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_and_print_what_is_stored(demo):
    folder, printed = demo
    for cell, fresh in zip(code_cells(), printed, strict=True):
        stored = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        assert lasting(fresh) == lasting(stored), "run python docs/run_notebook.py"
    assert (folder / "first_hour/pretrain/report.html").exists() and (folder / "first_hour/map.tif").exists()


@pytest.mark.slow
@pytest.mark.parametrize("title, files", [
    ("A map of water", ("recipe.tif", "recipe.png", "recipe.gpkg")),
    ("Similar images", ("recipe_vectors.html",)),
    ("Land cover of whole images", ("recipe_probe/report.html", "recipe_probe/evaluation/tables.json")),
])
def test_a_recipe_runs_on_the_results_of_the_demo(demo, write_dataset, title, files):
    folder, _ = demo
    if title == "A map of water":
        saved.save_run(runs.configure(write_dataset(labels=True), "water_weak"), folder / "demo_run/water")
    for command in recipes()[title]:
        run(command, folder)
    for name in files:
        assert (folder / "demo_run" / name).exists(), name


@pytest.mark.quick
def test_the_recipe_of_a_comparison_is_a_target_of_make():
    """tests/test_experiment.py runs such a grid; the recipe itself takes ten minutes."""
    (command,) = recipes()["Which start is best for my task?"]
    assert command == "make experiment"
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, text=True, capture_output=True, check=True)
    assert "--plan=configs/experiment.py:quick" in done.stdout


@pytest.mark.quick
def test_every_recipe_is_run():
    assert list(recipes()) == ["Own data", "A map of water", "Similar images", "Land cover of whole images",
                               "Which start is best for my task?"]
