"""Runs one command in a forked process, in a sandbox: what it said, how it ended, what it took, where it wrote.

A fork of a process that has imported everything takes some 60 ms for a whole build. The fork keeps the parent alive
when the command dies, and gives the peak of its memory.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator

MEMORY = 2 * 10**9  # bytes that no trial may take
SECONDS = 60  # after which a trial is ended
_ADDRESSES = 8 * 2**30  # a bound of the address space, so that a bomb cannot take the machine
_TRACEBACK = 70  # exit code
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# Event -> (place of a path among its arguments, place of the folder that it is relative to)
_CHANGES = {"os.mkdir": ((0, 2),), "os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.rename": ((0, 2), (1, 3)),
            "os.link": ((1, 3),),
            "os.symlink": ((1, 2),), "os.truncate": ((0, None),), "os.chmod": ((0, 2),)}
_FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a trial ended.

    Attributes:
      code: exit code; minus the number of the signal that ended it.
      out, err: text of stdout and stderr.
      memory: peak of its resident memory in bytes.
      forbidden: writes outside of the sandbox and started programs; () if there were none.
    """

    code: int
    out: str
    err: str
    memory: int
    forbidden: tuple[str, ...]

    @property
    def errors(self) -> list[str]:
        """The lines of stderr, without those that GDAL writes about its files and without empty ones."""
        return [line for line in self.err.splitlines() if line.strip() and not line.startswith("WARNING:rasterio.")]

    @property
    def fault(self) -> str:
        """What must never happen: killed, hung, traceback, memory, outside, lines; '' if none of them did."""
        if self.code < 0:
            return "hung" if self.code == -signal.SIGALRM else f"killed by signal {-self.code}"
        if self.forbidden:
            return f"outside: {self.forbidden[0]}"
        if self.code == _TRACEBACK or "Traceback (most recent call last)" in self.err:
            return f"traceback: {([*filter(None, self.err.splitlines())] or [''])[-1][:160]}"
        if self.memory > MEMORY:
            return f"memory: {self.memory / 1e9:.1f} GB"
        errors = self.errors
        if self.code == 2 and (not errors or not errors[-1].startswith("error: ") or len(errors) > 1):
            return f"not one line: {errors[-1][:100] if errors else 'no message'} ({len(errors)} lines)"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}"
        return ""


def apart(function: Callable[[], object]) -> None:
    """Calls a function in a forked process and waits for it: threads of libraries that it starts do not stay.

    A fork of a process with threads may hang for ever, so this process starts none.
    """
    pid = os.fork()
    if not pid:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise AssertionError(f"{function} failed, see above")


def run_all(trials: Iterable[tuple[pathlib.Path, Callable[[], object]]], processes: int = 2
            ) -> Iterator[tuple[pathlib.Path, Ended]]:
    """Runs each (sandbox, command) in a process of its own, some at a time; yields the sandbox and the end of each.

    A sandbox is a folder that exists; the command may write to it alone. Commands are functions without arguments.
    """
    running: dict[int, pathlib.Path] = {}
    waiting = iter(trials)
    while True:
        while len(running) < processes and (trial := next(waiting, None)):
            running[_start(*trial)] = trial[0]
        if not running:
            return
        pid, status, usage = os.wait4(-1, 0)
        sandbox = running.pop(pid)
        said = {name: (sandbox / name).read_text(errors="replace") for name in ("stdout", "stderr")}
        forbidden = sandbox / "forbidden"
        yield sandbox, Ended(os.waitstatus_to_exitcode(status), said["stdout"], said["stderr"], usage.ru_maxrss * 1024,
                             tuple(json.loads(forbidden.read_text())) if forbidden.exists() else ())


def _start(sandbox: pathlib.Path, command: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = _TRACEBACK
    try:
        signal.alarm(SECONDS)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(sandbox / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        tempfile.tempdir = os.environ["TMPDIR"] = str(sandbox)
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _watch(sandbox)
        code = _exit_code(command)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _exit_code(command: Callable[[], object]) -> int:
    try:
        command()
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return error.code or 0
    return 0


def _watch(sandbox: pathlib.Path) -> None:
    """Refuses and notes writes of Python outside of the sandbox, programs that are started, and connections."""
    home, seen, quiet = os.path.realpath(sandbox) + os.sep, [], []

    def outside(path: object, folder: int = -1) -> bool:
        if isinstance(path, int):
            return False
        base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else ""
        place = os.path.realpath(os.path.join(base, os.fsdecode(path)))
        return not (place + os.sep).startswith(home) and not place.startswith(("/dev/", "/proc/"))

    def hook(event: str, arguments: tuple) -> None:
        if quiet:
            return
        paths = []
        if event == "open" and (arguments[2] or 0) & _WRITES:
            paths = [arguments[:1]]
        elif event in _CHANGES:
            paths = [tuple(arguments[i] for i in places if i is not None) for places in _CHANGES[event]]
        try:
            wrong = event in _FORBIDDEN or any(outside(*path) for path in paths)
        except (ValueError, TypeError):  # no path at all: the call itself fails
            return
        if wrong:
            quiet.append(1)
            seen.append(f"{event} {re.sub(chr(10), ' ', repr(arguments))[:200]}")
            (sandbox / "forbidden").write_text(json.dumps(seen))
            quiet.clear()
            raise PermissionError(f"forbidden in a trial: {seen[-1]}")
    sys.addaudithook(hook)
