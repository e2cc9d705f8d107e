"""Lines and progress bars for the person or the log that watches a run."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress

_EVERY = 5.0  # seconds between lines


def say(text: str) -> None:
    """Prints one line at once. If the reader is gone (`| head`, or Ctrl-C that ends `| tee` first), the run goes on."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress_bar(total: float, done: int = 0, unit: str = "", facts: str = "") -> "rich.progress.Progress":
    """Returns a bar on stdout with one task: done/total, bar, facts, ETA. Start it with `start`, end it with `stop`.

    Args:
      total: units of work.
      done: units that are done already.
      unit: text before the counts, such as 'step '.
      facts: text behind the bar, until an update of the task's field `facts`.
    """
    import rich.console  # a tenth of a second, and only a terminal needs it
    import rich.progress

    progress = rich.progress
    bar = progress.Progress(progress.TextColumn(unit + "{task.completed}/{task.total}"), progress.BarColumn(),
                            progress.TextColumn("{task.fields[facts]}"), progress.TextColumn("ETA"),
                            progress.TimeRemainingColumn(), console=rich.console.Console(file=sys.stdout))
    bar.add_task("work", total=total, completed=done, facts=facts)
    return bar


def clock(seconds: float) -> str:
    """Returns a duration as '0:07', '12:34' or '1:02:03'."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class Progress:
    """Shows how far long work has come: a bar on a terminal, elsewhere a line every five seconds.

    Use it as a context manager. Other processes may change what `count` returns.

    Args:
      what: what is counted, e.g. 'records'.
      total: how many there are.
      count: returns (done, bytes done, a note such as '2 rejected').
    """

    def __init__(self, what: str, total: float, count: Callable[[], tuple[float, int, str]]):
        self._what, self._total, self._count = what, total, count
        self._stop = threading.Event()
        self._bar = progress_bar(total) if sys.stdout.isatty() else None
        self._shown = -1.0

    def __enter__(self) -> "Progress":
        self._start, self._first = time.monotonic(), self._count()
        if self._bar:
            self._bar.start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._show()
        if self._bar:
            self._bar.stop()

    def _run(self) -> None:
        while not self._stop.wait(0.5 if self._bar else _EVERY):
            self._show()

    def _show(self) -> None:
        done, size, note = self._count()
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (done - self._first[0]) / seconds
        text = f"{rate:.{1 if rate < 10 else 0}f} {self._what}/s  {(size - self._first[1]) / seconds / 1e6:.1f} MB/s"
        text += f"  {note}" if note else ""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=done, facts=text)
        elif done != self._shown or done < self._total:
            self._shown = done
            left = self._total - done
            eta = clock(left / rate) if rate > 0 else "unknown" if left else "0:00"
            print(f"{done}/{self._total} {self._what}  {text}  ETA {eta}", flush=True)
