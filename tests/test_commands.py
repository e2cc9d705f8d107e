"""main.py as a user meets it: one line and exit code 2 for each mistake, and nothing written is lost."""

import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import pytest

from configs import pretrain
from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.runtime import compilation_cache
from dual_encoder.tasks.build import AnyConfig
from tests import commands
from tests.runs import VIT_FLAGS

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = "--config=configs/pretrain.py:smoke"


def run(*arguments, script="main.py", platform="cpu"):
    return commands.run(script, *arguments, JAX_PLATFORMS=platform)


def assert_refused(result, *parts):
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "sys.exit('a line')", "{}['x']", "os.kill(os.getpid(), 9)"])
@pytest.mark.parametrize("how", [["there/script.py"], ["-m", "there"]], ids=["script", "module"])
def test_a_fork_of_the_command_server_behaves_as_a_process_of_its_own(tmp_path, how, end):
    (tmp_path / "there").mkdir()
    code = ("import os, sys\n"
            "print(__name__, sys.argv, sys.path[0], os.getcwd(), sys.stdin.read(), os.environ['GIVEN'], flush=True)\n"
            f"print('warned', file=sys.stderr, flush=True)\n{end}\n")
    for name in ("script", "__main__"):
        (tmp_path / "there" / f"{name}.py").write_text(code)
    forked = commands.run(*how, "two words", cwd=tmp_path, GIVEN="value")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GIVEN": "value"}
    started = subprocess.run([sys.executable, *how, "two words"], cwd=tmp_path, text=True, capture_output=True,
                             env=environment, stdin=subprocess.DEVNULL)
    assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout) and "two words" in forked.stdout
    assert [forked.stderr.splitlines()[at] for at in (0, -1)] == [started.stderr.splitlines()[at] for at in (0, -1)]


def test_a_command_that_hangs_is_killed(tmp_path):
    (tmp_path / "script.py").write_text("import time; print('here', flush=True); time.sleep(1000)")
    with pytest.raises(subprocess.TimeoutExpired) as late:
        commands.run(tmp_path / "script.py", timeout=1)
    assert late.value.stdout == "here\n"


@pytest.mark.parametrize("arguments, parts", [
    (["--workdir=x"], ["--config=FILE is missing; give"]),
    (["--config", "configs/pretrain.py", "--workdir=x"], ["--config=FILE is missing; give"]),
    ([SMOKE], ["--workdir is missing"]),
    (["--config=configs/pretrain.py:smok"], ["unknown variant 'smok'; valid: paper, small, smoke, ombria"]),
    (["--config=configs/none.py"], ["configs/none.py", "No such file"]),
    (["--config=README"], ["--config=README is not a Python file"]),
    ([SMOKE, "--workdir=x", "--config.batchsize=4"], ["'config.batchsize'; did you mean 'batch_size'?"]),
    ([SMOKE, "--workdir=x", "--config.loss.temprature=1"], ["did you mean 'loss.temperature'?"]),
    ([SMOKE, "--workdir=x", "--config.batch_size=many"], ["batch_size=many"]),
    ([SMOKE, "--workdir=x", "--config.encoder.depth=20"], ["config.encoder.depth is 20; expected 18, 34, 50 or 101"]),
    ([SMOKE, "--wrkdir=x"], ["wrkdir", "workdir"]),
    ([SMOKE, "--workdir=gs://bucket/run"], ["--workdir is 'gs://bucket/run', a bucket; expected a folder"]),
    ([SMOKE, "--workdir=x", "stray"], ["'stray' is not a flag"]),
    ([SMOKE, "--workdir=x", "--config.data.dir=nowhere"], ["nowhere' does not exist", "data_prep build"]),
    (["--config=configs/pretrain.py", "--workdir=x"], ["config.data.dir is ''"]),
    (["--config=configs/evaluate.py", "--config.init_from=nowhere"], ["nowhere' holds no checkpoints"]),
    (["--config=configs/evaluate.py", "--config.init_from=gs://b/run"], ["config.init_from is 'gs://b/run', a bucket"]),
])
def test_a_mistake_gets_one_line(arguments, parts):
    assert_refused(run(*arguments), *parts)
    assert not (ROOT / "x").exists()


@pytest.mark.parametrize("key, value, expected", [
    ("schedule.steps", -5, "at least 0"), ("schedule.keep", 0, "at least 1"), ("projection.dim", 0, "at least 1"),
    ("augment.sar_looks", -1, "at least 0"), ("loss.temperature", 0.001, "at least 0.01"),
    ("optimizer.warmup", 1.0, "a share in [0, 1)"), ("optimizer.ema", 1.0, "a decay in [0, 1)"),
    ("seed", 2**32, "at most 4294967295"), ("schedule.steps", 2**31, "at most 2147483647"),
    ("optimizer.momentum", 1.5, "a share in [0, 1)"), ("augment.optical_brightness", 5.0, "at most 1"),
    ("loss.temperature", math.inf, "a finite number"),
    ("train.micro_batch", -8, "at least 0"), ("train.micro_batch", 3, "0, or a divisor of config.batch_size, 8"),
])
def test_a_value_that_cannot_be_right_is_refused(key, value, expected):
    values = pretrain.get_config("smoke")
    with values.unlocked():
        values.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=re.escape(f"config.{key} is {value!r}; expected {expected}")):
        parse(AnyConfig, values.to_dict())


