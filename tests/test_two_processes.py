"""The processes of one run: two that train together on loopback, and the readers of a single one."""

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

from dual_encoder.errors import UserError
from dual_encoder.runtime import mesh
from dual_encoder.workdir import checkpoint, metrics
from tests.runs import VIT_FLAGS

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 12


def start(data, workdir, devices, *further, new_session=False, **environment):
    arguments = ["--config=configs/pretrain.py:smoke", f"--config.data.dir={data}", f"--workdir={workdir}",
                 "--config.data.split=train", *VIT_FLAGS, "--config.augment.crop=32",
                 f"--config.schedule.steps={STEPS}", "--config.schedule.log_every=1",
                 # Adam would turn rounding of tiny gradients into whole steps.
                 "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.01", *further]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | environment
    return subprocess.Popen([sys.executable, "main.py", *arguments], cwd=ROOT, env=environment, text=True,
                            start_new_session=new_session, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def start_two(data, workdir, *further, devices=(2, 2), data_of_second=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [start(folder, workdir, count, *further, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2",
                  JAX_PROCESS_ID=str(number))
            for number, (folder, count) in enumerate(zip((data, data_of_second or data), devices, strict=True))]


def wait_for(processes, condition):
    while all(process.poll() is None for process in processes) and not condition():
        time.sleep(0.02)


def wait_for_steps(processes, workdir, count=3):
    """Waits for the row of the start and those of `count` steps."""
    wait_for(processes, lambda: (workdir / "metrics.jsonl").exists() and len(metrics.read(workdir)) > count)


def finish(processes, code):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(outputs)
    return outputs


@pytest.mark.slow
def test_two_processes_of_four_devices_stop_together_and_equal_one_of_eight(write_dataset, tmp_path):
    """Only the order of the sums over devices differs: 1e-8 after 5 steps.

    Training doubles any difference every step or two, and how fast depends on the processor: 1e-6 after 10 steps on an
    AMD EPYC, below it after 20 on an Intel Xeon. So 8 gentle steps.
    """
    data = write_dataset()
    further = [f"--config.{key}={value}" for key, value in (
        ("loss.learnable_temperature", False), ("loss.temperature", 1.0), ("optimizer.learning_rate", 0.003),
        ("schedule.steps", 8), ("schedule.checkpoint_every", 4), ("batch_size", 16))]
    two = start_two(data, tmp_path / "two", *further, devices=(4, 4))
    wait_for_steps(two, tmp_path / "two")
    two[1].send_signal(signal.SIGTERM)
    outputs = finish(two, 75)
    assert "stopped by a signal after step" in outputs[0]
    stopped = checkpoint.load_model(tmp_path / "two").step
    assert 3 <= stopped < 8
    output = finish(start_two(data, tmp_path / "two", *further, devices=(4, 4)), 0)[0]
    assert f"from step {stopped} to 8" in output
    finish([start(data, tmp_path / "one", 8, *further)], 0)

    def parameters(name, step):
        leaves = jax.tree.leaves(checkpoint.load_model(tmp_path / name, step).variables)
        return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in leaves])

    middle, one, two = parameters("one", 4), parameters("one", 8), parameters("two", 8)
    assert np.linalg.norm(two - one) < 1e-6 * np.linalg.norm(one)
    assert np.linalg.norm(one - middle) > 1000 * np.linalg.norm(two - one), "they moved"
    losses = [[row["loss"] for row in metrics.read(tmp_path / name) if row["kind"] == "train"]
              for name in ("one", "two")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    scores = [json.loads((tmp_path / name / "evaluation" / "scores.json").read_text()) for name in ("one", "two")]
    assert scores[0]["s1_to_s2"]["gallery_size"] == scores[1]["s1_to_s2"]["gallery_size"] == 8


@pytest.mark.slow
def test_two_processes_choose_one_checkpoint(write_dataset, tmp_path):
    further = [f"--config.{key}={value}" for key, value in (
        ("data.select_split", "held_out"), ("schedule.eval_every", 2), ("schedule.steps", 4))]
    data = write_dataset(train=24)
    output = finish(start_two(data, tmp_path / "run", *further, devices=(1, 1)), 0)[0]
    model = checkpoint.load_model(tmp_path / "run" / "best")
    scores = json.loads((tmp_path / "run" / "evaluation" / "scores.json").read_text())
    assert model.step == scores["step"] and model.step in (2, 4)
    assert f"the state of step {model.step} is the best of 2 on 'held_out'" in output
    assert [row["step"] for row in metrics.read(tmp_path / "run") if row["kind"] == "select"] == [2, 4]


@pytest.mark.slow
def test_a_signal_before_the_first_step_of_a_resumed_run_stops_all(write_dataset, tmp_path):
    data, further = write_dataset(), ["--config.schedule.eval_every=0", "--config.schedule.steps=100000"]
    one = start(data, tmp_path / "run", 4, *further)
    wait_for_steps([one], tmp_path / "run")
    one.send_signal(signal.SIGTERM)
    finish([one], 75)
    before = checkpoint.load_model(tmp_path / "run").step
    two = start_two(data, tmp_path / "run", *further)
    wait_for(two, lambda: '"resumed"' in (tmp_path / "run" / "metrics.jsonl").read_text())
    two[1].send_signal(signal.SIGTERM)
    assert "stopped by a signal" in finish(two, 75)[0]
    assert before <= checkpoint.load_model(tmp_path / "run").step <= before + 2


@pytest.mark.slow
@pytest.mark.parametrize(("event", "devices"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 2)])
def test_a_dead_or_silent_process_ends_the_other_one_with_the_reason(write_dataset, tmp_path, event, devices):
    """Killed: its connections break, and the step fails. Stopped, as a hung host: it hangs, until JAX ends it.

    One device each where the step is to fail: of two, one may fail and the other wait for it, until JAX ends it, too.
    """
    two = start_two(write_dataset(), tmp_path / "run", "--config.schedule.steps=100000", "--peer_timeout=10",
                    devices=(devices, devices))
    try:
        wait_for_steps(two, tmp_path / "run")
        began = time.monotonic()
        two[1].send_signal(event)
        output = two[0].communicate(timeout=120)[0]
        assert time.monotonic() - began < 60, "ten seconds, and what a busy machine takes"
    finally:
        two[1].kill()
        two[1].communicate()
    if event == signal.SIGKILL:
        assert two[0].returncode == mesh.LOST, output
        assert "error: process 0 of 2 lost another process" in output and "Traceback" not in output
    else:
        assert two[0].returncode == -signal.SIGABRT and "stopped sending heartbeats" in output


