"""The lock files hold every package of setup.py in a version of its range, with hashes; their script installs them."""

import pathlib
import re
import subprocess

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent
LOCKS = {"dev": ("dev",), "beam": ("beam", "tpu-plan", "dev")}  # lock -> extras, as in locks/make


@pytest.fixture
def said(monkeypatch):
    """The arguments of `setup` in setup.py."""
    arguments = {}
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    exec(compile((ROOT / "setup.py").read_text(), "setup.py", "exec"), {"__name__": "setup"})
    return arguments


def pins(name):
    """Package -> (version, number of hashes) of a lock file."""
    found = {}
    for block in re.split(r"\n(?=\S)", (ROOT / f"locks/{name}.lock").read_text().strip()):
        first = re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", block)
        assert first, block
        found[canonicalize_name(first[1])] = first[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_fits_the_ranges_and_has_a_hash_for_every_package(said, name):
    pinned = pins(name)
    assert len(pinned) > 80 and all(hashes for _, hashes in pinned.values())
    for line in [*said["install_requires"], *(line for extra in LOCKS[name] for line in said["extras_require"][extra])]:
        wanted = Requirement(line)
        version = pinned.get(canonicalize_name(wanted.name), ("",))[0]
        assert version and wanted.specifier.contains(version), f"{line}, locked: {version}; run locks/make"


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_names_no_server(name):
    text = (ROOT / f"locks/{name}.lock").read_text()
    assert "://" not in text and not re.search(r"^--(?!hash)", text, re.M)


def test_another_python_gets_the_ranges_and_is_told(tmp_path):
    calls = tmp_path / "calls"
    fake = tmp_path / "python"
    for here, expected in (("linux x86_64 3.11", ["--require-hashes -r locks/dev.lock",
                                                  "--no-deps --no-build-isolation -e ."]),
                           ("darwin arm64 3.12", ["-e .[dev]"])):
        fake.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo "{here}" || echo "$*" >>{calls}\n')
        fake.chmod(0o755)
        calls.write_text("")
        done = subprocess.run([ROOT / "locks/install", fake, "dev", "dev"], text=True, capture_output=True, check=True,
                              env={"PATH": "/usr/bin:/bin"})
        assert calls.read_text().splitlines() == [f"-m pip install --quiet --no-compile {arguments}"
                                                  for arguments in expected]
        assert ("here is darwin arm64 3.12: the ranges of setup.py are installed, without hashes" in done.stderr) == (
            len(expected) == 1)
