"""Runs a command as a user would: in a process of its own, from a folder, with an exit code and printed text.

Most of the time of a small command is the import of libraries. So the process is a fork of one that has imported them
(command_server.py); it imports every file of the project itself.
"""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import weakref

ROOT = pathlib.Path(__file__).parent.parent


def run(*words, cwd=ROOT, timeout=300, **variables) -> subprocess.CompletedProcess:
    """Runs `python WORDS`; the words begin with `-m MODULE` or with the path of a script.

    variables: are added to the environment of the test, to JAX_PLATFORMS=cpu, NO_COLOR=1 and PYTHONPATH=<repository>.

    Returns:
      exit code (negative: the signal that killed it), stdout and stderr as text.
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)} | variables
    environment.pop("PYTEST_CURRENT_TEST", None)  # differs from test to test
    return _server(frozenset(environment.items())).run([os.fspath(word) for word in words], os.fspath(cwd), timeout)


@functools.lru_cache(3)  # servers at a time; each holds 0.3 GB
def _server(environment):
    return _Server(dict(environment))


class _Server:
    """A process that has started with `environment`, and whose forks run commands, one at a time."""

    def __init__(self, environment):
        self._process = subprocess.Popen([sys.executable, ROOT / "tests/command_server.py"], env=environment, text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        weakref.finalize(self, _stop, self._process)

    def run(self, words, cwd, timeout):
        with tempfile.TemporaryDirectory() as folder:
            printed = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
            print(json.dumps([words, cwd, *map(str, printed)]), file=self._process.stdin, flush=True)
            group = int(self._process.stdout.readline())
            timer = threading.Timer(timeout, os.killpg, (group, signal.SIGKILL))
            timer.start()
            code = int(self._process.stdout.readline())
            late = not timer.is_alive()
            timer.cancel()
            stdout, stderr = (path.read_text() for path in printed)
        if late:
            raise subprocess.TimeoutExpired(words, timeout, stdout, stderr)
        return subprocess.CompletedProcess(words, code, stdout, stderr)


def _stop(process):
    process.stdin.close()  # the end of its loop
    process.wait()
    process.stdout.close()
