"""Requests to stop: SIGINT, SIGTERM and SIGUSR1.

Within `deferred` a request waits until `raise_if_requested`, so that a training step is never cut in two; elsewhere it
is raised where it arrives. A second one is always raised at once.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Exit codes: those of a shell, and for SIGUSR1 (a scheduler's warning before it preempts) EX_TEMPFAIL: try again.
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
        """What the process ends with."""
        return EXIT_CODES[self.signal]


@contextmanager
def exiting() -> Iterator[None]:
    """A signal ends the process with its exit code, where no run has begun to listen."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(EXIT_CODES[signal.Signals(number)])

    before = {number: signal.signal(number, end) for number in EXIT_CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Signals:
    """Handlers of the signals, within `with signals.handled():`."""

    def __init__(self) -> None:
        self._requested: int | None = None
        self._deferring = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Install the handlers, and put back the former ones."""
        before = {number: signal.signal(number, self._handle) for number in EXIT_CODES}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Requests wait for `raise_if_requested`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    @property
    def requested(self) -> bool:
        """Whether a request waits."""
        return self._requested is not None

    def raise_if_requested(self) -> None:
        """Raise `Stopped` when a request waits."""
        if self._requested is not None:
            raise Stopped(self._requested)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self._requested is not None
        self._requested = number
        if again or not self._deferring:
            raise Stopped(number)
