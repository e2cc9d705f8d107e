"""Strict JAX, eight simulated devices, real data through S1S2_DATA."""

import os
import pathlib

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real Sentinel data; skips where S1S2_DATA does not name one."""
    folder = os.environ.get("S1S2_DATA", "")
    if not pathlib.Path(folder, "README.md").is_file() or not folder:
        pytest.skip(f"S1S2_DATA='{folder}' is not the folder of real Sentinel data")
    return pathlib.Path(folder).resolve()
