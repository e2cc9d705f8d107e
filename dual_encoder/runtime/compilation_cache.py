"""Compiled programs are kept on disk, so that a run that is started again does not compile again."""

import contextlib
import hashlib
import os
import pathlib
import platform

import jax

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_LARGEST = 4 << 30  # bytes; the programs that were not used for longest go first


def start() -> str:
    """Turns JAX's persistent compilation cache on, unless JAX_COMPILATION_CACHE_DIR is set and empty, or JAX's own
    JAX_ENABLE_COMPILATION_CACHE says no.

    Returns:
      where it is and how large, for people.
    """
    folder = os.environ.get(_VARIABLE)
    if folder == "":
        jax.config.update("jax_enable_compilation_cache", False)
        return f"compilation cache: off ({_VARIABLE} is empty)"
    if not jax.config.jax_enable_compilation_cache:
        return "compilation cache: off (JAX_ENABLE_COMPILATION_CACHE)"
    if folder is None:
        try:
            home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        except RuntimeError:  # a user without a home, as in some containers
            jax.config.update("jax_enable_compilation_cache", False)
            return f"compilation cache: off (there is no home folder; {_VARIABLE} names another one)"
        folder = os.fspath(pathlib.Path(home) / "dual_encoder" / f"jax-{jax.__version__}-{_processor()}")
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
            jax.config.update("jax_compilation_cache_max_size", _LARGEST)
    jax.config.update("jax_compilation_cache_dir", folder)
    return f"compilation cache: '{folder}'{_contents(folder)} ({_VARIABLE} moves it)"


def _contents(folder: str) -> str:
    """Returns how many programs a local folder holds and their size; '' for one that is elsewhere, such as gs://."""
    if "://" in folder:
        return ""
    programs, size = 0, 0
    if os.path.isdir(folder):
        with os.scandir(folder) as files:
            for file in files:
                with contextlib.suppress(FileNotFoundError):  # another process makes room
                    size += file.stat().st_size
                    programs += file.name.endswith("-cache")
    return f", {programs} programs, {size / 1e6:.0f} MB"


def _processor() -> str:
    """Returns a name for what this processor can do: programs for one may not run on another that shares the home."""
    facts = platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            facts += next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        facts += platform.processor()
    return hashlib.blake2b(facts.encode(), digest_size=4).hexdigest()
