"""What a run has to say to MLflow, on disk before it is sent: one JSON line a message, in the order it was said.

The file only grows. A last line that a kill or a full disk has cut is passed over, and cut off before the next one.
"""

import errno
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger("tnt_exp")

FOLDER = "mlflow"  # in the run folder

MESSAGES = "messages.jsonl"

_ABOUT = ("begin", "run")  # lines that say which MLflow run is told; they are not sent


class Entry(NamedTuple):
    """A message and where it stands in the file, in bytes."""

    start: int
    end: int
    message: dict[str, Any]


class RunRef(NamedTuple):
    """Which MLflow run is told."""

    uri: str
    run_id: str
    experiment_id: str


@dataclass
class DeliveryCursor:
    """How far MLflow was told.

    Attributes:
        run_id: The MLflow run.
        offset: Bytes of the file that were sent, or put off.
        behind: Where the messages stand that were put off.
        refused: Messages that the store will never take.
    """

    run_id: str
    offset: int = 0
    behind: list[int] = field(default_factory=list)
    refused: int = 0


class Outbox:
    """The messages of one run.

    Args:
        folder: The run folder.

    Attributes:
        folder: The run folder.
        place: Where everything that MLflow is still to be told lies.
        run: Which MLflow run is told; None: none yet.
        begun: The store where a run may have been made that no line says; None: none.
        steps: Metric: the last step that was said.
        status: What was said last of how the run is; None: nothing.
        said: Ids of messages that are said once.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = folder / FOLDER
        self._file = self.place / MESSAGES
        self._mark = self.place / "delivered.json"
        self._writing = threading.Lock()
        self._mended = False
        self.run: RunRef | None = None
        self.begun: str | None = None
        self.steps: dict[str, int] = {}
        self.status: str | None = None
        self.said: set[str] = set()
        for entry in self.read():
            self._remember(entry.message)

    def append(self, kind: str, **content: Any) -> None:
        """Say something; when this returns, the kernel has it.

        Raises:
            OSError: It cannot be written; the file is as it was.
        """
        message = {"kind": kind, **content}
        line = json.dumps(message).encode() + b"\n"
        with self._writing:
            self._mend()
            before = self.size()
            try:
                with self._file.open("ab", buffering=0) as stream:
                    if stream.write(line) != len(line):
                        raise OSError(errno.ENOSPC, "No space left on device", str(self._file))
            except OSError:
                os.truncate(self._file, before)
                raise
            self._remember(message)

    def read(self, start: int = 0) -> Iterator[Entry]:
        """The whole lines from a place on."""
        if not self._file.exists():
            return
        with self._file.open("rb") as stream:
            stream.seek(start)
            for line in stream:
                end = start + len(line)
                if not line.endswith(b"\n"):
                    return
                message = _parse_lines(line)
                if message is None:
                    log.warning("%s: passed over a damaged line at byte %d", self._file, start)
                else:
                    yield Entry(start, end, message)
                start = end

    def pending(self, mark: DeliveryCursor) -> Iterator[Entry]:
        """What was neither sent nor put off."""
        return (entry for entry in self.read(mark.offset) if entry.message["kind"] not in _ABOUT)

    def waiting(self) -> int:
        """How many messages MLflow has not got."""
        mark = self.mark()
        return sum(1 for _ in self.pending(mark)) + len(mark.behind)

    def mark(self) -> DeliveryCursor:
        """How far the run was told; nothing where that is not known: telling twice does no harm."""
        new = DeliveryCursor(self.run.run_id if self.run else "")
        try:
            mark = DeliveryCursor(**json.loads(self._mark.read_text()))
        except (OSError, ValueError, TypeError):
            return new
        return mark if mark.run_id == new.run_id and self._is_boundary(mark.offset) else new

    def write_mark(self, mark: DeliveryCursor) -> None:
        """Remember how far the run was told."""
        beside = self._mark.with_name(f".{self._mark.name}")  # not flushed: an older mark does no harm
        beside.write_text(json.dumps(asdict(mark)))
        beside.replace(self._mark)

    def size(self) -> int:
        """Bytes that were said."""
        return self._file.stat().st_size if self._file.exists() else 0

    def flush(self) -> None:
        """Let the disk have it, too."""
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

    def _mend(self) -> None:
        """Before the first line of this process: cut off what a kill left of the last one."""
        if self._mended:
            return
        self.place.mkdir(parents=True, exist_ok=True)
        self._file.touch()
        content = self._file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._file, whole)
        self._mended = True

    def _remember(self, message: Mapping[str, Any]) -> None:
        if message["kind"] == "begin":
            self.begun = message["uri"]
        elif message["kind"] == "run":
            self.run, self.begun = RunRef(message["uri"], message["run_id"], message["experiment_id"]), None
        elif message["kind"] == "metrics":
            for key in message["values"]:
                self.steps[key] = max(message["step"], self.steps.get(key, message["step"]))
        elif message["kind"] == "status":
            self.status = message["status"]
        if "id" in message:
            self.said.add(message["id"])


def artifact_message(folder: Path, name: str) -> dict[str, Any]:
    """The message that logs a file or a folder of the run folder."""
    return {"kind": "artifact", "path": name, "to": name if (folder / name).is_dir() else None}


def _parse_lines(line: bytes) -> dict[str, Any] | None:
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "kind" in message else None
