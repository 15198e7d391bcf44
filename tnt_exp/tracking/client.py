"""Access to the tracking store: its address, its client, its experiments and runs."""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from tnt_exp.credentials import without_password
from tnt_exp.errors import UserError, first_line
from tnt_exp.tracking.outbox import Outbox, RunRef

SQLITE_PREFIX = "sqlite:///"
ARTIFACTS_FOLDER = "mlartifacts"  # beside a SQLite store


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store; None: a server."""
    return Path(uri.removeprefix(SQLITE_PREFIX)) if uri.startswith(SQLITE_PREFIX) else None


def resolve_tracking_uri(uri: str | None) -> str:
    """Return the address of the store, absolute and without a password.

    In this order: what the command or the configuration says, MLFLOW_TRACKING_URI, SQLite in the working folder.
    MLflow's own default is the same file, but it uses ./mlruns if that holds an old file store.
    """
    uri = without_password(uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE_PREFIX}mlflow.db")
    file = sqlite_file(uri)
    return f"{SQLITE_PREFIX}{file.expanduser().resolve()}" if file else uri


def artifact_location(uri: str) -> str | None:
    """Return where the artifacts of a new experiment go: beside a SQLite file; None: a server decides."""
    file = sqlite_file(uri)
    return (file.parent / ARTIFACTS_FOLDER).as_uri() if file else None


def ui_command(uri: str) -> str:
    """Return the command to type, or the address to open, to see the runs."""
    if uri.startswith(("http://", "https://")):
        return f"open {uri}"
    if uri == resolve_tracking_uri(None):
        return "tnt-exp ui"
    return f"tnt-exp ui --uri {uri}"


logging.getLogger("mlflow.store").setLevel(logging.WARNING)  # it logs every table that it creates


def init_sqlite_store(uri: str) -> None:
    """Create the SQLite file of a store if it is new: under a temporary name, then renamed, by one process at a time.

    MLflow creates its tables in many steps; a process killed between two of them leaves a file that no later MLflow
    can open ("table _alembic_tmp_runs already exists").
    """
    file = sqlite_file(uri)
    if file is None or file.exists() or not file.parent.is_dir():
        return
    with file.with_name(f"{file.name}.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if file.exists():  # another process was first
            return
        part = file.with_name(f"{file.name}.part")
        for left in part.parent.glob(f"{part.name}*"):
            left.unlink()
        mlflow.MlflowClient(f"{SQLITE_PREFIX}{part}").search_experiments()
        part.replace(file)


def get_or_create_experiment(client: mlflow.MlflowClient, uri: str, name: str) -> str:
    """Return the id of an experiment; it is created if it is new, by whichever process comes first.

    Raises:
        UserError: The experiment was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location(uri)))
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            found = client.get_experiment_by_name(name)  # another process was first
    if found is None or found.lifecycle_stage != "active":
        raise UserError(
            f"tracking.experiment: expected an active experiment, received the deleted {name}. "
            f"Restore it (mlflow experiments restore) or choose another name."
        )
    return str(found.experiment_id)


def relocated_uri(uri: str, folder: Path) -> str | None:
    """Return where the store of a run folder or sweep folder is now, or None if it is gone.

    If a project was moved as a whole, it is the SQLite file above the folder.
    """
    if store_exists(uri):
        return uri
    files = (above / "mlflow.db" for above in folder.parents)
    return next((f"{SQLITE_PREFIX}{file}" for file in files if file.is_file()), None)


def store_exists(uri: str) -> bool:
    """Return False for a SQLite file that does not exist: MLflow would create it."""
    file = sqlite_file(uri)
    return file is None or file.is_file()


T = TypeVar("T")

_LOCK_TIMEOUT = 60.0  # seconds to wait for a database that others write to, before a run begins

# Attempts are short: the uploader retries, and no training step waits for it.
_CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # at once: a server closes connections that are idle for some seconds
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def make_client(uri: str) -> mlflow.MlflowClient:
    """Return a client of a store, with short time limits."""
    for name, value in _CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    mlflow.set_tracking_uri(uri)  # proxied artifacts need it
    return mlflow.MlflowClient(uri)


def resume_or_create_run(
    outbox: Outbox,
    uri: str,
    experiment: str,
    find: Callable[[mlflow.MlflowClient, str], str | None],
    make: Callable[[mlflow.MlflowClient, str], str],
) -> tuple[RunRef, bool]:
    """Return the MLflow run that an outbox names, or create one (and the experiment) and name it there.

    Both callables are given a client and an experiment id: `find` returns a run of this folder that an interrupted
    start left, or None; `make` creates one.

    Returns:
        The run, and whether it existed before. An existing run continues even if its store does not answer; if
        the store answers that the run is gone, a new one is created and everything is logged again.

    Raises:
        UserError: The store of a new run cannot be reached, or the experiment was deleted.
    """
    if outbox.run is not None and outbox.run.uri == uri and not _is_deleted(outbox.run):
        return outbox.run, True

    def opened() -> RunRef:
        init_sqlite_store(uri)
        client = make_client(uri)
        experiment_number = get_or_create_experiment(client, uri, experiment)
        run_id = find(client, experiment_number) if outbox.created_in == uri else None
        if run_id is None:
            outbox.append("begin", uri=uri)
            run_id = make(client, experiment_number)
        outbox.append("run", uri=uri, run_id=run_id, experiment_id=experiment_number)
        return RunRef(uri, run_id, experiment_number)

    try:
        return _retry_while_locked(opened), False
    except (MlflowException, OSError) as error:
        raise UserError(
            f"tracking.uri: expected a tracking store, received {uri}: {first_line(error)} "
            "(tracking=off trains without it)."
        ) from error


def _is_deleted(run: RunRef) -> bool:
    """Return True if the store answers that there is no such run, or that it was deleted."""
    try:
        init_sqlite_store(run.uri)
        found = make_client(run.uri).get_run(run.run_id)
    except MlflowException as error:
        return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
    except OSError:
        return False
    return bool(found.info.lifecycle_stage != "active")


def _retry_while_locked(action: Callable[[], T]) -> T:
    """Retry while another process writes to the database: SQLite may refuse at once, whatever its timeout."""
    end = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            return action()
        except MlflowException as error:
            if "database is locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.2)


def search_all_runs(client: mlflow.MlflowClient, experiment_ids: Sequence[str], condition: str = "") -> Iterator[Run]:
    """Yield all runs that were not deleted, page by page; the condition is MLflow's filter string."""
    token: str | None = None
    while True:
        page = client.search_runs(list(experiment_ids), condition, ViewType.ACTIVE_ONLY, 1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def search_sweep_runs(client: mlflow.MlflowClient, experiment_id: str, sweep_id: str, condition: str) -> Iterator[Run]:
    """Yield the runs of a sweep that match a condition and were not deleted."""
    return search_all_runs(client, [experiment_id], f"tags.sweep_id = {quote_filter_value(sweep_id)} and {condition}")


def quote_filter_value(text: str) -> str:
    """Return a text as it is written in MLflow's filter strings."""
    return f'"{text}"' if "'" in text else f"'{text}'"
