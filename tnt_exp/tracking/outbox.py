"""The messages of a run to MLflow, on disk before they are sent: one JSON line per message, in order.

The file only grows. A last line that was cut by a kill or a full disk is skipped, and removed before the next one.
"""

import errno
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from tnt_exp.atomic_files import JsonObject

log = logging.getLogger("tnt_exp")

FOLDER = "mlflow"  # in the run folder
MESSAGES = "messages.jsonl"
_INTERNAL_KINDS = ("begin", "run")  # lines that name the MLflow run; they are not sent


class Entry(NamedTuple):
    """A message and its position in the file, in bytes."""

    start: int
    end: int
    message: JsonObject


class RunRef(NamedTuple):
    """The MLflow run that the messages are for."""

    uri: str
    run_id: str
    experiment_id: str


@dataclass
class DeliveryCursor:
    """How far the messages were delivered."""

    run_id: str
    offset: int = 0  # bytes of the file that were sent, or deferred
    behind: list[int] = field(default_factory=list)  # positions of the deferred messages
    refused: int = 0  # how many messages the store has refused for good


class Outbox:
    """The messages of one run.

    Attributes:
        folder: The run folder.
        directory: The folder of everything that is still to be delivered.
        run: The MLflow run; None: there is none yet.
        created_in: The store in which a run may have been created that no message names; None: there is none.
        last_steps: The last step of each metric.
        status: The last status message; None: there is none.
        enqueued_ids: Ids of messages that are enqueued once only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / FOLDER
        self._file = self.directory / MESSAGES
        self._cursor_file = self.directory / "delivered.json"
        self._writing = threading.Lock()
        self._checked = False
        self.run: RunRef | None = None
        self.created_in: str | None = None
        self.last_steps: dict[str, int] = {}
        self.status: str | None = None
        self.enqueued_ids: set[str] = set()
        for entry in self.read():
            self._index(entry.message)

    def append(self, kind: str, **content: object) -> None:
        """Append a message; when this returns, the kernel has it.

        Raises:
            OSError: It cannot be written; the file is as it was.
        """
        message = {"kind": kind, **content}
        line = json.dumps(message).encode() + b"\n"
        with self._writing:
            self._truncate_partial_line()
            before = self.size()
            try:
                with self._file.open("ab", buffering=0) as stream:
                    if stream.write(line) != len(line):
                        raise OSError(errno.ENOSPC, "No space left on device", str(self._file))
            except OSError:
                os.truncate(self._file, before)
                raise
            self._index(message)

    def read(self, start: int = 0) -> Iterator[Entry]:
        """Yield the complete lines from a position on."""
        if not self._file.exists():
            return
        with self._file.open("rb") as stream:
            stream.seek(start)
            for line in stream:
                end = start + len(line)
                if not line.endswith(b"\n"):
                    return
                message = _parse_line(line)
                if message is None:
                    log.warning("%s: skipped a damaged line at byte %d", self._file, start)
                else:
                    yield Entry(start, end, message)
                start = end

    def pending(self, cursor: DeliveryCursor) -> Iterator[Entry]:
        """Yield the messages that were neither sent nor deferred."""
        return (entry for entry in self.read(cursor.offset) if entry.message["kind"] not in _INTERNAL_KINDS)

    def pending_count(self) -> int:
        """Return the number of messages that MLflow does not have."""
        cursor = self.read_cursor()
        return sum(1 for _ in self.pending(cursor)) + len(cursor.behind)

    def read_cursor(self) -> DeliveryCursor:
        """Return how far the messages were delivered; zero if that is unknown: sending twice does no harm."""
        new = DeliveryCursor(self.run.run_id if self.run else "")
        try:
            cursor = DeliveryCursor(**json.loads(self._cursor_file.read_text()))
        except (OSError, ValueError, TypeError):
            return new
        return cursor if cursor.run_id == new.run_id and self._is_boundary(cursor.offset) else new

    def write_cursor(self, cursor: DeliveryCursor) -> None:
        """Save how far the messages were delivered."""
        beside = self._cursor_file.with_name(f".{self._cursor_file.name}")  # not flushed: an older cursor does no harm
        beside.write_text(json.dumps(asdict(cursor)))
        beside.replace(self._cursor_file)

    def size(self) -> int:
        """Return the size of the file in bytes."""
        return self._file.stat().st_size if self._file.exists() else 0

    def fsync(self) -> None:
        """Flush the file to the disk."""
        with self._file.open("rb") as stream:
            os.fsync(stream.fileno())

    def _is_boundary(self, offset: int) -> bool:
        if offset == 0:
            return True
        if offset > self.size():
            return False
        with self._file.open("rb") as stream:
            stream.seek(offset - 1)
            return stream.read(1) == b"\n"

    def _truncate_partial_line(self) -> None:
        """Before the first line of this process: remove what a kill left of the last one."""
        if self._checked:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._file.touch()
        content = self._file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._file, whole)
        self._checked = True

    def _index(self, message: JsonObject) -> None:
        if message["kind"] == "begin":
            self.created_in = message["uri"]
        elif message["kind"] == "run":
            self.run, self.created_in = RunRef(message["uri"], message["run_id"], message["experiment_id"]), None
        elif message["kind"] == "metrics":
            for key in message["values"]:
                self.last_steps[key] = max(message["step"], self.last_steps.get(key, message["step"]))
        elif message["kind"] == "status":
            self.status = message["status"]
        if "id" in message:
            self.enqueued_ids.add(message["id"])


def artifact_messages(folder: Path, names: Iterable[str]) -> Iterator[JsonObject]:
    """Yield the messages that log those files and folders of the run folder that exist."""
    for name in names:
        if (folder / name).exists():
            yield {"kind": "artifact", "path": name, "to": name if (folder / name).is_dir() else None}


def _parse_line(line: bytes) -> JsonObject | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "kind" in message else None
