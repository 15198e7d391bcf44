"""Send messages to MLflow. Each can be sent twice without being told twice.

The store drops a metric that is equal in key, time, step and value, and a parameter, tag, input or file that it has;
time and step are in the message. Models are looked up before they are made.
"""

# MERGED DOCS:
# """Deliver what a spool holds, in order, on a thread of its own: a store that is locked, slow or gone delays nothing."""

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tnt_exp.atomic_files import acquire_lock, release_lock
from tnt_exp.tracking import models, reconcile
from tnt_exp.tracking.client import make_client, relocated_uri
from tnt_exp.tracking.outbox import Entry, Outbox, RunRef

Message = dict[str, Any]

LOGGED = ("params", "tags", "metrics")  # neighbours of these kinds are sent as one

LARGE = ("artifact", "text", "model")  # go to the place of artifacts, which may be away while the store is there

_NEVER = (
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
)


def is_permanent_error(error: Exception) -> bool:
    """Whether sending again is no use: the store has understood, and will not; or what is to be sent is gone."""
    return isinstance(error, FileNotFoundError) or (
        isinstance(error, MlflowException) and str(error.error_code) in _NEVER
    )


def send_messages(client: mlflow.MlflowClient, run: RunRef, folder: Path, messages: Sequence[Message]) -> None:
    """Send some messages of the kinds `LOGGED`, or one of another kind.

    Args:
        client: Of the store.
        run: The run.
        folder: The run folder.
        messages: In their order.

    Raises:
        MlflowException: The store is away or refuses.
        OSError: A file or the place of artifacts is away.
    """
    run_id, message = run.run_id, messages[0]
    match message["kind"]:
        case "params" | "tags" | "metrics":
            _log(client, run_id, messages)
        case "dataset":
            given = [InputTag("mlflow.data.context", message["context"])]
            client.log_inputs(run_id, [DatasetInput(Dataset(**message["dataset"]), given)])
        case "artifact":
            _artifact(client, run_id, folder / message["path"], message["to"])
        case "text":
            client.log_text(run_id, message["text"], message["to"])
        case "model":
            model_id = models.log_model(client, run_id, folder / message["path"], message["step"])
            if message["register"]:
                models.register_once(client, run_id, model_id, message["register"], message["metrics"])
            models.remove_package(folder / message["path"])
        case "status" if message["status"] == "RUNNING":
            client.update_run(run_id, "RUNNING")
        case "status":
            client.set_terminated(run_id, message["status"], message["time"])
        case "settle":
            reconcile.reconcile_runs(client, run.experiment_id, message)
        case kind:
            raise MlflowException.invalid_parameter_value(f"no kind of message: {kind}")


def _log(client: mlflow.MlflowClient, run_id: str, messages: Sequence[Message]) -> None:
    said: dict[str, list[Message]] = {kind: [m for m in messages if m["kind"] == kind] for kind in LOGGED}
    tags = {key: value for message in said["tags"] for key, value in message["values"].items()}
    client.log_batch(
        run_id,
        metrics=[
            Metric(key, value, message["time"], message["step"])
            for message in said["metrics"]
            for key, value in message["values"].items()
        ],
        params=[Param(key, value) for message in said["params"] for key, value in message["values"].items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )


def _artifact(client: mlflow.MlflowClient, run_id: str, path: Path, to: str | None) -> None:
    if path.is_dir():
        client.log_artifacts(run_id, str(path), to)
    elif path.is_file():
        client.log_artifact(run_id, str(path), to)
    else:
        raise FileNotFoundError(f"{path} is no longer there")


log = logging.getLogger("tnt_exp")

logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback of each try that failed

_FLUSH_INTERVAL = 10.0  # seconds; what is said within them goes together: fewer, larger messages cost less

_MAX_RETRY_INTERVAL = 30.0  # seconds between two tries, at most

_FINISH_TIMEOUT = 600.0  # seconds that the end of a run waits for a store that goes on taking

_MAX_BATCH = 500  # messages sent together


class Uploader:
    """Sends the messages of a spool.

    Args:
        spool: What is sent.
        run: Whom it is about, and where its store is now.
    """

    def __init__(self, spool: Outbox, run: RunRef) -> None:
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
        self._thread.join(_FINISH_TIMEOUT)
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
        held = acquire_lock(self._spool.place / ".lock")
        if held is None:
            return BlockingIOError("another process delivers them")
        try:
            return self._pass()
        finally:
            release_lock(held)

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
                self._client = make_client(self._run.uri)
            send_messages(self._client, self._run, self._spool.folder, [entry.message for entry in entries])
        except Exception as error:  # whatever a store does, training goes on
            if not is_permanent_error(error):
                return error
            if len(entries) > 1:  # which of them?
                return next((left for entry in entries if (left := self._send([entry]))), None)
            self._mark.refused += 1
            log.warning("MLflow refuses %s: %s", entries[0].message["kind"], first_line(error))
        return None

    def _work(self) -> None:
        away_since: float | None = None
        pause, size = _FLUSH_INTERVAL, -1
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
                away_since, pause, size = None, _FLUSH_INTERVAL, said
                if ended:
                    return
                continue
            if away_since is None:
                away_since = now
                log.warning("MLflow is away (%s): the run goes on, what it says is kept", first_line(error))
            pause = min(2 * pause, _MAX_RETRY_INTERVAL)
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
    spool = Outbox(folder)
    if spool.run is None:  # it never began
        return None
    uri = relocated_uri(spool.run.uri, folder)
    if uri is None:
        return FileNotFoundError(f"no tracking store at {spool.run.uri}")
    return Uploader(spool, spool.run._replace(uri=uri)).attempt()


def first_line(error: Exception) -> str:
    """What is said of an error."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Neighbours that can be sent together, others alone."""
    for together, found in itertools.groupby(entries, lambda entry: entry.message["kind"] in LOGGED):
        size = _MAX_BATCH if together else 1
        while group := list(itertools.islice(found, size)):
            yield group
