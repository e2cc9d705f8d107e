"""Turns SIGTERM and SIGINT into a request to stop after the current step."""

import signal
from types import FrameType, TracebackType


class StopRequest:
    """Records SIGTERM and SIGINT instead of ending the process. A second SIGINT interrupts at once.

    Attributes:
      requested: whether one of the two signals has arrived.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._old = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
