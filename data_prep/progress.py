"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere; done, rate and time left."""

import sys
import threading
import time
from collections.abc import Callable

import rich.console
import rich.progress

_EVERY = 5.0  # seconds between lines


class Progress:
    """Shows how far `count` has come while the `with` block runs; `count` may be written by other processes.

    Args:
      what: what is counted, e.g. 'records'.
      total: how many there are.
      count: returns (done, bytes done, a note such as '2 rejected').
    """

    def __init__(self, what: str, total: int, count: Callable[[], tuple[int, int, str]]):
        self._what, self._total, self._count = what, total, count
        self._stop = threading.Event()
        self._bar = _bar(total) if sys.stdout.isatty() else None
        self._shown = -1

    def __enter__(self) -> "Progress":
        self._start, self._first = time.monotonic(), self._count()
        if self._bar:
            self._bar.start()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
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
            print(f"{done}/{self._total} {self._what}  {text}  ETA {_clock(rate, self._total - done)}", flush=True)


def _clock(rate: float, left: int) -> str:
    if rate <= 0:
        return "unknown" if left else "0:00"
    minutes, seconds = divmod(round(left / rate), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


def _bar(total: int) -> rich.progress.Progress:
    progress = rich.progress
    bar = progress.Progress(progress.TextColumn("{task.completed}/{task.total}"), progress.BarColumn(),
                            progress.TextColumn("{task.fields[facts]}"), progress.TextColumn("ETA"),
                            progress.TimeRemainingColumn(), console=rich.console.Console(file=sys.stdout))
    bar.add_task("work", total=total, facts="")
    return bar
