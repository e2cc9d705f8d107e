"""Turns the signals that end a process into a request to stop after the current step."""

import signal
from types import FrameType, TracebackType

# A scheduler or `kill` (TERM), Ctrl-C (INT), the end of the terminal (HUP), a warning before the end (USR1).
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class StopRequest:
    """Records SIGTERM, SIGINT, SIGHUP and SIGUSR1 instead of ending the process. A second SIGINT interrupts at once.

    A signal that is ignored when this begins stays ignored: `nohup` ignores SIGHUP.

    Attributes:
      requested: whether one of the signals has arrived.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._old = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
