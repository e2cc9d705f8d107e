"""A world in which run_tpu.sh may do as it likes: a fake gcloud, folders that play hosts, a stand-in for main.py."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
PROGRAM = ["--", "--config=configs/pretrain.py", "--workdir=/mnt/shared/it's a run", "--config.data.weights=(1, 2)"]

# The number of the launch on this host picks what main.py does.
MAIN = """
import os, pathlib, signal, sys, time
world, host = pathlib.Path(os.environ["WORLD"]), os.environ["FAKE_HOST"][-1]
launches = world / f"launches_{host}"
number = int(launches.read_text()) if launches.exists() else 0
actions = (world / "program").read_text().split()
action = actions[min(number, len(actions) - 1)].split("/")
action = action[min(int(host), len(action) - 1)]
print("VERSION launch", number, sys.argv[1:])
signal.signal(signal.SIGTERM, signal.SIG_IGN if action == "stubborn" else lambda *_: sys.exit(75))
launches.with_suffix(f".{host}").write_text(str(number + 1))
launches.with_suffix(f".{host}").rename(launches)  # a test may kill this as soon as the file is there
while not action.isdigit():
    time.sleep(0.02)
time.sleep(0.2 * (action == "4"))  # later than its peer
print("bye", action)
sys.exit(int(action))
"""
UV = """#!/bin/bash
echo "$@" >>~/uv
[[ ! -f $WORLD/no_network ]] || { echo 'error: Failed to fetch' >&2; exit 1; }
[[ $1 == venv ]] || exit 0
mkdir -p venv/bin
printf '#!/bin/sh\\nexec PYTHON -SE "$@"\\n' >venv/bin/python
chmod +x venv/bin/python
"""
RECORD = '#!/bin/bash\necho "${0##*/} $*" >>~/system\n[[ ${0##*/} != findmnt || -e $WORLD/mounted ]]\n'
SLEEP = '#!/bin/sh\necho "$1" >>"$WORLD/sleeps"\nexec /bin/sleep "$1"\n'


class World:
    """The cloud as the fake gcloud sees it, and run_tpu.sh in it."""

    def __init__(self, folder, repository):
        """folder: for all files; repository: of run_tpu.sh, tpu/ and MAIN."""
        self.folder, self.repository, self._started = folder, repository, []
        self.plan()
        self.program("0")
        tools = folder / "bin"
        tools.mkdir(parents=True)
        gcloud = f'#!/bin/sh\nexec {sys.executable} -SE {HERE / "fake_gcloud.py"} "$@"\n'
        uv = UV.replace("PYTHON", sys.executable)
        for name, text in {"gcloud": gcloud, "uv": uv, "sleep": SLEEP, "hostname": '#!/bin/sh\necho "$FAKE_HOST"\n',
                           **dict.fromkeys(("sudo", "findmnt", "gcsfuse", "mount.nfs", "curl"), RECORD)}.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self._environment = {key: os.environ[key] for key in ("HOME", "LANG", "TMPDIR") if key in os.environ} | {
            "NAME": "slice", "ZONE": "us-west4-a", "ACCELERATOR_TYPE": "v5litepod-16", "POLL": "0", "GRACE": "0",
            "BACKOFF": "0", "FAILURES": "4", "WORLD": str(folder), "PATH": f"{tools}:{os.environ['PATH']}"}

    def plan(self, **plan):
        """What the fake gcloud is to do, see there."""
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def program(self, *actions):
        """What main.py does at its first, second ... launch: an exit code, 'run' or 'stubborn'; 'A/B': by host."""
        (self.folder / "program").write_text(" ".join(actions))

    def start(self, *arguments, **settings):
        heard = [shutil.which("env"), "--default-signal=HUP"]  # bash cannot trap what nohup ignores
        self._started.append(subprocess.Popen(
            [*heard, "bash", self.repository / "run_tpu.sh", *arguments], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=self._environment | settings))
        return self._started[-1]

    def run(self, *arguments, code=0, **settings):
        """Returns the output of run_tpu.sh; a failure must end with a line that explains it."""
        return self.finish(self.start(*arguments, **settings), code)

    def finish(self, process, code=0):
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, (process.returncode, out, err)
        if code not in (0, 130):
            assert err.splitlines()[-1].startswith("error: "), err
        return out + err

    def until(self, condition):
        for _ in range(1500):
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError("never came true")

    def ready(self, *actions):
        """A slice that is set up, for a program."""
        self.program(*actions)
        self.run("create")
        self.run("setup")

    def launched(self):
        """Waits until the program runs on both hosts."""
        self.until(lambda: all((self.folder / f"launches_{host}").exists() for host in (0, 1)))

    def calls(self, verb=None):
        path = self.folder / "calls"
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in calls if verb in (None, call[3])]

    def text(self, host, name):
        return (self.folder / "hosts" / str(host) / name).read_text()

    def states(self):
        """What `status` says of each host, without the time."""
        return [line.split()[1:3] for line in self.run("status").splitlines()[1:]]

    def slept(self):
        """The seconds of each pause so far, without those of no length."""
        path = self.folder / "sleeps"
        return [float(line) for line in path.read_text().split() if float(line) >= 1] if path.exists() else []

    def alive(self):
        """The processes of this world, which Linux shows by their environment."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # ended meanwhile, or another user's
                if f"WORLD={self.folder}\0".encode() in path.read_bytes():
                    found.append((path.parent / "cmdline").read_bytes())
        return found

    def close(self):
        for process in self._started:
            if process.poll() is None:  # its test failed
                process.terminate()
                process.communicate(timeout=30)
        for path in self.folder.glob("hosts/*/run_tpu/process"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(path.read_text().split()[0]), signal.SIGKILL)


def documented_commands():
    """Returns the lines of README and docs/ that call run_tpu.sh, continuation lines joined."""
    text = "".join(path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))
    return re.findall(r"^ {4}(\./run_tpu\.sh .*)$", re.sub(r"\\\n *", "", text), re.M)


def git(folder, *arguments):
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)
