"""One run at a time writes to a workdir; a killed run does not block the next one. Times have a zone."""

import datetime
import errno
import fcntl
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from dual_encoder.errors import UserError
from dual_encoder.workdir import folder as workdir

pytestmark = pytest.mark.quick

HOLDER = ("import sys, time\nfrom etils import epath\nfrom dual_encoder.workdir import folder as workdir\n"
          "with workdir.claim(epath.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n")


def test_a_folder_in_use_is_refused_with_who_uses_it(tmp_path, capfd):
    folder = epath.Path(tmp_path)
    with workdir.claim(folder), pytest.raises(UserError, match=re.escape(
            f"--workdir '{folder}' is in use by process {os.getpid()} on ")) as error:
        with workdir.claim(folder, patience=0.5):
            pytest.fail("two at once")
    assert f"delete '{folder / 'lock'}'" in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr().out.count("waiting up to") == 1
    with workdir.claim(folder, patience=0):
        assert (folder / "lock").read_text().count("process") == 1


def test_a_run_that_is_just_ending_is_waited_for(tmp_path):
    folder, ended = epath.Path(tmp_path), []
    with open(folder / "lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def end():
            time.sleep(0.5)
            ended.append(True)
            fcntl.flock(other, fcntl.LOCK_UN)
        thread = threading.Thread(target=end)
        thread.start()
        with workdir.claim(folder, patience=60):
            assert ended
        thread.join()


def test_the_folder_of_a_killed_run_is_free_at_once(tmp_path):
    folder = epath.Path(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE, text=True)
    with holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=f"process {holder.pid} on"), workdir.claim(folder, patience=0):
                pytest.fail("two at once")
        finally:
            holder.kill()
    with workdir.claim(folder, patience=0):
        pass


def test_a_file_system_without_locks_stops_nobody(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr(fcntl, "flock", flock)
    with workdir.claim(epath.Path(tmp_path), patience=0), workdir.claim(epath.Path(tmp_path), patience=0):
        pass


def test_times_say_their_zone(tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "UTC-05:30")  # POSIX: east of Greenwich is negative
    time.tzset()
    try:
        facts = {"config": {"task": "pretrain"}, "sensors": {}, "dataset": {}, "loaded": {}}
        workdir.record_run(epath.Path(tmp_path), facts, 3)
        with workdir.claim(epath.Path(tmp_path)):
            since = (tmp_path / "lock").read_text().split("since ")[1].strip()
    finally:
        monkeypatch.undo()
        time.tzset()
    started = json.loads((tmp_path / "run.json").read_text())["started"]
    for text in (started, since):
        assert text.endswith("+05:30")
        assert abs((datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(text)).total_seconds()) < 60
    workdir.record_run(epath.Path(tmp_path), facts, 3)
    assert json.loads((tmp_path / "run.json").read_text())["started"] == started, "of the first start"


def test_a_full_disk_at_the_lock_names_the_file(tmp_path):
    """A limit of the file size stands in for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with (pytest.raises(UserError, match=r"cannot write '.*/lock' \(File too large\); name a folder"),
              workdir.claim(epath.Path(tmp_path), patience=0)):
            pytest.fail("the lock has no owner")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with workdir.claim(epath.Path(tmp_path), patience=0):
        assert "process" in (tmp_path / "lock").read_text()
