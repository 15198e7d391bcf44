"""One job as one fresh process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tnt_exp.durable import read_json
from tnt_exp.sweep.ending import Cause, Ending, classify, kernel_kills, record

LOG = "output.log"
_GRACE = 30.0  # seconds from SIGTERM to SIGKILL: time to write a checkpoint
_GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """What a job may take.

    Attributes:
        seconds: None: no limit.
        gib: Resident memory with its children's; None: no limit.
    """

    seconds: float | None = None
    gib: float | None = None


class JobProcess:
    """A running job. Everything it prints goes to `output.log` in its folder.

    Args:
        folder: The run folder, with a frozen `config.yaml`.
        command: What runs it, the folder appended; None: `tnt-exp run`.
        environment: Variables on top of this process'.
        limits: What it may take.
        cwd: Where it runs.

    Attributes:
        begin: When it was started, monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.folder = folder
        self.begin = time.monotonic()
        self._limits = limits or Limits()
        self._order: Ending | None = None
        self._deadline = 0.0
        self._kernel_kills = kernel_kills()
        # What an earlier try left would be taken for this one's.
        (folder / "result.json").unlink(missing_ok=True)
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [*(command or [sys.executable, "-m", "tnt_exp", "run", "--supervised"]), str(folder)],
                stdin=subprocess.PIPE,  # the lifeline
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is the supervisor's to hear
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.begin

    def poll(self) -> Ending | None:
        """Enforce the limits; None while it runs, its ending once it is over (and written to its folder)."""
        code = self._process.poll()
        if code is None:
            self._enforce()
            return None
        self._signal(signal.SIGKILL)  # what it started and left
        if self._process.stdin:
            self._process.stdin.close()
        result = read_json(self.folder / "result.json")
        ending = classify(code, result, self._order, kernel_kills() > self._kernel_kills)
        record(self.folder, ending, self.seconds)
        return ending

    def stop(self, ending: Ending, *, at_once: bool = False) -> None:
        """Ask it to end, by SIGTERM and after a while by SIGKILL; `poll` says when it has."""
        if self._order is not None:
            return
        self._order = ending
        self._deadline = time.monotonic() + (0 if at_once else _GRACE)
        if not at_once:
            # To the job alone: its own children are its to end.
            self._process.send_signal(signal.SIGTERM)

    def _enforce(self) -> None:
        if self._order is not None:
            if time.monotonic() >= self._deadline:
                self._signal(signal.SIGKILL)
            return
        limits = self._limits
        if limits.seconds is not None and self.seconds > limits.seconds:
            self.stop(Ending(Cause.timeout, f"took longer than launcher.timeout={limits.seconds:g} seconds"))
        elif limits.gib is not None and (taken := _resident(self.pid)) > limits.gib * _GIB:
            error = f"took {taken / _GIB:.2f} GiB of memory, launcher.memory={limits.gib:g} GiB"
            self.stop(Ending(Cause.memory, error), at_once=True)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # the group is gone
            return


def _resident(pid: int) -> int:
    """Bytes of memory of a process and its descendants."""
    total = 0
    try:
        leader = psutil.Process(pid)
        family = [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total