def test_help_says_how_to_start():
    for arguments in ([], ["--help"]):
        result = run(*arguments)
        assert result.returncode == 0 and "--config=configs/pretrain.py:smoke" in result.stdout


def test_debug_shows_the_traceback():
    result = run(SMOKE, "--workdir=x", "--config.data.dir=nowhere", "--debug")
    assert "Traceback" in result.stderr and result.returncode == 1


def test_a_workdir_that_cannot_be_made_is_one_line(write_dataset, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = run(SMOKE, f"--workdir={tmp_path / 'file'}", f"--config.data.dir={write_dataset()}",
                 "--config.data.split=train", "--config.augment.crop=32")
    assert_refused(result, "is a file; give a folder")
    assert (tmp_path / "file").read_text() == "kept"
    result = run(SMOKE, f"--workdir={tmp_path / 'file' / 'below'}", f"--config.data.dir={write_dataset()}",
                 "--config.data.split=train", "--config.augment.crop=32")
    assert_refused(result, "run the same command again")


def test_a_split_without_records_to_evaluate_on_is_one_line(write_dataset, tmp_path):
    data = write_dataset(test=0)
    result = run(SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.data.dir={data}", "--config.data.split=train")
    assert_refused(result, "split 'test'", "has no records")


def test_a_user_without_a_home_has_no_compilation_cache(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    options = {}
    monkeypatch.setattr(jax.config, "update", options.__setitem__)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(pathlib.Path, "home", no_home)
    assert compilation_cache.start() == ("compilation cache: off (there is no home folder; set "
                                         "JAX_COMPILATION_CACHE_DIR to use another one)")
    assert options == {"jax_enable_compilation_cache": False}


def test_a_program_that_was_written_in_part_is_deleted(tmp_path):
    """JAX writes the program, then its time of use."""
    for name, size in (("whole-cache", 5), ("whole-atime", 8), ("cut-cache", 2), ("bare-cache", 5), ("bare-atime", 0)):
        (tmp_path / name).write_bytes(bytes(size))
    compilation_cache.mend(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - {".lockfile"} == {"whole-cache", "whole-atime"}
    compilation_cache.mend(tmp_path / "none")


def test_data_of_another_sensor_than_the_checkpoint_is_refused(write_dataset, tmp_path):
    """One short training run, then data sets that differ from it in one way each."""
    data = write_dataset()
    short = [SMOKE, *VIT_FLAGS, "--config.augment.crop=32", "--config.schedule.steps=1", "--config.data.split=train"]
    trained = run(*short, f"--workdir={tmp_path / 'run'}", f"--config.data.dir={data}")
    assert trained.returncode == 0, trained.stderr
    other = write_dataset(sensors=("s1_rtc", "s2_l2a"))
    assert_refused(run("--config=configs/evaluate.py", f"--config.init_from={tmp_path / 'run'}",
                       f"--config.data_dir={other}"), "sensor unit differ", "s1_rtc", "s1_grd")
    other = write_dataset(sensors=("s1_grd", "s2_l1c"))
    assert_refused(run("--config=configs/evaluate.py", f"--config.init_from={tmp_path / 'run'}",
                       f"--config.data_dir={other}"), "sensor bands differ", "'B10'")
    finetune = ["--config=configs/finetune.py:water_weak", f"--config.init_from={tmp_path / 'run'}",
                f"--workdir={tmp_path / 'tune'}", "--config.data.split=train", "--config.augment.crop=32"]
    assert_refused(run(*finetune, f"--config.data.dir={data}"), "no feature 'label'")
    labelled = write_dataset(labels=True)
    assert_refused(run(*finetune, f"--config.data.dir={labelled}", "--config.encoder.width=128"),
                   "--config.encoder.width=128 contradicts the run", "has width=64; leave it out")
    evaluate = ["--config=configs/evaluate.py", f"--config.init_from={tmp_path / 'run'}"]
    assert_refused(run(*evaluate, "--config.init_step=7"), "no checkpoint of step 7; it has [1]")
    assert_refused(run(*evaluate, "--config.split=train"), "split 'train'", "give another --workdir")
    apart = run(*evaluate, "--config.split=train", f"--workdir={tmp_path / 'apart'}")
    assert apart.returncode == 0 and "gallery_size 16" in apart.stdout, apart.stderr
    assert '"gallery_size": 8' in (tmp_path / "run" / "evaluation" / "scores.json").read_text()
    assert_refused(run(*short, f"--workdir={tmp_path / 'crop'}", f"--config.data.dir={data}",
                       "--config.augment.crop=48"), "config.augment.crop is 48, the images have 40 pixels")
    assert not (tmp_path / "crop").exists()


def test_data_sets_are_mixed_by_weight(write_dataset, tmp_path):
    """Trained, refused with other weights, and evaluated on the test splits of both."""
    folders = f"--config.data.dir={write_dataset(seed=1)},{write_dataset(seed=2, test=6)}"
    command = [SMOKE, f"--workdir={tmp_path / 'run'}", folders, *VIT_FLAGS, "--config.augment.crop=32",
               "--config.schedule.steps=2", "--config.data.split=train", "--config.batch_size=8"]
    trained = run(*command, "--config.data.weights=0.7,0.3")
    assert trained.returncode == 0, trained.stderr
    assert "32 records, 4 steps per epoch" in trained.stdout and "gallery_size 8" in trained.stdout
    assert not (tmp_path / "run" / "profile").exists(), "nobody asked for one"
    assert_refused(run(*command), "config.data.weights=(0.7, 0.3), this run has ()")
    assert_refused(run(*command, "--config.data.weights=0.7"), "config.data.weights is (0.7,)", "names 2 data set(s)")
    evaluated = run("--config=configs/evaluate.py", f"--config.init_from={tmp_path / 'run'}")
    assert evaluated.returncode == 0, evaluated.stderr


def test_training_never_loads_tensorflow(write_dataset, tmp_path):
    script = tmp_path / "probe.py"
    script.write_text("import runpy, sys\nsys.path.insert(0, '.')\nrunpy.run_path('main.py', run_name='__main__')\n"
                      "loaded = [name for name in sys.modules if name.split('.')[0] == 'tensorflow']\n"
                      "assert not loaded, loaded\nprint('no tensorflow')\n")
    result = run(SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.data.dir={write_dataset()}",
                 *VIT_FLAGS, "--config.augment.crop=32", "--config.schedule.steps=2",
                 "--config.data.split=train", script=script)
    assert result.returncode == 0, result.stderr
    assert "no tensorflow" in result.stdout and (tmp_path / "run" / "report.html").exists()


def test_importing_the_package_loads_neither_tensorflow_nor_devices():
    code = ("import dual_encoder.training.loop, dual_encoder.tasks.pretrain, dual_encoder.export, sys\n"
            "from jax._src import xla_bridge\n"
            "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules), 'slow imports'\n"
            "assert not xla_bridge._backends, 'work at import'")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_profile_is_written_and_the_compilation_cache_is_told(write_dataset, tmp_path, monkeypatch):
    """Without JAX_COMPILATION_CACHE_DIR the cache lies in the user's cache folder; a second run finds the programs."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # small programs, too
    arguments = [SMOKE, f"--config.data.dir={write_dataset()}", "--config.data.split=train", *VIT_FLAGS,
                 "--config.augment.crop=32", "--config.schedule.steps=6"]
    first = run(*arguments, f"--workdir={tmp_path / 'one'}", "--profile=2")
    assert first.returncode == 0, first.stderr
    assert f"compilation cache: '{tmp_path / 'cache' / 'dual_encoder'}/jax-" in first.stdout
    assert "', 0 programs, 0 MB (" in first.stdout
    assert f"trace of 2 steps: '{tmp_path / 'one' / 'profile'}'" in first.stdout
    assert list((tmp_path / "one" / "profile").rglob("*.xplane.pb"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1000000000")
    second = run(*arguments, f"--workdir={tmp_path / 'two'}", "--profile=10")
    assert "trace of 4 steps: " in second.stdout, "the first two are left out, and the run ends at 6"
    assert int(re.search(r", (\d+) programs, (\d+) MB", second.stdout)[1]) > 0
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    third = run(SMOKE, "--config.data.dir=nowhere", f"--workdir={tmp_path / 'three'}")  # it is told before the data
    assert "compilation cache: off" in third.stdout


@pytest.mark.parametrize("settings, told, largest", [
    ({"JAX_COMPILATION_CACHE_DIR": "gs://bucket/cache"}, "compilation cache: 'gs://bucket/cache' (set JAX", -1),
    ({"JAX_ENABLE_COMPILATION_CACHE": "false"}, "compilation cache: off (JAX_ENABLE_COMPILATION_CACHE)", -1),
    ({"JAX_COMPILATION_CACHE_MAX_SIZE": "1000"}, ", 0 programs, 0 MB", 1000), ({}, ", 0 programs, 0 MB", 4 << 30)])
def test_what_the_environment_says_of_the_compilation_cache_is_kept(tmp_path, settings, told, largest):
    environment = {key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key}
    code = ("import jax; from dual_encoder.runtime import compilation_cache\n"
            "print(compilation_cache.start()); print(jax.config.jax_compilation_cache_max_size)")
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True,
                         env=environment | {"XDG_CACHE_HOME": str(tmp_path)} | settings).stdout.splitlines()
    assert told in out[0] and int(out[1]) == largest