def test_a_step_that_fails_on_one_of_many_processes_is_one_line_and_code_76(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended, mesh.together():
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed:\nConnection reset by peer")
    assert ended.value.code == mesh.LOST == 76
    line = capsys.readouterr().err
    assert line.startswith("error: process 0 of 2 lost another process") and line.count("\n") == 1
    with pytest.raises(jax.errors.JaxRuntimeError), mesh.together():  # no other process is the cause of this
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")


@pytest.mark.slow
def test_a_mistake_on_one_of_two_processes_is_its_line_and_code_2(write_dataset, tmp_path):
    """It does not wait for the other one, which has lost it and says so within --peer_timeout."""
    sound, wrong = start_two(write_dataset(), tmp_path / "run", "--peer_timeout=20", data_of_second=tmp_path / "none")
    lines = [line for line in finish([wrong], 2)[0].splitlines() if "peer ranks" not in line]  # Gloo's
    assert len(lines) == 1 and lines[0].startswith("error: data folder")
    output = sound.communicate(timeout=120)[0]
    assert sound.returncode in (mesh.LOST, -signal.SIGABRT)
    assert "task died" in output or "lost another process" in output


@pytest.mark.slow
def test_a_mistake_on_both_processes_is_one_line_each(tmp_path):
    outputs = finish(start_two(tmp_path / "none", tmp_path / "run"), 2)
    assert all(output.count("error: data folder") == 1 and "Check failure" not in output for output in outputs)


@pytest.mark.slow
def test_processes_of_unequal_devices_are_told_so(write_dataset, tmp_path):
    for output in finish(start_two(write_dataset(), tmp_path / "run", devices=(1, 3)), 2):
        assert output.count("error: the processes of the run have 1, 3 devices, expected the same number in each") == 1
        assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize(("event", "steps"), [(signal.SIGTERM, 3), (signal.SIGINT, 0), (signal.SIGKILL, 3)])
def test_a_signal_reaches_reading_processes(write_dataset, tmp_path, event, steps):
    """A scheduler signals the whole group, and so does Ctrl-C: the run saves, with its readers. Killed, it leaves none.

    Before the first step the readers are starting. They hold the other end of the pipe, too: `finish` returns when the
    last of them has ended.
    """
    run = start(write_dataset(), tmp_path / "run", 1, "--config.data.processes=2", "--config.schedule.steps=100000",
                new_session=True)
    wait_for_steps([run], tmp_path / "run", steps)
    if event == signal.SIGKILL:
        run.kill()
        finish([run], -event)
    else:
        os.killpg(run.pid, event)
        output = finish([run], 75)[0]
        assert "Traceback" not in output and "leaked" not in output
        assert checkpoint.load_model(tmp_path / "run").step >= max(steps, 1)


@pytest.mark.slow
def test_a_reading_process_that_is_killed_is_one_line(write_dataset, tmp_path):
    run = start(write_dataset(), tmp_path / "run", 1, "--config.data.processes=2", "--config.schedule.steps=100000")
    wait_for_steps([run], tmp_path / "run")
    proc = pathlib.Path("/proc")
    children = [child for path in proc.glob(f"{run.pid}/task/*/children") for child in path.read_text().split()]
    readers = [child for child in children if b"spawn_main" in (proc / child / "cmdline").read_bytes()]
    os.kill(int(readers[0]), signal.SIGKILL)
    output = finish([run], 2)[0]
    assert "error: a reading process has died" in output and "Traceback" not in output and len(readers) == 2


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_any_more_goes_on_and_saves(write_dataset, tmp_path):
    """Ctrl-C ends the `tee` of a pipeline first, and `head` ends by itself."""
    run = start(write_dataset(), tmp_path / "run", 1, "--config.schedule.steps=100000")
    wait_for_steps([run], tmp_path / "run")
    run.stdout.close()
    before = len(metrics.read(tmp_path / "run"))
    wait_for_steps([run], tmp_path / "run", before + 3)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=120) == 75
    assert checkpoint.load_model(tmp_path / "run").step > before


