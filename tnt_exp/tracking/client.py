"""Access to the tracking store: its address, its client, its experiments and runs."""

import fcntl
import itertools
import logging
import os
import re
import shlex
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mlflow
import sqlalchemy
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from tnt_exp.atomic_files import is_gone, is_here
from tnt_exp.credentials import without_password
from tnt_exp.errors import UserError, first_line
from tnt_exp.tracking.pages import configure_experiment, runs_table_url

log = logging.getLogger("tnt_exp")

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
    path = str(file.expanduser().resolve()) if file else ""
    if re.search(r"\?|%[0-9a-fA-F]{2}", path):  # SQLAlchemy would open another file
        raise UserError(f"tracking.uri: expected a path without ? and %XX, received {path}. Choose another file.")
    return f"{SQLITE_PREFIX}{path}" if file else uri


def ui_command(uri: str, experiment_id: str) -> str:
    """Return the command to type, or the address to open, to see the runs of an experiment."""
    if uri.startswith(("http://", "https://")):
        return runs_table_url(uri, experiment_id)
    if uri == resolve_tracking_uri(None):
        return "tnt-exp ui"
    return f"tnt-exp ui --uri {shlex.quote(uri)}"


logging.getLogger("mlflow.store").setLevel(logging.WARNING)  # it logs every table that it creates
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback for each failed attempt


class StoreUnavailableError(UserError):
    """A tracking store that cannot be opened."""


def _require_openable(uri: str) -> None:
    """Raise `StoreUnavailableError` if a database cannot be opened: MLflow would retry for minutes."""
    if uri.startswith(("http://", "https://")):
        return
    try:
        sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect().close()
    except Exception as error:  # each driver has errors of its own
        raise StoreUnavailableError(f"{uri}: expected a tracking store, received: {first_line(error)}") from error


