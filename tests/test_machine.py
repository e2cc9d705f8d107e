"""What the machine gives: cores, devices; and paths as people spell them."""

import os
import pathlib
import shutil

import pytest
from etils import epath

from dual_encoder.config import parse, to_dict
from dual_encoder.errors import UserError
from dual_encoder.runtime import cores
from dual_encoder.storage import paths
from dual_encoder.tasks.build import AnyConfig, build
from dual_encoder.training.loop import fit
from dual_encoder.workdir.checkpoint import load_model
from tests import runs
from tests.test_commands import SMOKE, assert_refused, run

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("files, expected", [
    ({}, None), ({"cpu.max": "max 100000\n"}, None), ({"cpu.max": "150000 100000\n"}, 2),
    ({"cpu.max": "20000 100000\n"}, 1), ({"cpu.max": "nonsense"}, None),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
])
def test_a_container_limits_the_cores(tmp_path, monkeypatch, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert cores.usable() == (64 if expected is None else expected)


def test_affinity_limits_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert cores.usable() == 1


@pytest.mark.parametrize("platform, parts", [
    ("cuda", ["JAX_PLATFORMS is 'cuda', this machine has cpu", "pip install 'dual_encoder[cuda]'"]),
    ("CPU", ["JAX_PLATFORMS is 'CPU'", "did you mean 'cpu'?"]),
])
def test_a_backend_that_is_not_there_is_one_line(write_dataset, tmp_path, monkeypatch, platform, parts):
    assert_refused(run(SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.data.dir={write_dataset()}",
                       platform=platform), *parts)


def test_all_spellings_of_a_path_are_stored_alike(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for spelling in ("~/pairs", "pairs", "./pairs/", f"{tmp_path}/x/../pairs"):
        config = runs.configure(spelling, data__statistics="~/s.json", data__subset={"groups": "event"})
        assert config.data.dir == f"{tmp_path}/pairs" and config.data.statistics == f"{tmp_path}/s.json"
        assert config.data.subset.groups == "event"
    mixed = runs.configure("~/a,gs://bucket/b/,c")
    assert mixed.data.dir == f"{tmp_path}/a,gs://bucket/b/,{tmp_path}/c"
    assert parse(AnyConfig, to_dict(mixed), stored=True) == mixed


def test_a_flag_knows_the_home_folder(write_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").symlink_to(write_dataset())
    result = run(SMOKE, "--workdir=~/run", "--config.data.dir=~/data/", "--config.schedule.steps=1",
                 "--config.encoder.width=8", "--config.data.split=train", "--config.data.eval_split=test",
                 "--config.batch_size=8", "--config.augment.crop=32")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "report.html").exists() and not (ROOT / "~").exists()


@pytest.fixture(scope="module")
def pretrained(write_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    for seed in (0, 1):
        runs.fit(runs.configure(write_dataset(), seed=seed), folder / str(seed))
    return folder


def test_a_run_is_known_by_the_weights_that_it_loaded(pretrained, write_dataset, tmp_path, monkeypatch):
    folder = write_dataset()
    monkeypatch.chdir(pretrained.parent)
    (tmp_path / "link").symlink_to(pretrained / "0")
    shutil.copytree(pretrained / "0", tmp_path / "copy")

    def start(init_from, steps=1, init_step=-1):
        config = runs.configure(folder, init_from=str(init_from), init_step=init_step, seed=5, schedule__keep=steps)
        mesh = runs.one_device()
        fit(build(config, mesh), mesh, tmp_path / "run")

    start(pretrained / "0")
    for spelling in (f"{pretrained.name}/0/", tmp_path / "link", tmp_path / "copy"):
        start(spelling)
    start(pretrained / "0", init_step=load_model(pretrained / "0").step)
    with pytest.raises(UserError, match="holds a run that loaded [0-9a-f]{12} by config.init_from, this run loads "):
        start(pretrained / "1")
    with pytest.raises(UserError, match="by config.init_from, this run loads none"):
        start("")


@pytest.mark.parametrize("task", ["smoke", "water_weak"])
def test_a_run_goes_on_without_the_run_that_it_started_from(pretrained, write_dataset, tmp_path, task):
    shutil.copytree(pretrained / "0", tmp_path / "start")
    config = runs.configure(write_dataset(labels=task != "smoke"), task, init_from=str(tmp_path / "start"),
                            schedule__checkpoint_every=1)
    mesh, workdir = runs.one_device(), epath.Path(tmp_path / "run")
    fit(build(config, mesh, workdir=workdir), mesh, workdir)
    whole = load_model(workdir).digest
    shutil.rmtree(tmp_path / "start")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    fit(build(config, mesh, workdir=workdir), mesh, workdir)
    assert load_model(workdir).step == 2 and load_model(workdir).digest == whole
    with pytest.raises(UserError, match="start' holds no checkpoints"):
        build(config, mesh, workdir=epath.Path(tmp_path / "other"))


def test_a_run_is_known_by_the_groups_that_it_read(write_dataset, tmp_path):
    folder, csv = write_dataset(), tmp_path / "groups.csv"
    places = sorted({place for place in runs.open_run(runs.configure(folder))[1].location_ids})
    csv.write_text("location_id,group\n" + "".join(f"{place},{number % 4}\n" for number, place in enumerate(places)))
    shutil.copy(csv, tmp_path / "same.csv")

    def start(groups):
        config = runs.configure(folder, data__subset={"groups": str(groups), "folds": 2}, batch_size=4)
        mesh = runs.one_device()
        fit(build(config, mesh), mesh, tmp_path / "run")

    start(csv)
    start(tmp_path / "same.csv")
    csv.write_text(csv.read_text().replace(",3\n", ",2\n"))
    with pytest.raises(UserError, match="by config.data.subset.groups, this run loads [0-9a-f]{12} .digests.; give"):
        start(csv)


@pytest.mark.parametrize("one, other, same", [("a", "./a/", True), ("link", "a", True), ("a", "b", False)])
def test_same_sees_through_links(tmp_path, monkeypatch, one, other, same):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert paths.same(one, other) == same
