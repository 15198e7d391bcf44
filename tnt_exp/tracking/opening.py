"""Find the MLflow run that a folder tells of, or make it."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

import mlflow
from mlflow.exceptions import MlflowException

from tnt_exp.config import InputError
from tnt_exp.tracking.creation import make_store
from tnt_exp.tracking.experiments import experiment_id
from tnt_exp.tracking.spool import Run, Spool

T = TypeVar("T")

_LOCKED = 60.0  # seconds to wait for a database that others write to, before a run begins

# A try is short: who tells MLflow of something tries again, and never where a step would wait for it.
_CLIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # at once: a server closes connections that are idle for some seconds
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def client_of(uri: str) -> mlflow.MlflowClient:
    """A client of a store, whose requests end soon."""
    for name, value in _CLIENT.items():
        os.environ.setdefault(name, value)
    mlflow.set_tracking_uri(uri)  # proxied artifacts ask for it
    return mlflow.MlflowClient(uri)


def open_run(
    spool: Spool,
    uri: str,
    experiment: str,
    find: Callable[[mlflow.MlflowClient, str], str | None],
    make: Callable[[mlflow.MlflowClient, str], str],
) -> tuple[Run, bool]:
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
        InputError: The store of a new run cannot be reached, or the experiment was deleted.
    """
    if spool.run is not None and spool.run.uri == uri and not _gone(spool.run):
        return spool.run, True

    def opened() -> Run:
        make_store(uri)
        client = client_of(uri)
        experiment_number = experiment_id(client, uri, experiment)
        run_id = find(client, experiment_number) if spool.begun == uri else None
        if run_id is None:
            spool.append("begin", uri=uri)
            run_id = make(client, experiment_number)
        spool.append("run", uri=uri, run_id=run_id, experiment_id=experiment_number)
        return Run(uri, run_id, experiment_number)

    try:
        return _patiently(opened), False
    except (MlflowException, OSError) as error:
        raise InputError(
            f"tracking.uri: expected a tracking store, received {uri}: {str(error).splitlines()[0]} "
            "(tracking=off does without)."
        ) from error


def _gone(run: Run) -> bool:
    """Whether the store says that there is no such run, or that it was deleted."""
    try:
        make_store(run.uri)
        found = client_of(run.uri).get_run(run.run_id)
    except MlflowException as error:
        return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
    except OSError:
        return False
    return bool(found.info.lifecycle_stage != "active")


def _patiently(action: Callable[[], T]) -> T:
    """Again and again while another process writes to the database: SQLite refuses at once where waiting is no use."""
    end = time.monotonic() + _LOCKED
    while True:
        try:
            return action()
        except MlflowException as error:
            if "database is locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.2)
