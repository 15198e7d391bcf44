"""Projects that were moved or renamed as a whole.

MLflow stores absolute addresses of artifacts, so a SQLite store that moved still points to the old folder. If that
folder is gone and the artifacts lie beside the store, the addresses are corrected in the database.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tnt_exp.tracking.client import ARTIFACTS_FOLDER, sqlite_file

# Columns of MLflow 3.17 that hold an absolute address.
_COLUMNS = (
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
    here = (file.parent / ARTIFACTS_FOLDER).as_uri()
    with closing(_open(file)) as database:
        roots = {_root(address) for address in _addresses(database)}
    return sorted(root for root in roots if root is not None and root != here and not _folder_of(root).exists())


def correct_addresses(uri: str) -> None:
    """Let a SQLite store that was moved point to the artifacts beside it."""
    file = sqlite_file(uri)
    if file is None:
        return
    here = (file.parent / ARTIFACTS_FOLDER).as_uri()
    for old in moved_from(uri):
        with closing(_open(file)) as database, database:
            for table, column in _existing_columns(database):
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (here, len(old) + 1, len(old), old),
                )


def relocated_folder(folder: Path, base: Path) -> Path:
    """Return where a folder below `multirun/` is now, if the project moved to `base`."""
    if folder.exists() or "multirun" not in folder.parts:
        return folder
    index = len(folder.parts) - 1 - folder.parts[::-1].index("multirun")
    moved = base.joinpath(*folder.parts[index:])
    return moved if moved.exists() else folder


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=60)


def _existing_columns(database: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    for table, column in _COLUMNS:
        if column in {row[1] for row in database.execute(f"PRAGMA table_info({table})")}:
            yield table, column


def _addresses(database: sqlite3.Connection) -> Iterator[str]:
    for table, column in _existing_columns(database):
        for (address,) in database.execute(f"SELECT DISTINCT {column} FROM {table}"):
            if address:
                yield str(address)


def _root(address: str) -> str | None:
    """Return the part of an address up to our artifact folder; None for other addresses."""
    marker = f"/{ARTIFACTS_FOLDER}"
    head, found, rest = address.partition(marker)
    return head + marker if found and address.startswith("file://") and rest[:1] in ("", "/") else None


def _folder_of(root: str) -> Path:
    return Path(unquote(urlsplit(root).path))
