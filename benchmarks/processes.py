"""Contestants in processes of their own: in one process the waiting threads of a runtime slow the other one down."""

import importlib.util
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any


def start(side: Callable[..., None], *arguments: Any) -> Connection:
    """Starts `side(*arguments, pipe)`, a function of a module, in another process; returns our end of the pipe."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    context.Process(target=side, args=(*arguments, there), daemon=True).start()
    there.close()
    return here


def contestants(ours: Callable[..., None], torch: Callable[..., None], *arguments: Any) -> dict[str, Connection]:
    """Starts both sides, PyTorch's where it is installed; returns our end of each pipe by name, 'ours' and 'torch'."""
    pipes = {"ours": start(ours, *arguments)}
    if importlib.util.find_spec("torch"):
        pipes["torch"] = start(torch, *arguments)
    else:
        print("PyTorch is not installed: no peer")
    return pipes


def answer(name: str, pipe: Connection) -> Any:
    """Waits for what `name` sends; exits where its process has ended instead."""
    try:
        return pipe.recv()
    except EOFError:
        sys.exit(f"{name} has ended early: see above")


def requests(pipe: Connection) -> Iterator[Any]:
    """In the other process: yields what is sent to it, until the first has ended."""
    try:
        while True:
            yield pipe.recv()
    except EOFError:
        return
