"""Deliver what a spool holds, in order, on a thread of its own: a store that is locked, slow or gone delays nothing."""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import mlflow

from tnt_exp.durable import lock, release
from tnt_exp.tracking.finished import where_now
from tnt_exp.tracking.opening import client_of
from tnt_exp.tracking.sending import LARGE, LOGGED, Message, refused, send
from tnt_exp.tracking.spool import Entry, Run, Spool

log = logging.getLogger("tnt_exp")
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback of each try that failed

_LINGER = 10.0  # seconds; what is said within them goes together: fewer, larger messages cost less
_SLOWEST = 30.0  # seconds between two tries, at most
_LONGEST = 600.0  # seconds that the end of a run waits for a store that goes on taking
_MOST = 500  # messages sent together


class Delivery:
    """Sends the messages of a spool.

    Args:
        spool: What is sent.
        run: Whom it is about, and where its store is now.
    """

    def __init__(self, spool: Spool, run: Run) -> None:
        self._spool, self._run = spool, run
        self._mark = spool.mark()
        self._client: mlflow.MlflowClient | None = None
        self._ending = threading.Event()
        self._grace = 0.0
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        """Begin to send, in the background."""
        self._thread.start()

    def finish(self, grace: float, unsaid: Iterable[Message]) -> None:
        """Wait until everything is sent; say so where something is left.

        Args:
            grace: Seconds that a store may be away before it is given up.
            unsaid: Messages that the spool could not take.
        """
        self._grace = grace
        self._ending.set()
        self._thread.join(_LONGEST)
        waiting = self._spool.waiting()
        if waiting:
            folder = self._spool.folder
            log.warning("%d messages to MLflow wait in %s; `tnt-exp sync %s` delivers them", waiting, folder, folder)
            return
        for message in unsaid:
            self._send([Entry(0, 0, message)])
        if self._mark.refused:
            log.warning("MLflow refused %d messages of this run; the run folder has everything", self._mark.refused)

    def attempt(self) -> Exception | None:
        """Send what waits, as far as the store takes it.

        Returns:
            Why something is left; None: nothing is.
        """
        held = lock(self._spool.place / ".lock")
        if held is None:
            return BlockingIOError("another process delivers them")
        try:
            return self._pass()
        finally:
            release(held)

    def _pass(self) -> Exception | None:
        failed = self._put_off()
        for group in _groups(self._spool.pending(self._mark)):
            large = group[0].message["kind"] in LARGE
            error = failed if large and failed else self._send(group)
            if error and not large:
                return error  # the store is away: all else waits, in order
            if error:
                failed = error
                self._mark.behind.append(group[0].start)
            self._mark.offset = group[-1].end
            self._note()
        return failed

    def _put_off(self) -> Exception | None:
        """Send what was put off."""
        for start in list(self._mark.behind):
            error = self._send([next(self._spool.read(start))])
            if error:
                return error
            self._mark.behind.remove(start)
            self._note()
        return None

    def _note(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk: at the next start it is told again
            self._spool.write_mark(self._mark)

    def _send(self, entries: list[Entry]) -> Exception | None:
        try:
            if self._client is None:
                self._client = client_of(self._run.uri)
            send(self._client, self._run, self._spool.folder, [entry.message for entry in entries])
        except Exception as error:  # whatever a store does, training goes on
            if not refused(error):
                return error
            if len(entries) > 1:  # which of them?
                return next((left for entry in entries if (left := self._send([entry]))), None)
            self._mark.refused += 1
            log.warning("MLflow refuses %s: %s", entries[0].message["kind"], first_line(error))
        return None

    def _work(self) -> None:
        away_since: float | None = None
        pause, size = _LINGER, -1
        while True:
            ended = self._ending.wait(pause)
            said = self._spool.size()
            if said == size and away_since is None and not ended:
                continue  # nothing new
            error = self._flushed_attempt()
            now = time.monotonic()
            if error is None:
                if away_since is not None:
                    log.info("MLflow has everything again")
                away_since, pause, size = None, _LINGER, said
                if ended:
                    return
                continue
            if away_since is None:
                away_since = now
                log.warning("MLflow is away (%s): the run goes on, what it says is kept", first_line(error))
            pause = min(2 * pause, _SLOWEST)
            if ended and now - away_since >= self._grace:
                return
            if ended:
                time.sleep(min(pause, 2.0))

    def _flushed_attempt(self) -> Exception | None:
        try:
            self._spool.flush()
            return self.attempt()
        except OSError as error:  # of the run folder's own disk
            return error


def sync(folder: Path) -> Exception | None:
    """Deliver what waits in a run folder or in that of a sweep.

    Returns:
        Why something is left; None: nothing is.
    """
    spool = Spool(folder)
    if spool.run is None:  # it never began
        return None
    uri = where_now(spool.run.uri, folder)
    if uri is None:
        return FileNotFoundError(f"no tracking store at {spool.run.uri}")
    return Delivery(spool, spool.run._replace(uri=uri)).attempt()


def first_line(error: Exception) -> str:
    """What is said of an error."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Neighbours that can be sent together, others alone."""
    for together, found in itertools.groupby(entries, lambda entry: entry.message["kind"] in LOGGED):
        size = _MOST if together else 1
        while group := list(itertools.islice(found, size)):
            yield group
