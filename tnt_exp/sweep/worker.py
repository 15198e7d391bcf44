"""A job dies with the process that started it, however that one ended."""

# MERGED DOCS:
# """One job as one fresh process."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tnt_exp.atomic_files import read_json
from tnt_exp.sweep.outcome import FailureReason, Outcome, from_exit_code, oom_kill_count, write_outcome

_PR_SET_PDEATHSIG = 1


def exit_with_parent() -> None:
    """End this process and its children when the supervisor is gone.

    Two ways, since each has a gap. Linux kills this process when the thread that started it ends, at once, but not
    its children. And the other end of standard input is held by the supervisor alone: the kernel closes it when that
    one ends, and a thread here then ends the whole process group (a job leads one of its own). That thread has to
    wait while native code keeps Python's lock, seconds where TensorFlow is imported or traced.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A supervisor that was gone before this line has closed the pipe: the thread sees it.
    threading.Thread(target=_watch_parent, name="lifeline", daemon=True).start()


def _watch_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


LOG = "output.log"

_GRACE = 30.0  # seconds from SIGTERM to SIGKILL: time to write a checkpoint

_GIB = 2**30


@dataclass(frozen=True)
class ResourceLimits:
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
        limits: ResourceLimits | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.folder = folder
        self.begin = time.monotonic()
        self._limits = limits or ResourceLimits()
        self._order: Outcome | None = None
        self._deadline = 0.0
        self._kernel_kills = oom_kill_count()
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

    def poll(self) -> Outcome | None:
        """Enforce the limits; None while it runs, its ending once it is over (and written to its folder)."""
        code = self._process.poll()
        if code is None:
            self._enforce()
            return None
        self._signal(signal.SIGKILL)  # what it started and left
        if self._process.stdin:
            self._process.stdin.close()
        result = read_json(self.folder / "result.json")
        ending = from_exit_code(code, result, self._order, oom_kill_count() > self._kernel_kills)
        write_outcome(self.folder, ending, self.seconds)
        return ending

    def stop(self, ending: Outcome, *, at_once: bool = False) -> None:
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
            self.stop(Outcome(FailureReason.timeout, f"took longer than launcher.timeout={limits.seconds:g} seconds"))
        elif limits.gib is not None and (taken := _resident(self.pid)) > limits.gib * _GIB:
            error = f"took {taken / _GIB:.2f} GiB of memory, launcher.memory={limits.gib:g} GiB"
            self.stop(Outcome(FailureReason.memory, error), at_once=True)

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
