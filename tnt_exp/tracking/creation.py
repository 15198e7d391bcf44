"""A new SQLite store is whole or absent.

MLflow makes its tables in many steps; a process that is killed between two of them leaves a file that no later MLflow
can open ("table _alembic_tmp_runs already exists").
"""

import fcntl
import logging
from pathlib import Path

import mlflow

_SQLITE = "sqlite:///"
logging.getLogger("mlflow.store").setLevel(logging.WARNING)  # it tells of every table it makes


def make_store(uri: str) -> None:
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
