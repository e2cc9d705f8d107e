"""Packages that only the environment of the runtimes has; the tests that need one are skipped elsewhere."""

import importlib
import importlib.util
import os
import types

import pytest


def runtime(name: str) -> types.ModuleType:
    """Returns a package; skips the test if it is missing, unless S1S2_RUNTIMES says that it must be there."""
    if os.environ.get("S1S2_RUNTIMES"):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason="needs `pip install dual_encoder[runtimes]`")


def needs(name: str) -> None:
    """Skips as `runtime` does, without an import: TensorFlow and PyTorch do not get along in one process."""
    if not os.environ.get("S1S2_RUNTIMES") and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is missing; needs `pip install dual_encoder[runtimes]`")
