"""Makes glibc keep freed memory on a CPU.

XLA allocates each step's memory anew. By default glibc returns it to the kernel, and the page faults to get it back
cost up to a fifth of a step (docs/performance.md).
"""

import ctypes
import importlib.metadata
import importlib.util
import os

import jax

# The version of jaxlib that the fifth was measured with. With a newer one tests/test_workarounds.py fails until it is
# measured again.
_MEASURED_WITH = "0.10"

# The parameters of mallopt(3), from <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep() -> bool:
    """Makes glibc keep freed memory and use it again. Call this before JAX starts its threads.

    After this call, blocks of any size come from one heap, which is never trimmed. On a machine with an accelerator
    many threads would wait for each other at this heap. So nothing is changed unless JAX can only use the CPU, or is
    set to use it. Nothing is changed either if the user has set one of glibc's own variables.

    Returns:
      whether glibc keeps freed memory now.
    """
    chosen = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(v.startswith("MALLOC_") for v in os.environ)
    if chosen or not _cpu_only() or not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # -1 is the largest size_t
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])


def _cpu_only() -> bool:
    """Returns whether JAX will run on the CPU, without starting JAX's backends."""
    platforms = jax.config.jax_platforms  # type: ignore[attr-defined]  # JAX adds its options at run time
    if platforms:
        return platforms == "cpu"
    return not (importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("jax_plugins")
                or importlib.util.find_spec("libtpu"))


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError, AttributeError):  # another libc; AttributeError on Windows
        return False
