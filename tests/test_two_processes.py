"""Two processes of two devices on loopback, stopped by SIGTERM to one and started again, equal one process of four."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dual_encoder import checkpoint, metrics

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 12


def start(data, workdir, devices, **environment):
    arguments = ["--config=configs/pretrain.py:smoke", f"--config.data.dir={data}", f"--workdir={workdir}",
                 "--config.data.split=train", "--config.encoder.width=8", "--config.augment.crop=32",
                 f"--config.schedule.steps={STEPS}", "--config.schedule.log_every=1",
                 # Adam would turn rounding of tiny gradients into whole steps.
                 "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.01"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | environment
    return subprocess.Popen([sys.executable, "main.py", *arguments], cwd=ROOT, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def start_two(data, workdir):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [start(data, workdir, 2, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(number))
            for number in (0, 1)]


def finish(processes, code):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(outputs)
    return outputs


@pytest.mark.slow
def test_two_processes_equal_one_and_stop_together(write_dataset, tmp_path):
    data = write_dataset()
    two = start_two(data, tmp_path / "two")
    while all(process.poll() is None for process in two):
        if (tmp_path / "two" / "metrics.jsonl").exists() and len(metrics.read(tmp_path / "two")) > 3:
            break
        time.sleep(0.02)
    two[1].send_signal(signal.SIGTERM)
    outputs = finish(two, 75)
    assert "stopped by a signal after step" in outputs[0]
    stopped = checkpoint.load_model(tmp_path / "two").step
    assert 3 <= stopped < STEPS
    assert f"from step {stopped} to {STEPS}" in finish(start_two(data, tmp_path / "two"), 0)[0]
    finish([start(data, tmp_path / "one", 4)], 0)
    one, two = (checkpoint.load_model(tmp_path / name) for name in ("one", "two"))
    assert one.step == two.step == STEPS
    # The same sums over devices in another order: float32 rounding, amplified by 12 steps through 40 BatchNorm layers.
    for path, leaf in jax.tree_util.tree_leaves_with_path(one.variables["params"]):
        other = dict(jax.tree_util.tree_leaves_with_path(two.variables["params"]))[path]
        assert np.abs(leaf - other).max() <= 1e-3 * np.abs(leaf).max() + 1e-6, path
    scores = [json.loads((tmp_path / name / "evaluation" / "scores.json").read_text()) for name in ("one", "two")]
    assert scores[0]["s1_to_s2"]["gallery_size"] == scores[1]["s1_to_s2"]["gallery_size"] == 8
    losses = [[row["loss"] for row in metrics.read(tmp_path / name) if row["kind"] == "train"]
              for name in ("one", "two")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_half_a_description_of_the_processes_is_one_line(write_dataset, tmp_path):
    process = start(write_dataset(), tmp_path / "run", 1, JAX_COORDINATOR_ADDRESS="127.0.0.1:1")
    output = finish([process], 2)[0]
    assert output.startswith("error: ") and "JAX_NUM_PROCESSES" in output and output.count("\n") == 1
