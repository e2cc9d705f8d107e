"""Processes that work for this one, and end with it."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from dual_encoder.errors import UserError
from dual_encoder.runtime import limits


@contextlib.contextmanager
def pool(workers: int, start: Callable[..., None] | None = None, arguments: tuple[Any, ...] = (), kept: str = ""
         ) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Gives a pool of so many new processes, which end with this one. Work that waits when the block ends is dropped.

    Args:
      workers: processes; the flag --workers of the command sets them.
      start, arguments: is called once in each process.
      kept: what another run of the command need not do again, for the message.

    Raises:
      UserError: a process died.
    """
    spawn = multiprocessing.get_context("spawn")
    made = concurrent.futures.ProcessPoolExecutor(workers, spawn, _begin, (start, arguments))
    try:
        yield made
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(f"one of {workers} worker processes died, {limits.why_killed()}; run the same command again, "
                        f"with fewer --workers{kept and ': '}{kept}") from error
    finally:
        made.shutdown(wait=True, cancel_futures=True)


def _begin(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    if start is not None:
        start(*arguments)


def end_with_parent(*_: object) -> None:
    """Ends this worker process when the one that started it is gone: kill -9 leaves no orphans.

    Arguments are not used. Grain calls this with the number of a reading process and their count.
    """
    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)
    threading.Thread(target=watch, daemon=True).start()
