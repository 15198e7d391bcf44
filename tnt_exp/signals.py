"""Requests to stop: SIGINT, SIGTERM and SIGUSR1.

Within `deferred` a request waits until it is asked for, so that a training step is never interrupted; elsewhere it is
raised where it arrives. A second request is always raised at once.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# The codes of a shell; for SIGUSR1 (a scheduler's warning before it preempts) EX_TEMPFAIL: try again.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 75}


class Stopped(BaseException):
    """A signal asked the run to stop.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")

    @property
    def exit_code(self) -> int:
        """The exit code of the process."""
        return EXIT_CODES[self.signal]


@contextmanager
def exiting() -> Iterator[None]:
    """End the process with the exit code of a signal, while no run handles signals yet."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(EXIT_CODES[signal.Signals(number)])

    before = {number: signal.signal(number, end) for number in EXIT_CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Signals:
    """Handlers of the signals, within `with signals.handled():`.

    Attributes:
        requested: The signal of a request that waits, or 0.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._deferring = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Install the handlers, and restore the former ones."""
        before = {number: signal.signal(number, self._handle) for number in EXIT_CODES}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let requests wait."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = bool(self.requested)
        self.requested = number
        if again or not self._deferring:
            raise Stopped(number)
