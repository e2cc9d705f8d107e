"""The whole way on real data, by the commands of the README: shards, pre-training killed with -9, evaluation,
fine-tuning, export, report."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from dual_encoder.workdir import checkpoint, metrics
from tests import commands
from tests.runs import VIT_FLAGS

ROOT = pathlib.Path(__file__).parent.parent
TINY = (*VIT_FLAGS, "--config.data.split=train+validation")
STEPS = 24

pytestmark = pytest.mark.slow


def start(*arguments):
    # One device: what a laptop has. The rest of the environment (compilation cache) is the tests'.
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env=os.environ | {"JAX_PLATFORMS": "cpu"})


def run(*arguments):
    done = commands.run(*arguments, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def pretrain(data, workdir, *more):
    return ("main.py", "--config=configs/pretrain.py:smoke", f"--config.data.dir={data}", f"--workdir={workdir}", *TINY,
            f"--config.schedule.steps={STEPS}", "--config.schedule.log_every=1", "--config.schedule.checkpoint_every=6",
            *more)


@pytest.fixture(scope="module")
def data(real_data, tmp_path_factory):
    """Pairs and weakly labelled tiles of the 115 real BigEarthNet chips, split by place."""
    folder = tmp_path_factory.mktemp("data")
    for options in ((), ("--labels=water_weak",)):
        run("-m", "data_prep", "build", "--importer=npz", f"--raw={real_data / 'bigearthnet'}", f"--data_dir={folder}",
            "--split-by=area", *options)
    return {kind: next(folder.glob(f"{kind}/*/1.0.0")) for kind in ("s1s2_pairs", "s1s2_tiles")}


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    run(*pretrain(data["s1s2_pairs"], workdir))
    return workdir


def wait_for_rows(workdir, count, process):
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if (workdir / "metrics.jsonl").exists() and len(metrics.read(workdir)) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"the run ended before row {count}: {process.communicate()[0]}")


def test_a_killed_run_ends_with_the_same_parameters(data, undisturbed, tmp_path):
    for rows in (5, 16, 21):  # before the first checkpoint, right at and after later ones
        process = start(*pretrain(data["s1s2_pairs"], tmp_path / "killed"))
        wait_for_rows(tmp_path / "killed", rows, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    output = run(*pretrain(data["s1s2_pairs"], tmp_path / "killed"))
    assert "from step 0" not in output, output
    one, other = (checkpoint.load_model(w) for w in (undisturbed, tmp_path / "killed"))
    assert one.step == other.step == STEPS
    jax.tree.map(np.testing.assert_array_equal, one.variables, other.variables)
    losses = [[row["loss"] for row in metrics.read(w) if row["kind"] == "train"]
              for w in (undisturbed, tmp_path / "killed")]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS


def test_evaluation_repeats_the_figures_of_the_run(undisturbed):
    before = json.loads((undisturbed / "evaluation" / "scores.json").read_text())
    output = run("main.py", "--config=configs/evaluate.py", f"--config.init_from={undisturbed}",
                 "--config.batch_size=5")
    after = json.loads((undisturbed / "evaluation" / "scores.json").read_text())
    assert after == before, "the batch size of an evaluation changes no figure"
    for direction in ("s1_to_s2", "s2_to_s1"):
        assert f"{direction}: recall@1" in output and f"gallery_size {after[direction]['gallery_size']}" in output


def test_fine_tuning_and_its_report(data, undisturbed, tmp_path):
    output = run("main.py", "--config=configs/finetune.py:water_weak", f"--config.init_from={undisturbed}", *TINY,
                 f"--config.data.dir={data['s1s2_tiles']}", f"--workdir={tmp_path / 'tune'}",
                 "--config.schedule.steps=20", "--config.inputs=s1+s2", "--config.frozen=True",
                 "--config.decoder_width=4")
    assert "evaluation at step 20\n  miou" in output
    page = (tmp_path / "tune" / "report.html").read_text()
    for fact in ("vegetation", "weak labels", "segmentation", "data:image/png;base64"):
        assert fact in page, fact
    tuned = checkpoint.load_model(tmp_path / "tune").variables["params"]
    trained = checkpoint.load_model(undisturbed).variables["params"]
    for sensor in ("s1", "s2"):
        jax.tree.map(np.testing.assert_array_equal, tuned[f"{sensor}_encoder"], trained[f"{sensor}_encoder"])


def test_export_holds_the_encoder_of_the_checkpoint(undisturbed, tmp_path):
    run("-m", "dual_encoder.export", f"--workdir={undisturbed}", "--sensor=s2", f"--out={tmp_path / 'encoder'}")
    weights = load_file(tmp_path / "encoder" / "model.safetensors")
    kernel = checkpoint.load_model(undisturbed).variables["params"]["s2_encoder"]["patch_embed"]["kernel"]
    np.testing.assert_array_equal(weights["patch_embed.proj.weight"], kernel.transpose(3, 2, 0, 1))
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert "B8A" in card and checkpoint.load_model(undisturbed).dataset["fingerprint"] in card
