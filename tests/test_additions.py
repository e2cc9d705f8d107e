"""Adds a toy of each kind to a copy of the project, as CONTRIBUTING.md says, and runs all of them.

tests/additions/<kind>/ holds the new files under the paths that they get, and edits.toml: text that replaces other text
in files of the project.
"""

import json
import pathlib
import re
import shutil
import tomllib

import numpy as np
import pytest

from tests import commands

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent
ADDITIONS = pathlib.Path(__file__).parent / "additions"
KINDS = sorted(path.name for path in ADDITIONS.iterdir())
PARTS = ("dual_encoder", "data_prep", "configs", "main.py")


def files_to_touch():
    """Kind -> number of code files, as the table of CONTRIBUTING.md gives it."""
    rows = re.findall(r"^\| ([a-z ]+) \| (\d) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return {kind.replace(" ", "_"): int(number) for kind, number in rows}


def copy(folder):
    """Copies the code of the project to a folder."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)


def code(folder):
    """Path of each code file in a copy -> its text."""
    return {path.relative_to(folder): path.read_text() for path in folder.rglob("*.py")}


def add(kind, folder):
    """Adds the toy of a kind to a copy."""
    for path in (ADDITIONS / kind).rglob("*.py"):
        target = folder / path.relative_to(ADDITIONS / kind)
        assert not target.exists(), f"{target} exists; give the toy another name"
        shutil.copy(path, target)
    edits = ADDITIONS / kind / "edits.toml"
    for edit in tomllib.loads(edits.read_text())["edit"] if edits.exists() else []:
        text = (folder / edit["file"]).read_text()
        assert text.count(edit["old"]) == 1, f"{edit['file']} holds {edit['old']!r} {text.count(edit['old'])} times"
        (folder / edit["file"]).write_text(text.replace(edit["old"], edit["new"]))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with all toys."""
    folder = tmp_path_factory.mktemp("project")
    copy(folder)
    for kind in KINDS:
        add(kind, folder)
    return folder


@pytest.fixture(scope="module")
def run(project):
    """Runs `python ARGUMENTS` in the copy and returns what it prints."""
    def run(*arguments):
        done = commands.run(*arguments, cwd=project, JAX_NUM_CPU_DEVICES="1", PYTHONPATH=str(project))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    return run


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Raw data of the toy importers: 16 px, 8 places to train on and 4 to test on."""
    folder, random = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    for number in range(12):
        np.savez(folder / f"{'train' if number < 8 else 'test'}_{number:02d}.npz",
                 s1=random.integers(-3000, 500, (16, 16, 2), np.int16),
                 s2=random.integers(1, 9000, (16, 16, 12), np.uint16), water=np.float32(random.uniform()),
                 s3=random.integers(0, 900, (16, 16, 1), np.int16))
    return folder


@pytest.fixture(scope="module")
def pretrain(run, project):
    """Makes two steps of pre-training with the toy encoder; returns the workdir."""
    def pretrain(name, data, *overrides):
        run("main.py", "--config=configs/pretrain.py:smoke", f"--workdir={name}", f"--config.data.dir={data}",
            "--config.data.split=train", "--config.batch_size=4", "--config.encoder.family=toy",
            "--config.encoder.width=8", "--config.encoder.toy_patch=4", "--config.augment.crop=0",
            "--config.projection.hidden=16", "--config.projection.dim=8", "--config.schedule.steps=2",
            "--config.schedule.log_every=1", *overrides)
        return project / name
    return pretrain


@pytest.fixture(scope="module")
def pretrained(run, pretrain, raw):
    """The workdir of two steps on data of the toy importer, with the toy objective and decay."""
    run("-m", "data_prep", "build", "--importer=toy", f"--raw={raw}", "--data_dir=data", "--workers=1")
    return pretrain("pretrain", "data/s1s2_pairs/toy/1.0.0", "--config.loss.name=toy", "--config.loss.stretch=3.0",
                    "--config.optimizer.decay.name=halving", "--config.optimizer.decay.every=1",
                    "--config.optimizer.warmup=0.0")


@pytest.mark.parametrize("kind", KINDS)
def test_an_addition_touches_as_many_files_as_documented(kind, tmp_path):
    copy(tmp_path)
    before = code(tmp_path)
    add(kind, tmp_path)
    touched = sorted(str(path) for path, text in code(tmp_path).items() if before.get(path) != text)
    assert len(touched) == files_to_touch()[kind], touched


def test_the_documented_numbers_are_within_the_limits():
    limits = {"importer": 1, "sensor": 1, "objective": 2, "decay": 2, "evaluation": 2, "encoder_family": 3,
              "downstream_task": 4, "export_format": 2, "third_sensor": 4}
    documented = files_to_touch()
    assert documented.keys() == limits.keys()
    assert all(documented[kind] <= limit for kind, limit in limits.items()), documented


@pytest.mark.slow
def test_the_objective_and_the_decay_train(pretrained):
    lines = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "toy_distance" in line]
    assert len(steps) == 2
    for line in steps:
        assert line["loss"] == pytest.approx(3 * line["toy_distance"], rel=1e-5)
    assert [line["learning_rate"] for line in steps] == pytest.approx([1e-3, 5e-4])


@pytest.mark.slow
def test_the_evaluation_is_in_the_scores_and_in_the_report(pretrained):
    scores = json.loads((pretrained / "evaluation" / "scores.json").read_text())
    assert -1 <= scores["toy"]["partners"]["cosine"] <= 1
    assert "Toy similarity" in (pretrained / "report.html").read_text()


@pytest.mark.slow
def test_the_export_writes_the_weights_of_the_encoder(run, project, pretrained):
    assert "a toy format" in run("-m", "dual_encoder.export", "--workdir=pretrain", "--sensor=s2", "--out=encoder",
                                 "--format=toy")
    with np.load(project / "encoder" / "encoder.npz") as weights:
        assert weights["patch.kernel"].shape == (4, 4, 12, 8)
    run("-m", "dual_encoder.export", "--workdir=pretrain", "--sensor=s2", "--out=encoder_timm")
    described = json.loads((project / "encoder_timm" / "config.json").read_text())
    assert (described["architecture"], described["num_features"]) == ("toy", 8)


@pytest.mark.slow
def test_the_task_trains_from_the_checkpoint(run, project, pretrained, raw):
    run("-m", "data_prep", "build", "--importer=toy", f"--raw={raw}", "--data_dir=data", "--kind=tiles", "--workers=1")
    run("main.py", "--config=configs/regress.py", "--workdir=regress", "--config.init_from=pretrain",
        "--config.data.dir=data/s1s2_tiles/toy/1.0.0", "--config.data.split=train", "--config.batch_size=4",
        "--config.encoder.family=toy", "--config.encoder.width=8", "--config.encoder.toy_patch=4",
        "--config.augment.crop=0", "--config.schedule.steps=2")
    scores = json.loads((project / "regress" / "evaluation" / "scores.json").read_text())
    assert scores["number"]["split"]["mean_absolute_error"] >= 0
    assert "mean absolute error" in (project / "regress" / "report.html").read_text()
    run("-m", "dual_encoder.export", "--workdir=regress", "--sensor=s1", "--out=encoder_regress")


@pytest.mark.slow
def test_the_sensor_goes_from_the_build_to_the_picture_and_the_card(run, project, pretrain, tmp_path):
    random = np.random.default_rng(0)
    np.savez(tmp_path / "places.npz", id=[f"place{number}" for number in range(12)], split=["train"] * 8 + ["test"] * 4,
             s1_cdb=random.integers(-3000, 500, (12, 2, 16, 16), np.int16), s1_bands=["VV", "VH"],
             s2=random.integers(1, 9000, (12, 4, 16, 16), np.uint16), s2_bands=["B2", "B3", "B4", "B5"],
             s2_sensor="toy_optical")
    run("-m", "data_prep", "build", "--importer=npz", f"--raw={tmp_path}", "--data_dir=data", "--workers=1")
    run("-m", "data_prep", "inspect", "data/s1s2_pairs/npz/1.0.0", "--out=toy.png")
    assert (project / "toy.png").stat().st_size > 0
    pretrain("toy_optical", "data/s1s2_pairs/npz/1.0.0")
    run("-m", "dual_encoder.export", "--workdir=toy_optical", "--sensor=s2", "--out=encoder_toy_optical")
    card = (project / "encoder_toy_optical" / "README.md").read_text()
    assert "A toy: every unit is wrong." in card and "toysat" in card and "sentinel" not in card


@pytest.mark.slow
def test_three_sensors_train_and_are_evaluated(run, project, pretrain, raw):
    run("-m", "data_prep", "build", "--importer=toy_third", f"--raw={raw}", "--data_dir=data", "--workers=1")
    folder = pretrain("three", "data/s1s2_pairs/toy_third/1.0.0", "--config.inputs=s1+s2+s3")
    scores = json.loads((folder / "evaluation" / "scores.json").read_text())
    assert {"s1_to_s2", "s3_to_s2", "s1_to_s3"} <= set(scores)
