"""Processes that work for this one, and end with it."""

import concurrent.futures
import multiprocessing
import os
import threading


def pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Returns a pool of so many new processes, which end with this one."""
    return concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent)


def end_with_parent() -> None:
    """Ends this worker process when the one that started it is gone: kill -9 leaves no orphans."""
    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)
    threading.Thread(target=watch, daemon=True).start()