def init_sqlite_store(uri: str) -> None:
    """Create the SQLite file of a store if it is new: under a temporary name, then renamed, by one process at a time.

    MLflow creates its tables in many steps; a process killed between two of them leaves a file that no later MLflow
    can open ("table _alembic_tmp_runs already exists"). Raises `StoreUnavailableError` if it cannot be created.
    """
    file = sqlite_file(uri)
    if file is None or store_exists(uri) or not file.parent.is_dir():
        return
    with file.with_name(f"{file.name}.lock").open("a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if store_exists(uri):  # another process was first
            return
        part = file.with_name(f"{file.name}.part")
        for left in part.parent.glob(f"{part.name}*"):
            left.unlink()
        _require_openable(f"{SQLITE_PREFIX}{part}")
        try:
            mlflow.MlflowClient(f"{SQLITE_PREFIX}{part}").search_experiments()
        except Exception as error:  # those of SQLAlchemy and of Alembic are not MLflow's
            part.unlink(missing_ok=True)  # on a full disk
            raise StoreUnavailableError(f"{uri}: expected a tracking store, received: {first_line(error)}") from error
        part.replace(file)


def get_or_create_experiment(client: mlflow.MlflowClient, name: str) -> str:
    """Return the id of an experiment, created by the process that comes first; raise `UserError` if it was deleted."""
    found, file = client.get_experiment_by_name(name), sqlite_file(client.tracking_uri)
    if found is None:
        try:
            # None: a server decides where artifacts go.
            return str(client.create_experiment(name, (file.parent / ARTIFACTS_FOLDER).as_uri() if file else None))
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

    If a project was moved as a whole, it is the SQLite file of that name above the folder.
    """
    file = sqlite_file(uri)
    if file is None or store_exists(uri):
        return uri
    files = (above / file.name for above in folder.parents)
    return next((f"{SQLITE_PREFIX}{file}" for file in files if file.is_file()), None)


# Columns of MLflow 3.17 that hold an absolute address of artifacts. When a project is moved or renamed as a whole, they
# point to the old folder; if that is gone and the artifacts lie beside the store, they are corrected in the database.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def moved_from(uri: str) -> list[str]:
    """Return the old addresses of the artifact folder of a SQLite store that was moved; empty if it was not."""
    file = sqlite_file(uri)
    if file is None or not file.is_file() or not (file.parent / ARTIFACTS_FOLDER).is_dir():
        return []
    with closing(sqlite3.connect(file, timeout=60)) as database:
        columns = _existing_columns(database)
        found = [row for table, name in columns for row in database.execute(f"SELECT DISTINCT {name} FROM {table}")]
    roots = {_root(str(address)) for (address,) in found if address}
    return sorted(root for root in roots if root is not None and is_gone(Path(unquote(urlsplit(root).path))))


def correct_addresses(uri: str) -> None:
    """Let a SQLite store that was moved point to the artifacts beside it."""
    if (file := sqlite_file(uri)) is None:
        return
    for old in moved_from(uri):
        log.info("the project was moved: MLflow finds its artifacts beside %s again", uri)
        with closing(sqlite3.connect(file, timeout=60)) as database, database:
            for table, column in _existing_columns(database):
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    ((file.parent / ARTIFACTS_FOLDER).as_uri(), len(old) + 1, len(old), old),
                )


def _existing_columns(database: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    for table, column in _ADDRESSES:
        if column in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}:
            yield table, column


def _root(address: str) -> str | None:
    """Return the part of an address up to our artifact folder; None for other addresses."""
    found = re.match(rf"(file://.*?/{ARTIFACTS_FOLDER})(/|$)", address)
    return found[1] if found else None


def store_exists(uri: str) -> bool:
    """Return False for a SQLite file that does not exist or is empty: MLflow would create its tables there."""
    file = sqlite_file(uri)
    return file is None or (is_here(file) and (file.is_dir() or file.stat().st_size > 0))


_LOCK_TIMEOUT = 60.0  # seconds to wait for a database that others write to, before a run begins

# Attempts are short: the mirror retries, and no training step waits for it.
_CLIENT_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # at once: a server closes connections that are idle for some seconds
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # a connection that is kept writes to a database that was deleted
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def make_client(uri: str, *, as_found: bool = False) -> mlflow.MlflowClient:
    """Return a client with short time limits, of a store corrected if it moved, or raise `StoreUnavailableError`."""
    for name, value in _CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it prints each attempt; the tracker prints a line
    if not store_exists(uri):
        raise StoreUnavailableError(f"{uri}: expected a tracking store, found none.")
    _require_openable(uri)
    with suppress(sqlite3.Error):  # it is damaged, which MLflow reports, or read-only
        if not as_found:
            correct_addresses(uri)
    mlflow.set_tracking_uri(uri)  # proxied artifacts need it
    try:
        return mlflow.MlflowClient(uri)
    except MlflowException as error:
        kind = StoreUnavailableError if "database schema" in str(error) else MlflowException  # of an older MLflow
        raise kind(f"{uri}: expected a tracking store, received: {first_line(error)}") from error


@contextmanager
def keeping_settings() -> Iterator[None]:
    """Restore what `make_client` sets: a script that looks at another store still logs to its own."""
    added = [name for name in _CLIENT_ENVIRONMENT if name not in os.environ]
    uri = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    try:
        yield
    finally:
        mlflow.set_tracking_uri(uri)
        for name in added:
            os.environ.pop(name, None)


def retry_while_locked(action: Callable[[], None]) -> None:
    """Retry while another process writes to the database: SQLite may refuse at once, whatever its timeout."""
    begin = time.monotonic()
    for attempt in itertools.count():
        try:
            return action()
        except MlflowException as error:
            if "database is locked" not in str(error) or time.monotonic() > begin + _LOCK_TIMEOUT:
                raise
            if attempt == 0:
                log.warning("another process has locked the tracking store: waiting at most %.0f s", _LOCK_TIMEOUT)
            time.sleep(0.2)


def newest_runs_url(uri: str, address: str) -> str:
    """Return the address of the table with the newest run, for a server of this store; without any, of experiments."""
    with suppress(MlflowException):  # the server reports what is wrong with the store
        if store_exists(uri):
            client = make_client(uri)
            ids = [experiment.experiment_id for experiment in client.search_experiments()]
            for run in client.search_runs(ids, max_results=1, order_by=["attributes.start_time DESC"]):
                configure_experiment(client, run.info.experiment_id)
                return runs_table_url(address, run.info.experiment_id)
    return f"{address}/#/experiments?workflowType=machine_learning"  # MLflow's front page shows language models


def search_all_runs(
    client: mlflow.MlflowClient, experiment_ids: Sequence[str], condition: str = "", view: str = ViewType.ACTIVE_ONLY
) -> Iterator[Run]:
    """Yield all runs (those that were not deleted), page by page; the condition is MLflow's filter string."""
    token: str | None = None
    while True:
        page = client.search_runs(list(experiment_ids), condition, view, 1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def is_permanent_error(error: Exception) -> bool:
    """Return True if sending again is useless: the store refuses the content, or the file to send is gone."""
    codes = ("INVALID_", "MALFORMED_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST")
    refused = isinstance(error, MlflowException) and str(error.error_code).startswith(codes)
    return refused or isinstance(error, FileNotFoundError)


def quote_filter_value(text: str) -> str:
    """Return a text as it is written in MLflow's filter strings."""
    return f'"{text}"' if "'" in text else f"'{text}'"
