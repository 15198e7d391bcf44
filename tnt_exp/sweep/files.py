"""Files that are whole or absent, and locks that die with their owner."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO, Any


def write_json(file: Path, value: Any) -> None:
    """Write beside, flush to the disk, rename into place."""
    beside = file.with_name(f".{file.name}.part")
    with beside.open("w") as stream:
        json.dump(value, stream, indent=1)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def read_json(file: Path) -> Any:
    """The value, or None where there is no such file."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None


def lock(file: Path, wait: float = 0.0) -> IO[str] | None:
    """Take a lock that the kernel drops when the process ends, however it ends.

    Args:
        file: The lock's file; it stays.
        wait: Seconds to wait for another owner.

    Returns:
        The lock, held while the stream is open; None where another process has it.
    """
    stream = file.open("a+")
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return stream
        except BlockingIOError:
            if time.monotonic() >= end:
                stream.close()
                return None
            time.sleep(0.05)
