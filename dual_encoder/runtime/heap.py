"""The memory of a step stays with the process on a CPU, where XLA asks for it anew each time.

As glibc is, it gives large blocks back to the kernel, which clears them page by page when they are asked for again: up
to a fifth of the time of a step (docs/performance.md).
"""

import ctypes
import importlib.metadata
import importlib.util
import os

import jax

# The parameters of mallopt(3), <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep() -> bool:
    """Makes glibc keep what is freed and use it again. To be called before JAX starts its threads.

    Blocks of any size come from one heap, which is never trimmed: the threads that a machine with an accelerator has
    would wait for each other there, so only where JAX can choose nothing but the CPU, or was told to. A user who sets
    glibc's own variables has chosen.

    Returns:
      whether it does.
    """
    chosen = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(v.startswith("MALLOC_") for v in os.environ)
    if chosen or not _cpu_only() or not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # -1 is the largest size_t
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])


def _cpu_only() -> bool:
    """Whether JAX will run on the CPU; asking JAX itself would start it."""
    if jax.config.jax_platforms:
        return jax.config.jax_platforms == "cpu"
    return not (importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("jax_plugins")
                or importlib.util.find_spec("libtpu"))


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError, AttributeError):  # another libc; AttributeError: Windows
        return False
