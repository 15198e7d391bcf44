"""Requests to stop: SIGINT, SIGTERM and SIGUSR1.

Within `deferred` a request waits until it is asked for, so that a training step is never interrupted; elsewhere it is
raised where it arrives. A second request is always raised at once.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

# The codes of a shell; for SIGUSR1 (a scheduler's warning before it preempts) EX_TEMPFAIL: try again.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 75}


class Stopped(BaseException):
    """A signal asked the run to stop."""

    def __init__(self, number: int) -> None:
        self.exit_code = EXIT_CODES[signal.Signals(number)]  # of the process
        super().__init__(f"stopped by {signal.Signals(number).name}")


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in EXIT_CODES}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def exiting() -> AbstractContextManager[None]:
    """End the process with the exit code of a signal, while no run handles signals yet."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(EXIT_CODES[signal.Signals(number)])

    return _handled_by(end)


class Signals:
    """Handlers of the signals, within `with signals.handled():`."""

    def __init__(self) -> None:
        self.requested = 0  # the signal of a request that waits
        self._deferring = False

    def handled(self) -> AbstractContextManager[None]:
        """Install the handlers, and restore the former ones."""
        return _handled_by(self._handle)

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
