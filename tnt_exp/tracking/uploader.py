"""Uploads the messages of an outbox to MLflow, in order, on a thread of its own.

A store that is locked, slow or unreachable delays nothing. Every message can be sent twice without being logged twice:
the store drops a metric that is equal in key, time, step and value, and a parameter, tag, input or file that it has;
time and step are part of the message. Models are looked up before they are created.
"""

import contextlib
import itertools
import logging
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from tnt_exp.atomic_files import JsonObject, acquire_lock, is_unlocked, release_lock
from tnt_exp.errors import first_line
from tnt_exp.tracking import models
from tnt_exp.tracking.client import make_client, quote_filter_value, relocated_uri, search_sweep_runs
from tnt_exp.tracking.outbox import Entry, Outbox, RunRef

log = logging.getLogger("tnt_exp")
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback for each failed attempt

_FLUSH_INTERVAL = 10.0  # seconds; fewer and larger requests cost less
_MAX_RETRY_INTERVAL = 30.0  # seconds between two attempts
_FINISH_TIMEOUT = 600.0  # seconds that the end of a run waits for a store that keeps accepting
_MAX_BATCH = 500  # messages per request

Message = JsonObject

BATCHED = ("params", "tags", "metrics")  # neighbours of these kinds are sent together
LARGE = ("artifact", "text", "model")  # go to the artifact store, which may be unreachable while the store is not

_PERMANENT = (
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
)


def is_permanent_error(error: Exception) -> bool:
    """Return True if sending again is useless: the store refuses the message, or the file to send is gone."""
    return isinstance(error, FileNotFoundError) or (
        isinstance(error, MlflowException) and str(error.error_code) in _PERMANENT
    )


def send_messages(client: mlflow.MlflowClient, run: RunRef, folder: Path, messages: Sequence[Message]) -> None:
    """Send some messages of the kinds `BATCHED`, in order, or one of another kind.

    Raises:
        MlflowException: The store cannot be reached, or refuses.
        OSError: A file or the artifact store cannot be reached.
    """
    run_id, message = run.run_id, messages[0]
    match message["kind"]:
        case "params" | "tags" | "metrics":
            _log(client, run_id, messages)
        case "dataset":
            given = [InputTag("mlflow.data.context", message["context"])]
            client.log_inputs(run_id, [DatasetInput(Dataset(**message["dataset"]), given)])
        case "artifact":
            log_artifact(client, run_id, folder / message["path"], message["to"])
        case "text":
            client.log_text(run_id, message["text"], message["to"])
        case "model":
            model_id = models.log_model(client, run_id, folder / message["path"], message["step"])
            if message["register"]:
                models.register_once(client, run_id, model_id, message["register"], message["metrics"])
            shutil.rmtree(folder / message["path"], ignore_errors=True)
        case "status" if message["status"] == "RUNNING":
            client.update_run(run_id, "RUNNING")
        case "status":
            client.set_terminated(run_id, message["status"], message["time"])
        case "settle":
            _reconcile_runs(client, run.experiment_id, message)
        case kind:
            raise MlflowException.invalid_parameter_value(f"no kind of message: {kind}")


