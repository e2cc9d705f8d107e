"""Keeps compiled programs on disk, so that a run that is started again does not compile them again."""

import contextlib
import hashlib
import os
import pathlib
import platform

import filelock
import jax

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_LARGEST = 4 << 30  # bytes; above this JAX deletes the programs that were not used for the longest time


def start() -> str:
    """Turns on JAX's persistent compilation cache.

    The cache stays off if JAX_COMPILATION_CACHE_DIR is set and empty, or if JAX_ENABLE_COMPILATION_CACHE, JAX's own
    variable, is false.

    Returns:
      a line for the log: the folder, the number of programs in it and their size.
    """
    folder = os.environ.get(_VARIABLE)
    if folder == "":
        jax.config.update("jax_enable_compilation_cache", False)
        return f"compilation cache: off ({_VARIABLE} is empty)"
    if not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]  # JAX adds options at run time
        return "compilation cache: off (JAX_ENABLE_COMPILATION_CACHE)"
    if folder is None:
        try:
            folder = os.fspath(usual("jax"))
        except RuntimeError:  # the user has no home folder, as in some containers
            jax.config.update("jax_enable_compilation_cache", False)
            return f"compilation cache: off (there is no home folder; set {_VARIABLE} to use another one)"
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
            jax.config.update("jax_compilation_cache_max_size", _LARGEST)
        if jax.config.jax_compilation_cache_max_size != -1:  # type: ignore[attr-defined]
            mend(folder)
    jax.config.update("jax_compilation_cache_dir", folder)
    return f"compilation cache: '{folder}'{_contents(folder)} (set {_VARIABLE} to move it)"


def usual(name: str) -> pathlib.Path:
    """Returns the folder of the programs of this JAX for this processor below the user's cache folder.

    Args:
      name: first part of the name of the folder, such as 'jax'.

    Raises:
      RuntimeError: the user has no home folder.
    """
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "dual_encoder" / f"{name}-{jax.__version__}-{_processor()}"


def mend(folder: str | os.PathLike[str]) -> None:
    """Deletes programs that a killed process wrote in part, in the folder of a cache that is bounded in size.

    JAX writes the time of use after the program. A program without one makes it warn at each later start, and keep no
    further program.
    """
    place = pathlib.Path(folder)
    if not place.is_dir():
        return
    with contextlib.suppress(OSError), filelock.FileLock(place / ".lockfile", timeout=10):  # JAX's own lock
        for program in place.glob("*-cache"):
            used = program.with_name(program.name.removesuffix("-cache") + "-atime")
            if not used.exists() or used.stat().st_size != 8:
                program.unlink()
                used.unlink(missing_ok=True)


def _contents(folder: str) -> str:
    """Returns how many programs a local folder holds and their size; '' for a remote folder, such as gs://."""
    if "://" in folder:
        return ""
    programs, size = 0, 0
    if os.path.isdir(folder):
        with os.scandir(folder) as files:
            for file in files:
                with contextlib.suppress(FileNotFoundError):  # another process has just deleted it
                    size += file.stat().st_size
                    programs += file.name.endswith("-cache")
    return f", {programs} programs, {size / 1e6:.0f} MB"


def _processor() -> str:
    """Returns a name for the instruction set of this processor.

    Machines with different processors may share a home folder, and a program for one of them may not run on another.
    """
    facts = platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            facts += next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        facts += platform.processor()
    return hashlib.blake2b(facts.encode(), digest_size=4).hexdigest()
