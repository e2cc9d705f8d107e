"""Runs commands for commands.py, each in a fork of this process. One line of input is one command.

A line is JSON: [words, folder, file for stdout, file for stderr]. The answer is two lines: process number, exit code.
"""

import gc
import json
import os
import runpy
import sys

# Libraries of most commands. None of them starts a thread of its own, or a device of JAX.
import flax.linen  # noqa: F401
import grain  # noqa: F401
import jax  # noqa: F401
import ml_collections  # noqa: F401
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import PIL.Image  # noqa: F401
import tensorflow_datasets  # noqa: F401


def main():
    gc.freeze()  # otherwise a garbage collection in a child would copy the memory of these libraries
    for line in sys.stdin:
        words, folder, stdout, stderr = json.loads(line)
        child = os.fork()
        if child == 0:
            become(words, folder, stdout, stderr)
            return
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(words, folder, stdout, stderr):
    """Runs `python WORDS` as the interpreter would; its errors and its exit end this process."""
    os.setsid()
    os.chdir(folder)
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, stdout, os.O_WRONLY | os.O_CREAT),
                                (2, stderr, os.O_WRONLY | os.O_CREAT)):
        os.dup2(os.open(path, flags), number)
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