def _log(client: mlflow.MlflowClient, run_id: str, messages: Sequence[Message]) -> None:
    by_kind: dict[str, list[Message]] = {kind: [m for m in messages if m["kind"] == kind] for kind in BATCHED}
    tags = {key: value for message in by_kind["tags"] for key, value in message["values"].items()}
    client.log_batch(
        run_id,
        metrics=[
            Metric(key, value, message["time"], message["step"])
            for message in by_kind["metrics"]
            for key, value in message["values"].items()
        ],
        params=[Param(key, value) for message in by_kind["params"] for key, value in message["values"].items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )


def log_artifact(client: mlflow.MlflowClient, run_id: str, path: Path, to: str | None) -> None:
    """Log a file or a folder.

    Raises:
        FileNotFoundError: It is gone.
    """
    if path.is_dir():
        client.log_artifacts(run_id, str(path), to)
    elif path.is_file():
        client.log_artifact(run_id, str(path), to)
    else:
        raise FileNotFoundError(f"{path} is no longer there")


class Uploader:
    """Sends the messages of an outbox.

    Args:
        outbox: What is sent.
        run: The MLflow run, with the address that its store has now.
    """

    def __init__(self, outbox: Outbox, run: RunRef) -> None:
        self._outbox, self._run = outbox, run
        self._cursor = outbox.read_cursor()
        self._client: mlflow.MlflowClient | None = None
        self._stopping = threading.Event()
        self._grace = 0.0
        self._thread = threading.Thread(target=self._run_loop, name="mlflow", daemon=True)

    def start(self) -> None:
        """Start sending in the background."""
        self._thread.start()

    def finish(self, grace: float, unqueued: Iterable[Message]) -> None:
        """Wait until everything is sent, `grace` seconds for an unreachable store, and log what is left.

        The messages given could not be written to the outbox.
        """
        self._grace = grace
        self._stopping.set()
        self._thread.join(_FINISH_TIMEOUT)
        pending = self._outbox.pending_count()
        if pending:
            folder = self._outbox.folder
            log.warning(
                "%d messages to MLflow are pending in %s; `tnt-exp sync %s` delivers them", pending, folder, folder
            )
            return
        for message in unqueued:
            self._send([Entry(0, 0, message)])
        if self._cursor.refused:
            log.warning("MLflow refused %d messages of this run; the run folder has everything", self._cursor.refused)

    def flush(self) -> Exception | None:
        """Send the pending messages; return the error that stopped delivery, or None if everything was sent."""
        held = acquire_lock(self._outbox.directory / ".lock")
        if held is None:
            return BlockingIOError("another process is delivering them")
        try:
            return self._flush_pending()
        finally:
            release_lock(held)

    def _flush_pending(self) -> Exception | None:
        failed = self._retry_deferred()
        for group in _groups(self._outbox.pending(self._cursor)):
            large = group[0].message["kind"] in LARGE
            error = failed if large and failed else self._send(group)
            if error and not large:
                return error  # the store cannot be reached: everything else waits, in order
            if error:
                failed = error
                self._cursor.behind.append(group[0].start)
            self._cursor.offset = group[-1].end
            self._save_cursor()
        return failed

    def _retry_deferred(self) -> Exception | None:
        """Send the deferred messages."""
        for start in list(self._cursor.behind):
            error = self._send([next(self._outbox.read(start))])
            if error:
                return error
            self._cursor.behind.remove(start)
            self._save_cursor()
        return None

    def _save_cursor(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk; the messages are sent again at the next start
            self._outbox.write_cursor(self._cursor)

    def _send(self, entries: list[Entry]) -> Exception | None:
        try:
            if self._client is None:
                self._client = make_client(self._run.uri)
            send_messages(self._client, self._run, self._outbox.folder, [entry.message for entry in entries])
        except Exception as error:  # whatever the store does, training continues
            if not is_permanent_error(error):
                return error
            if len(entries) > 1:  # find out which one is refused
                return next((left for entry in entries if (left := self._send([entry]))), None)
            self._cursor.refused += 1
            log.warning("MLflow refuses %s: %s", entries[0].message["kind"], first_line(error))
        return None

    def _run_loop(self) -> None:
        unreachable_since: float | None = None
        pause, size = _FLUSH_INTERVAL, -1
        while True:
            ended = self._stopping.wait(pause)
            current_size = self._outbox.size()
            if current_size == size and unreachable_since is None and not ended:
                continue  # nothing new
            error = self._fsync_and_flush()
            now = time.monotonic()
            if error is None:
                if unreachable_since is not None:
                    log.info("MLflow is reachable again and has everything")
                unreachable_since, pause, size = None, _FLUSH_INTERVAL, current_size
                if ended:
                    return
                continue
            if unreachable_since is None:
                unreachable_since = now
                log.warning("MLflow cannot be reached (%s): the run continues, messages are kept", first_line(error))
            pause = min(2 * pause, _MAX_RETRY_INTERVAL)
            if ended and now - unreachable_since >= self._grace:
                return
            if ended:
                time.sleep(min(pause, 2.0))

    def _fsync_and_flush(self) -> Exception | None:
        try:
            self._outbox.fsync()
            return self.flush()
        except OSError as error:  # from the disk of the run folder
            return error


def sync(folder: Path) -> Exception | None:
    """Deliver the pending messages of a run folder or of a sweep folder; return as `Uploader.flush`."""
    outbox = Outbox(folder)
    if outbox.run is None:  # nothing was ever logged
        return None
    uri = relocated_uri(outbox.run.uri, folder)
    if uri is None:
        return FileNotFoundError(f"no tracking store at {outbox.run.uri}")
    return Uploader(outbox, outbox.run._replace(uri=uri)).flush()


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield neighbours that can be sent together, and others alone."""
    for together, found in itertools.groupby(entries, lambda entry: entry.message["kind"] in BATCHED):
        size = _MAX_BATCH if together else 1
        while group := list(itertools.islice(found, size)):
            yield group


def _reconcile_runs(client: mlflow.MlflowClient, experiment_id: str, message: JsonObject) -> None:
    """Apply a message of `SweepTracker.reconcile`; its `endings` are status, keep and tags of each run folder."""
    endings = message["endings"]
    condition = (
        f"tags.run_folder = {quote_filter_value(next(iter(endings)))}" if len(endings) == 1 else "tags.sweep_job != ''"
    )
    for run in search_sweep_runs(client, experiment_id, message["sweep_id"], condition):
        folder = run.data.tags.get("run_folder", "")
        if folder in endings:
            _reconcile_run(client, run, Path(folder), **endings[folder])


def _reconcile_run(
    client: mlflow.MlflowClient, run: Run, folder: Path, *, status: str, keep: str | None, tags: dict[str, str]
) -> None:
    # If the folder's lock is taken, the trial was started again before this message was sent.
    if run.info.status == "RUNNING" and is_unlocked(folder / ".lock"):
        client.set_terminated(run.info.run_id, status if keep in (None, run.info.run_id) else "KILLED")
    if keep not in (None, run.info.run_id):
        client.delete_run(run.info.run_id)
        return
    for key, value in tags.items():
        client.set_tag(run.info.run_id, key, value)
