"""The standing attack, the short one: the trials are the first ones of `python -m benchmarks.attack`."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.data_prep.conftest import ROOT
from tests.fuzz import damage, hostile, raw_sets
from tests.fuzz.report import Counts


def attack(*arguments):
    """Runs trials in a process without JAX; it must end without a fault."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", *map(str, arguments)], cwd=ROOT, env=environment,
                          text=True,
                          capture_output=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_damaged_and_hostile_raw_files_are_one_line_or_quarantined():
    """25 layouts, 12 trials each: no traceback, no dead process, no write elsewhere, no change behind a checksum."""
    assert "| all | 300 |" in attack("raw", 0, 12)


@pytest.mark.slow
def test_bombs_are_refused_before_they_are_opened():
    assert "| Major TOM | 2 |" in attack("bombs", 0, 0)


@pytest.mark.slow
def test_verify_and_reading_find_damage_in_any_file_of_a_data_set():
    assert "| data set, verify | 60 |" in attack("data_set", 0, 60)


def test_every_layout_of_every_importer_is_attacked():
    from data_prep import importers

    assert {raw_set.importer for raw_set in raw_sets.RAW_SETS} == set(importers.names())


@pytest.mark.parametrize("command, fault", [
    ("os.kill(os.getpid(), 9)", "killed by signal 9"), ("{}['x']", "traceback: KeyError: 'x'"),
    ("open('/tmp/not_in_the_sandbox', 'w')", "outside: open"), ("os.mkdir('../x')", "outside: os.mkdir"),
    ("os.system('true')", "outside: os.system"), ("b'x' * 2**31", "memory: 2."), ("time.sleep(9)", "hung"),
    ("sys.exit(2)", "not one line: no message"), ("print('error: a line', file=sys.stderr) or sys.exit(2)", "")])
def test_a_trial_sees_what_must_not_happen(tmp_path, command, fault):
    """In a process of its own: this one has threads, so it must not fork."""
    seconds = 1 if "sleep" in command else 60
    script = (f"import os, pathlib, sys, time; from tests.fuzz import trial; trial.SECONDS = {seconds}\n"
              f"trials = [(pathlib.Path({str(tmp_path)!r}), lambda: {command})]\n"
              "for _, ended in trial.run_all(trials): print(ended.fault)")
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.startswith(fault) and bool(done.stdout.strip()) == bool(fault), done.stdout
    assert not pathlib.Path("/tmp/not_in_the_sandbox").exists()


def test_the_same_number_is_the_same_damage_and_it_is_damage():
    content = bytes(range(256)) * 20
    for name, mutation in damage.DAMAGES.items():
        seen = [mutation(content, np.random.default_rng(5)) for _ in range(2)]
        assert seen[0] == seen[1] and isinstance(seen[0], bytes), name
    assert sum(mutation(content, np.random.default_rng(1)) != content for mutation in damage.DAMAGES.values()) >= 8
    assert hostile.mutations("pairs.csv") and hostile.mutations("x.tif") and not hostile.mutations("x.txt")


def test_the_table_counts_and_names_faults():
    class Trial:
        name, number, file, mutation = "npz", 3, "own.npz", "flipped"

    counts = Counts().add([(Trial, "same", 10), (Trial, "found", 3 * 10**9), (Trial, "traceback: KeyError: 'x'", 1)])
    assert counts.faults == ["npz 3: own.npz, flipped: traceback: KeyError: 'x'"]
    assert "| npz | 3 | 1 | 1 | 0 | 1 | 0 | 3.00 GB |" in counts.table(), counts.table()
