"""Files that are whole or absent, and locks that die with their owner."""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_PART = ".part."  # before the name, so that what is written keeps its suffix


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A name beside a file or folder to write the new one to: flushed to the disk and renamed into place at the end.

    Where the block fails the target is as it was, and nothing is left beside it: on a full disk its room is wanted.

    Args:
        target: What is made or replaced; a file is replaced in one step, a folder is removed first.
    """
    part = target.with_name(f"{_PART}{target.name}")
    _remove(part)
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
            _remove(part)
        raise
    _flush(target.parent)


@contextmanager
def name_file_in_errors(file: Path) -> Iterator[None]:
    """An error of the operating system in the block names the file: a write to a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(file)
        raise


def atomic_write(target: Path, data: bytes | str) -> None:
    """Write a file that is whole or as it was before."""
    with atomic_path(target) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


def atomic_write_json(target: Path, value: Any) -> None:
    """`write`, of JSON."""
    atomic_write(target, json.dumps(value, indent=2) + "\n")


def read_json(file: Path) -> Any:
    """The value, or None where there is no such file."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None


def partial_files(folder: Path) -> list[Path]:
    """What writers that were killed have left in a folder and below."""
    return sorted(folder.rglob(f"{_PART}*"))


def remove_paths(paths: Iterable[Path]) -> None:
    """Remove files and folders, those that are there."""
    for path in paths:
        _remove(path)


def acquire_lock(file: Path, wait: float = 0.0) -> IO[str] | None:
    """Take a lock that the kernel drops when the process ends, however it ends.

    Args:
        file: The lock's file; it stays, and names its owner until `release`.
        wait: Seconds to wait for another owner.

    Returns:
        The lock, held while the stream is open; None where another process has it.
    """
    stream = file.open("a+")
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                stream.close()
                return None
            time.sleep(0.05)
        else:
            _sign(stream, f"process {os.getpid()} on {platform.node()}")
            return stream


def is_unlocked(file: Path) -> bool:
    """Whether nobody has the lock."""
    if not file.exists():
        return True
    with file.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def release_lock(held: IO[str]) -> None:
    """Let go of a lock: its file names nobody."""
    _sign(held, "")
    held.close()


def lock_owner(file: Path) -> str:
    """Who a lock's file names: its owner, or one that died with it; empty where it was let go, or never was."""
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def _sign(stream: IO[str], name: str) -> None:
    with contextlib.suppress(OSError):  # the lock holds on a full disk, too
        stream.truncate(0)
        stream.write(name)
        stream.flush()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
