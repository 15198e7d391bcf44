"""Where the tracking store is, and how to look at it."""

# MERGED DOCS:
# """A new SQLite store is whole or absent.
#
# MLflow makes its tables in many steps; a process that is killed between two of them leaves a file that no later MLflow
# can open ("table _alembic_tmp_runs already exists").
# """
# """MLflow experiments: found by name, made when new."""
# """Find the MLflow run that a folder tells of, or make it."""

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from tnt_exp.errors import UserError
from tnt_exp.tracking.outbox import Outbox, RunRef

_SQLITE = "sqlite:///"


def resolve_tracking_uri(uri: str | None) -> str:
    """The configured store, or SQLite in the working folder, absolute so that nothing else can change it.

    MLflow's own default is the same file, but it turns to ./mlruns where that holds an old file store.
    """
    if uri is None:
        return f"{_SQLITE}{Path.cwd() / 'mlflow.db'}"
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).expanduser().resolve()}"
    return uri


def artifact_location(uri: str) -> str | None:
    """Where a new experiment's artifacts go: beside a SQLite file; a server decides for itself."""
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).parent / "mlartifacts").as_uri()


def ui_command(uri: str) -> str:
    """What to type, or to open, to see the runs."""
    if uri.startswith(("http://", "https://")):
        return f"open {uri}"
    if uri == resolve_tracking_uri(None):
        return "tnt-exp ui"
    return f"tnt-exp ui --uri {uri}"


logging.getLogger("mlflow.store").setLevel(logging.WARNING)  # it tells of every table it makes


def init_sqlite_store(uri: str) -> None:
    """Make the store's file where it is new: beside its place, then renamed; by one process at a time.

    Args:
        uri: Tracking store, absolute; a server is left to itself.
    """
    if not uri.startswith(_SQLITE):
        return
    file = Path(uri.removeprefix(_SQLITE))
    if file.exists() or not file.parent.is_dir():
        return
    with file.with_name(f"{file.name}.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if file.exists():  # another process was first
            return
        part = file.with_name(f"{file.name}.part")
        for left in part.parent.glob(f"{part.name}*"):
            left.unlink()
        mlflow.MlflowClient(f"{_SQLITE}{part}").search_experiments()
        part.replace(file)


def get_or_create_experiment(client: mlflow.MlflowClient, uri: str, name: str) -> str:
    """The id of an experiment; it is created when new, by whichever process comes first.

    Args:
        client: Of the store.
        uri: The store.
        name: The experiment's name.

    Raises:
        UserError: It was deleted.
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
    """A store that was told of a folder; where a project was moved as a whole, sqlite above the folder is meant.

    Args:
        uri: Where it was.
        folder: A run folder, or that of a sweep.

    Returns:
        Where it is; None: it is gone.
    """
    if store_exists(uri):
        return uri
    return next(
        (f"{_SQLITE}{above / 'mlflow.db'}" for above in folder.parents if (above / "mlflow.db").is_file()), None
    )


def store_exists(uri: str) -> bool:
    """MLflow would make a new database where it is asked for one that is not there."""
    return not uri.startswith(_SQLITE) or Path(uri.removeprefix(_SQLITE)).is_file()


T = TypeVar("T")

_LOCK_TIMEOUT = 60.0  # seconds to wait for a database that others write to, before a run begins

# A try is short: who tells MLflow of something tries again, and never where a step would wait for it.
_CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # at once: a server closes connections that are idle for some seconds
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def make_client(uri: str) -> mlflow.MlflowClient:
    """A client of a store, whose requests end soon."""
    for name, value in _CLIENT.items():
        os.environ.setdefault(name, value)
    mlflow.set_tracking_uri(uri)  # proxied artifacts ask for it
    return mlflow.MlflowClient(uri)


def resume_or_create_run(
    spool: Outbox,
    uri: str,
    experiment: str,
    find: Callable[[mlflow.MlflowClient, str], str | None],
    make: Callable[[mlflow.MlflowClient, str], str],
) -> tuple[RunRef, bool]:
    """Let the spool say which MLflow run is told.

    Args:
        spool: Of the folder.
        uri: Tracking store.
        experiment: Name; created when new.
        find: Of a client and an experiment's id, a run of this folder that an interrupted start left; None: none.
        make: Of a client and an experiment's id, a new run.

    Returns:
        The run, and whether it was there before. One that was goes on without its store where that does not answer;
        where the store says that the run is gone, a new one is made and told everything.

    Raises:
        UserError: The store of a new run cannot be reached, or the experiment was deleted.
    """
    if spool.run is not None and spool.run.uri == uri and not _is_deleted(spool.run):
        return spool.run, True

    def opened() -> RunRef:
        init_sqlite_store(uri)
        client = make_client(uri)
        experiment_number = get_or_create_experiment(client, uri, experiment)
        run_id = find(client, experiment_number) if spool.begun == uri else None
        if run_id is None:
            spool.append("begin", uri=uri)
            run_id = make(client, experiment_number)
        spool.append("run", uri=uri, run_id=run_id, experiment_id=experiment_number)
        return RunRef(uri, run_id, experiment_number)

    try:
        return _retry_while_locked(opened), False
    except (MlflowException, OSError) as error:
        raise UserError(
            f"tracking.uri: expected a tracking store, received {uri}: {str(error).splitlines()[0]} "
            "(tracking=off does without)."
        ) from error


def _is_deleted(run: RunRef) -> bool:
    """Whether the store says that there is no such run, or that it was deleted."""
    try:
        init_sqlite_store(run.uri)
        found = make_client(run.uri).get_run(run.run_id)
    except MlflowException as error:
        return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
    except OSError:
        return False
    return bool(found.info.lifecycle_stage != "active")


def _retry_while_locked(action: Callable[[], T]) -> T:
    """Again and again while another process writes to the database: SQLite refuses at once where waiting is no use."""
    end = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            return action()
        except MlflowException as error:
            if "database is locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.2)
