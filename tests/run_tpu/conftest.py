"""A repository with run_tpu.sh in it, and a world for each test."""

import shutil
import signal

import pytest

from tests.run_tpu.world import MAIN, ROOT, World, git


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A shell that starts the tests in the background has them ignore SIGINT, and so all that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    shutil.copy(ROOT / "run_tpu.sh", folder)
    shutil.copytree(ROOT / "tpu", folder / "tpu")
    (folder / "main.py").write_text(MAIN.replace("VERSION", "first"))
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    return folder


@pytest.fixture
def world(tmp_path, repository):
    world = World(tmp_path, repository)
    yield world
    world.close()
