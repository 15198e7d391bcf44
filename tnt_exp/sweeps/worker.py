"""One trial as one process, which ends when the process that started it ends."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from tnt_exp.atomic_files import read_json
from tnt_exp.config.sweep import LauncherConfig
from tnt_exp.sweeps.fork_server import ForkedProcess, ForkServer
from tnt_exp.sweeps.trial import FailureReason, Outcome, from_exit_code, oom_kill_count, write_outcome

LOG = "output.log"

_SUPERVISED = "--supervised"
_GRACE = 30.0  # seconds from SIGTERM to SIGKILL: time to write a checkpoint
_GIB = 2**30
_PR_SET_PDEATHSIG = 1


def exit_with_parent() -> None:
    """End this process and its children when the process that started it is gone.

    Two ways, because each has a gap. Linux kills this process as soon as the thread that started it ends, but not its
    children. And standard input is a pipe that only the parent holds open: when the parent ends, the kernel closes it,
    and a thread here kills the whole process group (each trial leads a group of its own). That thread has to wait while
    native code holds the interpreter's lock: seconds, while TensorFlow is imported or traces a graph.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # If the parent was gone before this line, its end of the pipe is closed and the thread sees it.
    threading.Thread(target=_watch_parent, name="parent watcher", daemon=True).start()


def _watch_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


class JobProcess:
    """A running trial. Everything it prints goes to `output.log` in its folder.

    Args:
        folder: The run folder, with a frozen `config.yaml`.
        config: The command that runs it, and its limits; None: `tnt-exp run` without limits.
        environment: Environment variables on top of this process'.
        cwd: The working folder; None: that of this process.
        server: Forks the process; None: a fresh one is started.
    """

    def __init__(
        self,
        folder: Path,
        config: LauncherConfig | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        server: ForkServer | None = None,
    ) -> None:
        self.folder = folder
        self._begin = time.monotonic()
        self._config = config or LauncherConfig()
        self._stop_outcome: Outcome | None = None
        self._deadline = 0.0
        self._kernel_kills = oom_kill_count()
        # The result of an earlier try must not be taken for this one's.
        (folder / "result.json").unlink(missing_ok=True)
        variables = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | ForkedProcess
        if server:
            self._process = server.start([_SUPERVISED, str(folder)], folder / LOG, variables, cwd or Path.cwd())
            return
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [*(self._config.command or [sys.executable, "-P", "-m", "tnt_exp", "run", _SUPERVISED]), str(folder)],
                stdin=subprocess.PIPE,  # closed by the kernel when this process ends
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=variables,
                start_new_session=True,  # Ctrl-C must reach the sweep alone
            )

    @property
    def pid(self) -> int | None:
        """The process id; None if it never began."""
        return self._process.pid

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._begin

    def poll(self) -> Outcome | None:
        """Enforce the limits; return None while it runs, else its outcome (which is written to its folder)."""
        code = self._process.poll()
        if code is None:
            self._enforce()
            return None
        self._kill()  # children that it left behind
        if isinstance(self._process, subprocess.Popen) and self._process.stdin:
            self._process.stdin.close()
        result = read_json(self.folder / "result.json", skip=True)
        outcome = from_exit_code(code, result, self._stop_outcome, oom_kill_count() > self._kernel_kills)
        write_outcome(self.folder, outcome, self.seconds)
        return outcome

    def stop(self, outcome: Outcome, *, at_once: bool = False) -> None:
        """Stop it by SIGTERM and, after a grace period, by SIGKILL; `poll` returns `outcome` then."""
        if self._stop_outcome is not None:
            return
        self._stop_outcome = outcome
        self._deadline = time.monotonic() + (0 if at_once else _GRACE)
        if not at_once:
            # To the trial alone, which ends its own children.
            self._process.send_signal(signal.SIGTERM)

    def _enforce(self) -> None:
        if self._stop_outcome is not None:
            if time.monotonic() >= self._deadline:
                self._kill()
            return
        timeout, memory = self._config.timeout, self._config.memory
        if timeout is not None and self.seconds > timeout:
            self.stop(Outcome(FailureReason.timeout, f"took longer than launcher.timeout={timeout:g} seconds"))
        elif memory is not None and self.pid and (taken := _resident(self.pid)) > memory * _GIB:
            error = f"took {taken / _GIB:.2f} GiB of memory, launcher.memory={memory:g} GiB"
            self.stop(Outcome(FailureReason.memory, error), at_once=True)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is gone
            if self.pid is not None:
                os.killpg(self.pid, signal.SIGKILL)


def _resident(pid: int) -> int:
    """Return the resident bytes of a process and its descendants."""
    total = 0
    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(pid)
        for process in [leader, *leader.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total
