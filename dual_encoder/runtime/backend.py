"""Checks that JAX finds the kind of device that it was asked for."""

import importlib.util
import os

import jax

from dual_encoder.errors import UserError, nearest, one_line

_EXTRAS = {"cuda": "cuda", "gpu": "cuda", "tpu": "tpu"}  # JAX's name of a platform -> our extra with its backend
_PLUGINS = {"cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin"), "tpu": ("libtpu",)}


def check() -> None:
    """Raises UserError if JAX cannot start the backend that JAX_PLATFORMS names, or any."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: 'cuda' without its plugin
        asked = os.environ.get("JAX_PLATFORMS", "")
        here = ["cpu", *(name for name, plugins in _PLUGINS.items() if any(map(importlib.util.find_spec, plugins)))]
        name = asked.split(",")[0]
        if name not in _EXTRAS:
            advice = nearest(name.lower(), [*here, *_EXTRAS])
        elif _EXTRAS[name] in here:
            advice = f"it is installed, but did not start ({one_line(error)})"
        else:
            advice = f"install it with pip install 'dual_encoder[{_EXTRAS[name]}]', or unset JAX_PLATFORMS"
        raise UserError(f"JAX_PLATFORMS is '{asked}', this machine has {', '.join(here)}; {advice}") from error
