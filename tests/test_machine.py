"""What the machine gives: cores, memory, devices; and paths as people spell them."""

import errno
import os
import pathlib
import shutil

import jax
import pytest
from etils import epath

from dual_encoder.config import parse, to_dict
from dual_encoder.data.batches import batches
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.runtime import cgroup, cores, limits, mesh, processes
from dual_encoder.storage import paths
from dual_encoder.tasks.build import AnyConfig, build
from dual_encoder.training import loop
from dual_encoder.training.loop import fit
from dual_encoder.workdir.checkpoint import load_model
from tests import runs
from tests.test_commands import SMOKE, assert_refused, run

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def control_group(tmp_path, monkeypatch):
    """Returns a function that stands files in for those of the control groups; 'own' for /proc/self/cgroup."""
    def write(files):
        folder = tmp_path / "cgroup"
        shutil.rmtree(folder, ignore_errors=True)
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        monkeypatch.setattr(cgroup, "_MOUNT", folder)
        monkeypatch.setattr(cgroup, "_OWN", folder / "own")
    return write


@pytest.mark.parametrize("files, expected", [
    ({}, None), ({"cpu.max": "max 100000\n"}, None), ({"cpu.max": "150000 100000\n"}, 2),
    ({"cpu.max": "20000 100000\n"}, 1), ({"cpu.max": "nonsense"}, None),
    ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
])
def test_a_container_limits_the_cores(control_group, monkeypatch, files, expected):
    control_group(files)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert cores.usable() == (64 if expected is None else expected)


def test_affinity_limits_the_cores(control_group, monkeypatch):
    control_group({})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert cores.usable() == 1


@pytest.mark.parametrize("files, expected", [
    ({}, None),
    ({"memory.max": "max\n"}, None),
    ({"memory.max": "2000000000\n"}, 2e9),
    ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    ({"memory/memory.limit_in_bytes": "3000000000\n"}, 3e9),
    # Without a namespace the mount shows all groups: that of the process, and those above it, count.
    ({"own": "0::/slurm/job_1/step_0\n", "slurm/job_1/memory.max": "4000000000\n",
      "slurm/job_1/step_0/memory.max": "max\n", "other/memory.max": "1\n"}, 4e9),
    ({"own": "5:cpu,cpuacct:/a\n4:memory:/b\n", "memory/b/memory.limit_in_bytes": "5000000000\n",
      "memory/a/memory.limit_in_bytes": "1\n"}, 5e9),
    # With one, the path may be that of the host.
    ({"own": "4:memory:/docker/0123\n", "memory/memory.limit_in_bytes": "6000000000\n"}, 6e9),
])
def test_a_container_or_a_job_limits_the_memory(control_group, monkeypatch, files, expected):
    control_group(files)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**24}.__getitem__)
    assert limits.memory() == ((2**36, "memory of the machine") if expected is None else
                               (expected, "memory limit of the container or job"))


def test_batches_that_cannot_fit_are_one_line_before_the_first_step(write_dataset, control_group, monkeypatch):
    records = runs.open_run(runs.configure(write_dataset()))[1]  # of 40 x 40 x 14 values of 2 bytes
    control_group({"memory.max": "2000000\n"})

    def first(processes):
        next(batches(records, seed=0, batch_size=16, rows=range(16), start=0, stop=1, threads=1, processes=processes))

    with pytest.raises(UserError, match=r"3 batches that are read ahead take 2.2 MB, the memory limit of the "
                       r"container or job is 2.0 MB; lower --config.batch_size, or raise the limit \(docker --memory, "
                       r"SLURM --mem\)"):
        first(processes=0)
    control_group({"memory.max": "max\n"})
    monkeypatch.setattr(limits, "shared_memory", lambda: 1_000_000)
    with pytest.raises(UserError, match=r"2 reading processes pass batches of 0.7 MB through /dev/shm, which has 1.0 "
                       r"MB free; set --config.data.processes=0, or give it more \(docker --shm-size=8g"):
        first(processes=2)
    first(processes=0)


@pytest.mark.parametrize("files, said", [
    ({"memory.max": "2000000000", "memory.events": "oom 1\noom_kill 1\n"}, "its control group ran out of memory"),
    ({"memory/memory.limit_in_bytes": "2000000000", "memory/memory.oom_control": "under_oom 0\noom_kill 3\n"},
     "its control group ran out of memory"),
    ({"memory.max": "2000000000", "memory.events": "oom 0\noom_kill 0\n"}, "most often because memory ran out"),
])
def test_a_process_that_is_killed_is_told_with_the_limits(control_group, files, said):
    control_group(files)
    with pytest.raises(UserError, match=f"one of 1 worker processes died, {said}: the memory limit of the container or "
                       r"job is 2.0 GB \(docker --memory, SLURM --mem\), /dev/shm has .* free \(docker "
                       r"--shm-size=8g, .*\); run the same command again, with fewer --workers: all is kept"):
        with processes.pool(1, kept="all is kept") as pool:
            pool.submit(os._exit, 9).result()


@pytest.mark.parametrize("error, line", [
    (OSError(errno.EMFILE, "Too many open files", "a.tif"), "Too many open files: 'a.tif'; raise the limit of open "
     "files (ulimit -n 65536, docker --ulimit nofile=65536) and run the same command again"),
    (OSError(errno.EACCES, "Permission denied", "a.tif"), "'a.tif'; mend this and run the same command again"),
    (MemoryError(), "error: memory ran out; give the machine, the container or the job more memory"),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes."),
     "error: the memory of the device ran out (RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes.); choose"
     " smaller batches or images, a smaller model, or another device (JAX_PLATFORMS=cpu takes the processor)"),
])
def test_an_error_of_the_system_names_the_setting(capsys, error, line):
    def fail():
        raise error

    with pytest.raises(SystemExit) as ended:
        exit_on_user_error(fail, debug=False)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and line in said and said.count("\n") == 1


def test_a_device_without_enough_memory_is_one_line():
    with pytest.raises(UserError, match=r"ran out \(RESOURCE_EXHAUSTED: Out of .*\); lower --config.batch_size or "):
        with loop._memory_explained(), mesh.together():
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes.")


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


def test_a_comma_in_a_path_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "one,two"
    (folder / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for spelling in (folder, "one,two", f"{folder}/data"):
        with pytest.raises(UserError, match=r"the path '/.*one,two.*' has a comma, .* make a link without a comma"):
            runs.configure(spelling)
    assert runs.configure("one,data").data.dir == f"{tmp_path}/one,{tmp_path}/data"
    monkeypatch.chdir(folder)
    for spelling in ("data", "new", "a,b"):  # they lie in such a folder
        with pytest.raises(UserError, match=f"one,two/{spelling}' has a comma"):
            runs.configure(spelling)


def test_a_flag_knows_the_home_folder(write_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").symlink_to(write_dataset())
    result = run(SMOKE, "--workdir=~/run", "--config.data.dir=~/data/", "--config.schedule.steps=1",
                 *runs.VIT_FLAGS, "--config.data.split=train", "--config.data.eval_split=test",
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
