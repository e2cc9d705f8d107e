"""Runs each contestant in its own process: in one process the waiting threads of one runtime slow down the other."""

import importlib.util
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any


def start(side: Callable[..., None], *arguments: Any) -> Connection:
    """Starts `side(*arguments, pipe)`, a function of a module, in another process; returns this end of the pipe."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=side, args=(*arguments, there), daemon=True).start()
    there.close()
    return here


def contestants(ours: Callable[..., None], torch: Callable[..., None], *arguments: Any) -> dict[str, Connection]:
    """Starts our side, and PyTorch's if it is installed; returns this end of each pipe by name, 'ours' and 'torch'."""
    pipes = {"ours": start(ours, *arguments)}
    if importlib.util.find_spec("torch"):
        pipes["torch"] = start(torch, *arguments)
    else:
        print("PyTorch is not installed: there is no peer")
    return pipes


def answer(name: str, pipe: Connection) -> Any:
    """Returns the next message of `name`; exits if its process has ended."""
    try:
        return pipe.recv()
    except EOFError:
        sys.exit(f"{name} has ended early: see above")


def requests(pipe: Connection) -> Iterator[Any]:
    """Yields the messages of the first process in the other one, until the first process has ended."""
    try:
        while True:
            yield pipe.recv()
    except EOFError:
        return
