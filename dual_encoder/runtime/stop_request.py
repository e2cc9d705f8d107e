"""SIGTERM and SIGINT as a request to stop after the current step."""

import signal
from typing import Any


class StopRequest:
    """Notes SIGTERM and SIGINT, which would end the process; a second SIGINT interrupts at once.

    Use it as a context manager.

    Attributes:
      requested: True after a signal.
    """

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._old = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