def test_a_port_that_is_taken_is_one_line(write_dataset, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        output = finish([start(write_dataset(), tmp_path / "run", 1, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID="0",
                               JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{taken.getsockname()[1]}")], 2)[0]
    assert output.startswith("error: the processes of the run cannot connect: the port of 127.0.0.1:")
    assert output.count("\n") == 1


SCRIPT = """
import os, pathlib, time
import jax
from dual_encoder.runtime import mesh
meet = mesh._meet
if "LATE" in os.environ:
    mesh._meet = lambda limit: (time.sleep(float(os.environ["LATE"])), meet(limit))
mesh.start(100)
if mesh.is_main_process():
    tables = [pathlib.Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    own = {os.readlink(path) for path in pathlib.Path("/proc/self/fd").iterdir() if path.is_symlink()}
    rows = [line.split() for lines in tables for line in lines]
    print("listens", *{row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own})
print("agreed", mesh.agree(7 if mesh.is_main_process() else 0))
mesh.leave(0)
"""


def join_two(late="", listen=""):
    """Runs SCRIPT in two processes; returns the address and the sockets of the first one that listen.

    late: seconds that the second one sleeps before the first common program; listen: host at which the first one does.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "JAX_COORDINATOR_ADDRESS": address,
                                "JAX_NUM_PROCESSES": "2"}
    if listen:
        environment["JAX_COORDINATOR_BIND_ADDRESS"] = f"{listen}:{address.rsplit(':')[1]}"
    outputs = finish([subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment | {"JAX_PROCESS_ID": str(number)} | ({"LATE": late} if late and number else {}))
        for number in (0, 1)], 0)
    assert all("agreed 7" in output for output in outputs), outputs
    return address, next(line.split()[1:] for line in outputs[0].splitlines() if line.startswith("listens"))


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/net/tcp").exists(), reason="Linux lists its sockets in /proc")
def test_the_coordinator_listens_at_the_given_address_only():
    for listen, expected in (("", ("0100007F", "0000000000000000FFFF00000100007F")), ("[::]", (32 * "0",))):
        address, listening = join_two(listen=listen)
        port = f"{int(address.rsplit(':')[1]):04X}"
        hosts = [place.split(":")[0] for place in listening if place.endswith(f":{port}")]
        assert len(hosts) == 1 and hosts[0] in expected, listening  # 127.0.0.1, perhaps as an address of IPv6


@pytest.mark.slow
def test_a_process_that_is_40_seconds_late_to_the_first_program_is_waited_for():
    """Gloo alone gives up after 30 s."""
    join_two("40")


def test_an_address_of_another_machine_is_one_line(write_dataset, tmp_path):
    run = start(write_dataset(), tmp_path / "run", 1, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID="0",
                JAX_COORDINATOR_ADDRESS="192.0.2.1:12345")  # RFC 5737: no machine has it
    output = finish([run], 2)[0]
    assert output.startswith("error: the first process cannot listen at 192.0.2.1:12345") and output.count("\n") == 1
    assert "JAX_COORDINATOR_BIND_ADDRESS" in output


def test_a_start_that_waits_for_other_processes_says_so(monkeypatch, capfd):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setattr(mesh, "_NOTICE_AFTER", 0.01)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *place, **limits: time.sleep(0.5))
    mesh.start(400)
    assert "waiting for the other processes of the run, up to 400 s" in capfd.readouterr().err

    def initialize(*place, **limits):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Failed to start RPC server")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match="cannot connect: UNKNOWN: Failed to start RPC server; if an earlier"):
        mesh.start(400)


@pytest.mark.parametrize("given", [{"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}, {
    "JAX_COORDINATOR_ADDRESS": "nonsense", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}])
def test_half_a_description_of_the_processes_is_one_line(write_dataset, tmp_path, given):
    process = start(write_dataset(), tmp_path / "run", 1, **given)
    output = finish([process], 2)[0]
    assert output.startswith("error: ") and "JAX_NUM_PROCESSES" in output and output.count("\n") == 1


@pytest.mark.parametrize(("chips", "platforms", "expected"), [
    (["/dev/accel0"], None, True), (["/dev/vfio/0"], "tpu,cpu", True), (["/dev/accel0"], "cpu", False),
    ([], None, False)])
def test_a_host_with_chips_looks_for_its_slice(monkeypatch, chips, platforms, expected):
    """The chips are simulated; without a metadata server JAX finds no slice, and the process stays alone."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(mesh.glob, "glob", lambda pattern: [c for c in chips if c.startswith(pattern.split("[")[0])])
    monkeypatch.setattr(mesh.importlib.util, "find_spec", lambda name: name)
    asked = []

    def initialize(*place, **limits):
        asked.append(limits)
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    mesh.start(30)
    assert asked == [{"heartbeat_timeout_seconds": 30, "initialization_timeout": 300,
                      "shutdown_timeout_seconds": 300, "coordinator_bind_address": None}] * expected
