"""The hosts: setup, launch, status, logs and stop."""

import fcntl
import os
import pathlib
import re
import signal
import subprocess
import time

from tests.run_tpu.world import MAIN, PROGRAM, ROOT, git


def test_setup_installs_the_commit_on_every_host(world, repository):
    world.run("create")
    (repository / "main.py").write_text("not committed")
    try:
        assert "uncommitted changes are not sent" in world.run("setup", "--extras=tpu")
    finally:
        git(repository, "checkout", "--quiet", "main.py")
    for host in (0, 1):
        assert world.text(host, "run_tpu/code/main.py") == MAIN.replace("VERSION", "first")
        assert world.text(host, "uv").splitlines() == [
            "venv --quiet --allow-existing --python=3.11 venv",
            "pip install --quiet --python=venv/bin/python -e ./code[tpu]"]
        assert "/mnt/shared" not in world.text(host, "system")
    assert "what is not committed" not in world.run("setup")


def test_setup_mounts_a_bucket_or_a_share(world):
    world.run("create")
    world.run("setup", "--mount=my-bucket")
    assert "gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 my-bucket /mnt/shared" in world.text(1, "system")
    world.run("setup", "--mount=gs://other-bucket/")
    assert "gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 other-bucket /mnt/shared" in world.text(1, "system")
    assert "umount" not in world.text(1, "system")
    (world.folder / "mounted").touch()
    world.run("setup", "--mount=10.0.0.2:/share")
    assert "sudo mount -t nfs 10.0.0.2:/share /mnt/shared" in world.text(1, "system")
    assert "sudo umount /mnt/shared" in world.text(1, "system")


def test_an_installation_that_fails_is_one_line(world):
    world.run("create")
    (world.folder / "no_network").touch()
    assert "Failed to fetch" in world.run("setup", code=1)
    (world.folder / "no_network").unlink()
    world.run("setup")
    (world.folder / "no_network").touch()
    world.run("setup", code=1)
    assert "not set up since its last boot" in world.run("launch", *PROGRAM, code=4), "new code in an old environment"


def test_without_uv_pip_installs_it_by_its_hash(world):
    (world.folder / "bin" / "uv").rename(world.folder / "uv_of_pip")
    (world.folder / "bin" / "python3").write_text(
        f'#!/bin/bash\necho "$*" >>~/pip\nmkdir -p uv/bin && cp {world.folder}/uv_of_pip uv/bin/uv\n')
    (world.folder / "bin" / "python3").chmod(0o755)
    path = [folder for folder in os.environ["PATH"].split(":") if not pathlib.Path(folder, "uv").exists()]
    world.run("create")
    world.run("setup", PATH=":".join([str(world.folder / "bin"), *path]))
    for host in (0, 1):
        assert world.text(host, "pip").splitlines() == [
            "-m pip install --quiet --require-hashes --target uv -r code/tpu/uv.lock"]
        assert world.text(host, "uv").startswith("venv --quiet")


def test_nothing_from_the_net_goes_into_a_shell():
    files = subprocess.run(["git", "ls-files", "*.sh", "*.md", "*.py", "Makefile", ".ci/*", "locks/*"], cwd=ROOT,
                           text=True,
                           capture_output=True, check=True).stdout.split()
    for name in files:
        for line in (ROOT / name).read_text().splitlines():
            assert not re.search(r"(curl|wget)\b.*\|\s*(sudo\s+)?(ba|z|da)?sh\b", line), f"{name}: {line}"
    pinned = (ROOT / "tpu/uv.lock").read_text()
    assert re.match(r"uv==[0-9.]+ \\\n", pinned) and pinned.count("--hash=sha256:") > 5


def test_the_same_command_runs_on_every_host(world):
    world.ready("run")
    assert world.states() == [["idle"]] * 2
    assert "2 host(s) launched" in world.run("launch", *PROGRAM)
    world.launched()
    for host in (0, 1):
        assert f"first launch 0 {PROGRAM[1:]}" in world.text(host, "run_tpu/log")
    assert world.states() == [["running"]] * 2
    assert "2 host(s) already running" in world.run("launch", *PROGRAM)
    assert "another command runs" in world.run("launch", "--", "--config=configs/finetune.py", code=2)
    assert "a program is running" in world.run("setup", code=4)
    assert "2 host(s) stopped with exit code 75" in world.run("stop")
    assert world.states() == [["stopped", "75"]] * 2
    assert "2 host(s) ran nothing" in world.run("stop")
    assert (world.folder / "launches_0").read_text() == "1"


def test_exit_codes_and_logs_are_kept_by_host(world):
    world.ready("0/3", "75", "75", "run")
    world.run("launch", *PROGRAM)
    world.until(lambda: world.states() == [["exited", "0"], ["exited", "3"]])
    assert "bye 3" in world.run("logs", "--worker=1", "--tail=2")
    assert "bye" not in world.run("logs", "--worker=1", "--tail=1")
    world.run("launch", *PROGRAM)
    world.until(lambda: world.states() == [["exited", "75"]] * 2)
    assert "bye 0" in world.run("logs") and "bye 75" in world.run("logs")
    world.run("stop")
    assert world.states() == [["stopped", "75"]] * 2
    world.run("launch", *PROGRAM)
    world.until(lambda: world.states() == [["exited", "75"]] * 2)
    world.run("launch", *PROGRAM)
    assert world.states() == [["running"]] * 2


def test_a_program_that_does_not_stop_is_killed(world):
    world.ready("stubborn")
    world.run("launch", *PROGRAM)
    world.launched()
    assert "2 host(s) stopped with exit code 137" in world.run("stop", "--stop-limit=0")
    assert not world.alive()


def test_launch_needs_setup(world):
    world.run("create")
    assert "slice is not set up; run: ./run_tpu.sh setup" in world.run("launch", *PROGRAM, code=4)
    world.run("setup")
    (world.folder / "hosts" / "1" / "run_tpu" / "ready").write_text("another-boot\n")
    assert "host-w-1: it is not set up since its last boot" in world.run("launch", *PROGRAM, code=4)


def test_calls_that_change_a_host_wait_for_each_other(world):
    world.ready("run")
    with (world.folder / "hosts" / "0" / "run_tpu" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = world.start("launch", *PROGRAM)
        world.until((world.folder / "launches_1").exists)
        assert process.poll() is None and world.states() == [["idle"], ["running"]]
    assert "2 host(s) launched" in world.finish(process)
    world.run("stop")
    world.run("launch", *PROGRAM)  # the launched program does not hold the lock


def test_logs_can_be_followed(world):
    world.ready("run")
    world.run("launch", *PROGRAM)
    process = world.start("logs", "--follow", "--worker=1", "--ssh-limit=1")
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines[0].startswith("=== ") and "first launch 0" in lines[1]
    time.sleep(1.5)
    assert process.poll() is None, "the limit of other calls ended it"
    process.send_signal(signal.SIGINT)
    world.finish(process, 130)
    assert world.states() == [["running"]] * 2
