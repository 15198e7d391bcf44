"""The loop over slots: start, watch, take in."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tnt_exp.sweep.ending import Cause, Ending
from tnt_exp.sweep.jobs import Jobs
from tnt_exp.sweep.point import Point
from tnt_exp.sweep.process import JobProcess, Limits
from tnt_exp.sweep.slots import Slot

_TICK = 0.05  # seconds between two looks


class Watcher(Protocol):
    """Someone who looks at the running jobs, ten times a second."""

    def look(self, running: dict[int, tuple[Point, JobProcess]]) -> None:
        """Slot: what runs there."""


class Supervisor:
    """Runs jobs as processes of this machine, one a slot.

    Args:
        jobs: Where points come from and endings go to.
        slots: Places for one job at a time.
        limits: What a job may take.
        command: What runs a job; None: `tnt-exp run`.
        cwd: Where jobs run.
        watchers: Who else looks at them.
    """

    def __init__(
        self,
        jobs: Jobs,
        slots: Sequence[Slot],
        limits: Limits,
        command: Sequence[str] | None,
        cwd: Path,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self._jobs = jobs
        self._slots = {slot.number: slot for slot in slots}
        self._limits = limits
        self._command = command
        self._cwd = cwd
        self._watchers = watchers
        self._running: dict[int, tuple[Point, JobProcess]] = {}

    def run(self) -> None:
        """Until nothing is left. Whatever ends it early stops the jobs first."""
        try:
            while self._fill() or self._running:
                self._look()
                time.sleep(_TICK)
        finally:
            self._stop()

    def _fill(self) -> bool:
        """Start what can start; whether anything was started."""
        started = False
        for number, slot in self._slots.items():
            if number in self._running:
                continue
            point = self._jobs.take()
            if point is None:
                break
            folder = self._jobs.books.folder_of(point)
            process = JobProcess(folder, self._command, slot.environment, self._limits, self._cwd)
            self._running[number] = (point, process)
            started = True
        return started

    def _look(self) -> None:
        for number, (point, process) in list(self._running.items()):
            ending = process.poll()
            if ending is not None:
                del self._running[number]
                self._jobs.ended(point, ending)
        if self._jobs.halted:
            self._order()
        for watcher in self._watchers:
            watcher.look(self._running)

    def _order(self) -> None:
        for _, process in self._running.values():
            process.stop(Ending(Cause.stopped, "stopped with the sweep"))

    def _stop(self) -> None:
        self._order()
        while self._running:
            for number, (point, process) in list(self._running.items()):
                ending = process.poll()
                if ending is not None:
                    del self._running[number]
                    self._jobs.ended(point, ending)
            time.sleep(_TICK)
