"""What of this machine each job gets."""

# MERGED DOCS:
# """The loop over slots: start, watch, take in."""
# """The local launcher: processes of this machine."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig

from tnt_exp.config.sweep import LauncherConfig
from tnt_exp.errors import UserError
from tnt_exp.hardware import cpu_count
from tnt_exp.sweep.outcome import FailureReason, Outcome
from tnt_exp.sweep.scheduler import Scheduler
from tnt_exp.sweep.trial import Trial
from tnt_exp.sweep.worker import JobProcess, ResourceLimits

# TensorFlow; OpenMP (PyTorch, OpenBLAS, MKL); XLA on the CPU (JAX).
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")


@dataclass(frozen=True)
class DeviceSlot:
    """A place for one job at a time.

    Attributes:
        number: From 0.
        environment: Variables of the jobs that run here.
    """

    number: int
    environment: dict[str, str]


def device_slots(config: LauncherConfig) -> list[DeviceSlot]:
    """Share the machine out.

    Raises:
        UserError: More GPUs are asked for than there are.
    """
    there = visible_gpus()
    if config.gpus is not None and config.gpus > len(there):
        raise UserError(f"launcher.gpus: expected at most the {len(there)} that are there, received {config.gpus}.")
    devices = there[: config.gpus] if config.gpus is not None else there
    count = config.slots or max(1, len(devices))
    threads = config.threads or max(1, cpu_count() // count)
    result = []
    for number in range(count):
        environment = {} if count == 1 and config.threads is None else dict.fromkeys(_THREADS, str(threads))
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
            if count > len(devices):
                environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
                environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        elif config.gpus == 0:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        result.append(DeviceSlot(number, environment))
    return result


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA names them. Found without CUDA, which would take memory of each."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    nvidia = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(nvidia.iterdir())))] if nvidia.is_dir() else []


_TICK = 0.05  # seconds between two looks


class ProcessMonitor(Protocol):
    """Someone who looks at the running jobs, ten times a second."""

    def look(self, running: dict[int, tuple[Trial, JobProcess]]) -> None:
        """Slot: what runs there."""


class JobSupervisor:
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
        jobs: Scheduler,
        slots: Sequence[DeviceSlot],
        limits: ResourceLimits,
        command: Sequence[str] | None,
        cwd: Path,
        watchers: Sequence[ProcessMonitor] = (),
    ) -> None:
        self._jobs = jobs
        self._slots = {slot.number: slot for slot in slots}
        self._limits = limits
        self._command = command
        self._cwd = cwd
        self._watchers = watchers
        self._running: dict[int, tuple[Trial, JobProcess]] = {}

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
            process.stop(Outcome(FailureReason.stopped, "stopped with the sweep"))

    def _stop(self) -> None:
        self._order()
        while self._running:
            for number, (point, process) in list(self._running.items()):
                ending = process.poll()
                if ending is not None:
                    del self._running[number]
                    self._jobs.ended(point, ending)
            time.sleep(_TICK)


class LocalLauncher(Launcher):
    """One fresh process a job, over slots.

    Args:
        settings: Fields of `tnt_exp.config.sweep.LauncherConfig`.
    """

    def __init__(self, **settings: Any) -> None:
        if isinstance(settings.get("command"), ListConfig):
            settings["command"] = list(settings["command"])
        self._config = LauncherConfig(**settings)
        self._slots: list[DeviceSlot] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's; a job is a process here, not a function."""

    @property
    def slots(self) -> list[DeviceSlot]:
        """Places for one job at a time."""
        self._slots = self._slots or device_slots(self._config)
        return self._slots

    def serve(self, jobs: Scheduler, cwd: Path, watchers: Sequence[ProcessMonitor] = ()) -> None:
        """Run jobs until nothing is left.

        Args:
            jobs: Where points come from and endings go to.
            cwd: Where jobs run.
            watchers: Who else looks at the running jobs.
        """
        limits = ResourceLimits(self._config.timeout, self._config.memory)
        JobSupervisor(jobs, self.slots, limits, self._config.command, cwd, watchers).run()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's way to run a list of jobs, which another sweeper would take.

        Raises:
            UserError: Always: a job here needs the folder that our sweeper has prepared.
        """
        raise UserError("hydra/launcher=local: expected the sweeper of tnt-exp, received another. Leave hydra/sweeper.")
