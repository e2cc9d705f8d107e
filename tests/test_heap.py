"""Freed memory is kept on a CPU: later steps need no memory from the kernel."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys

import jax
import pytest

from dual_encoder.runtime import heap

pytestmark = pytest.mark.quick

# Runs a step whose result has 64 MB, and prints the median number of page faults of 4 kB per step. The median, because
# the heap may grow if a result is freed later than usual.
STEP = """
import resource, statistics, sys
from dual_encoder.runtime import heap
if sys.argv[1] == "keep":
    assert heap.keep()
import jax
import jax.numpy as jnp

x, step = jnp.ones((160_000, 100)), jax.jit(lambda x: x + 1)
asked = []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    asked.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(statistics.median(asked)))
"""


def pages(argument):
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("GLIBC_TUNABLES", "MALLOC_"))} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", STEP, argument], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not heap._is_glibc(), reason="another libc")
def test_a_step_asks_the_kernel_for_no_memory():
    assert pages("keep") < 1000 and pages("as glibc is") > 10_000  # 15,625 make 64 MB


@pytest.fixture
def called(monkeypatch):
    """Returns whether mallopt was called, in a made-up world without accelerators."""
    calls = []

    class Libc:
        def __init__(self, name):
            self.mallopt = lambda parameter, value: calls.append(parameter) or 1

    monkeypatch.setattr(heap.ctypes, "CDLL", Libc)
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    for name in ("GLIBC_TUNABLES", *(name for name in os.environ if name.startswith("MALLOC_"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    def ask(platforms=None):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(type(jax.config), "jax_platforms", platforms, raising=False)
            assert heap.keep() == bool(calls)
        return bool(calls)

    return ask


def test_only_where_jax_runs_on_the_cpu(called, monkeypatch):
    assert called() and called(platforms="cpu")
    assert not called(platforms="cuda,cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu" or None)
    assert not called() and called(platforms="cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ["xla_cuda12"])
    assert not called() and called(platforms="cpu")


def test_leaves_what_the_user_chose_and_other_libraries(called, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert not called()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.rtld.nns=3")
    assert called()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    assert not called()
    monkeypatch.delenv("MALLOC_ARENA_MAX")

    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    assert not called()
