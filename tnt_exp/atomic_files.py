"""Files that are either complete or absent, and locks that end with their owner."""

import contextlib
import fcntl
import functools
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tnt_exp.errors import UserError

log = logging.getLogger("tnt_exp")

_PART = ".part."  # a prefix, so that the temporary file keeps its suffix


JsonObject = dict[str, Any]  # an object of JSON, whose values have many types


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside a file or folder; at the end it is flushed to the disk and renamed into place.

    A file is replaced in one step, a folder is removed first. If the block fails, the target is as it was and nothing
    is left beside it: on a full disk its space is needed.
    """
    part = target.with_name(f"{_PART}{target.name}")
    remove_path(part)
    try:
        with name_file_in_errors(target):
            yield part
        for file in sorted(part.rglob("*")):
            _flush(file)
        _flush(part)
        if part.is_dir() and target.exists():
            shutil.rmtree(target)
        part.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_path(part)
        raise
    _flush(target.parent)


@contextmanager
def name_file_in_errors(file: Path) -> Iterator[None]:
    """Add the name of the file to errors of the operating system: a write to a full disk does not name it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(file)
        raise


def atomic_write(target: Path, data: bytes | str) -> None:
    """Write a file so that it is either complete or as it was before."""
    with atomic_path(target) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


def atomic_write_json(target: Path, value: Any) -> None:
    """`atomic_write` of JSON."""
    atomic_write(target, json.dumps(value, indent=2) + "\n")


def read_json(file: Path, *, skip: bool = False, kind: type = dict) -> Any:
    """Return the object, or the list if that is the `kind`; None if there is no file.

    A damaged file, or one of another kind, raises `UserError`, or with `skip` counts as none.
    """
    try:
        value = json.loads(file.read_text())
        if not isinstance(value, kind):
            raise ValueError(f"{type(value).__name__} instead of {kind.__name__}")
        return value
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        line = f"{file}: expected JSON, received a damaged file ({error}). Restore it from a copy, or move it away."
        if not skip:
            raise UserError(line) from error
        warn_once(line)
        return None


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning that this process has not logged yet: some files are read again and again."""
    log.warning(message)


def partial_files(folder: Path) -> list[Path]:
    """Return what killed writers have left in a folder and below."""
    return sorted(folder.rglob(f"{_PART}*"))


def is_here(path: Path) -> bool:
    """Return whether there is such a file or folder; False for what lies in a folder that this user may not enter."""
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises PermissionError for that)


def is_gone(path: Path) -> bool:
    """Return whether there is no such file or folder; False for what this user cannot know of."""
    with contextlib.suppress(PermissionError):
        return not path.exists()
    return False


def remove_path(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def acquire_lock(file: Path, wait: float = 0.0) -> IO[str] | None:
    """Take a lock that the kernel releases when the process ends, in whatever way.

    The lock is held while the returned stream is open; None: another process still has it after `wait` seconds, or a
    tenth of one: `is_unlocked` has it for an instant. The file stays, and names its owner until `release_lock`.
    """
    stream = file.open("a+")
    end = time.monotonic() + max(wait, 0.1)
    while not _try_lock(stream, fcntl.LOCK_EX):
        if time.monotonic() >= end:
            stream.close()
            return None
        time.sleep(0.05)
    _write_owner(stream, f"process {os.getpid()} on {platform.node()}")
    return stream


def is_unlocked(file: Path) -> bool:
    """Return True if no process holds the lock."""
    if not file.exists():
        return True
    with file.open() as stream:
        return _try_lock(stream, fcntl.LOCK_SH)  # several processes may look at once


def release_lock(held: IO[str]) -> None:
    """Release a lock, and remove the owner from its file."""
    _write_owner(held, "")
    with contextlib.suppress(OSError):  # what could not be written to a full disk is tried again
        held.close()


def lock_owner(file: Path) -> str:
    """Return the owner that a lock file names, alive or dead; empty if it was released or never taken."""
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _try_lock(stream: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_owner(stream: IO[str], name: str) -> None:
    with contextlib.suppress(OSError):  # the lock is held even if the disk is full
        stream.truncate(0)
        stream.write(name)
        stream.flush()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
