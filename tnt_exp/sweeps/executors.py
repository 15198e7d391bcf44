"""The executors of trials: processes of this machine (the default), or any other Hydra launcher.

Other launchers (Ray, submitit, joblib) run trials in batches, whose outcomes are read from their folders.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig

from tnt_exp.config.overrides import quote
from tnt_exp.config.sweep import LauncherConfig
from tnt_exp.errors import UserError
from tnt_exp.hardware import cpu_count
from tnt_exp.sweeps.fork_server import ForkServer
from tnt_exp.sweeps.scheduler import Scheduler
from tnt_exp.sweeps.trial import FailureReason, Outcome, Trial, read_outcome, write_outcome
from tnt_exp.sweeps.worker import JobProcess, ResourceLimits

_POLL_INTERVAL = 0.05  # seconds

# Thread settings of TensorFlow; OpenMP (PyTorch, OpenBLAS, MKL); XLA on the CPU (JAX).
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")


@dataclass(frozen=True)
class DeviceSlot:
    """A place for one trial at a time."""

    number: int  # from 0
    environment: dict[str, str]  # variables of the trials that run here


def device_slots(config: LauncherConfig) -> list[DeviceSlot]:
    """Divide the machine's GPUs and cores into slots.

    Raises:
        UserError: More GPUs are asked for than there are.
    """
    there = visible_gpus()
    if config.gpus is not None and config.gpus > len(there):
        raise UserError(f"launcher.gpus: expected at most {len(there)} on this machine, received {config.gpus}.")
    devices = there[: config.gpus]
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
    """Return the GPUs this process may use, as CUDA numbers them, without loading CUDA (which takes memory on each)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    nvidia = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(nvidia.iterdir())))] if nvidia.is_dir() else []


class ProcessMonitor(Protocol):
    """Watches the running trials."""

    def poll(self, running: dict[int, tuple[Trial, JobProcess]]) -> None:
        """Called about ten times per second with the running trials by slot."""


class JobSupervisor:
    """Runs trials as processes of this machine, one per slot, in a working folder; the monitors watch them.

    The command that runs a trial is `tnt-exp run`, unless another is given. On a CPU it is forked from a process that
    has loaded the backend. With a GPU each trial is a fresh process: what libraries of a GPU do when they are loaded is
    theirs, and a process that has begun to use one cannot be forked.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        slots: Sequence[DeviceSlot],
        limits: ResourceLimits,
        command: Sequence[str] | None,
        cwd: Path,
        monitors: Sequence[ProcessMonitor] = (),
    ) -> None:
        self._scheduler = scheduler
        self._slots = {slot.number: slot for slot in slots}
        self._limits = limits
        self._command = command
        self._cwd = cwd
        self._monitors = monitors
        self._running: dict[int, tuple[Trial, JobProcess]] = {}
        self._servers: dict[str, ForkServer] = {}  # backend: its server

    def run(self) -> None:
        """Run until no trial is left; if it is interrupted, the running trials are stopped first."""
        try:
            while self._start_trials() or self._running:
                self._poll()
                time.sleep(_POLL_INTERVAL)
        finally:
            self._stop()
            for server in self._servers.values():
                server.close()

    def _start_trials(self) -> bool:
        """Start trials on free slots; return True if any was started."""
        started = False
        for number, slot in self._slots.items():
            if number in self._running:
                continue
            trial = self._scheduler.next_trial()
            if trial is None:
                break
            folder = self._scheduler.study.folder_of(trial)
            server = self._server(trial, slot)
            process = JobProcess(folder, self._command, slot.environment, self._limits, self._cwd, server)
            self._running[number] = (trial, process)
            started = True
        return started

    def _server(self, trial: Trial, slot: DeviceSlot) -> ForkServer | None:
        """Return the process that forks a trial, or None where a fresh one is to be started."""
        if self._command or slot.environment.get("CUDA_VISIBLE_DEVICES", visible_gpus()):
            return None
        backend = self._scheduler.study.config(trial).trainer.backend.value
        if backend not in self._servers or self._servers[backend].ended:
            self._servers[backend] = ForkServer(backend, {**os.environ, **slot.environment})
        return self._servers[backend]

    def _poll(self) -> None:
        self._complete_trials()
        if self._scheduler.stopped:
            self._stop_processes()
        for monitor in self._monitors:
            monitor.poll(self._running)

    def _complete_trials(self) -> None:
        for number, (trial, process) in list(self._running.items()):
            outcome = process.poll()
            if outcome is not None:
                del self._running[number]
                self._scheduler.complete(trial, outcome)

    def _stop_processes(self) -> None:
        for _, process in self._running.values():
            process.stop(Outcome(FailureReason.stopped, "stopped with the sweep"))

    def _stop(self) -> None:
        self._stop_processes()
        while self._running:
            self._complete_trials()
            time.sleep(_POLL_INTERVAL)


class LocalLauncher(Launcher):
    """Hydra launcher: one fresh process per trial, over slots.

    Args:
        settings: Fields of `tnt_exp.config.sweep.LauncherConfig`.
    """

    def __init__(self, **settings: Any) -> None:
        if isinstance(settings.get("command"), ListConfig):
            settings["command"] = list(settings["command"])
        self._config = LauncherConfig(**settings)
        self._slots: list[DeviceSlot] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's; nothing to do, because a trial is a process here and not a function."""

    @property
    def slots(self) -> list[DeviceSlot]:
        """Places for one trial at a time."""
        self._slots = self._slots or device_slots(self._config)
        return self._slots

    def run(self, scheduler: Scheduler, cwd: Path, monitors: Sequence[ProcessMonitor] = ()) -> None:
        """Run trials in a working folder until none is left; the monitors watch them."""
        limits = ResourceLimits(self._config.timeout, self._config.memory)
        JobSupervisor(scheduler, self.slots, limits, self._config.command, cwd, monitors).run()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's way to run a list of jobs; used by other sweepers only.

        Raises:
            UserError: Always: a trial needs the folder that the sweeper of tnt-exp has prepared.
        """
        raise UserError("hydra/launcher=local: expected the sweeper of tnt-exp, received another. Leave hydra/sweeper.")


log = logging.getLogger("tnt_exp")


def run_with_launcher(launcher: Launcher, scheduler: Scheduler) -> None:
    """Run trials until none is left.

    A launcher that raises may have lost some trials while others ended well: their folders show it.
    """
    while batch := list(iter(scheduler.next_trial, None)):
        # A trial needs its folder only: what a launcher would compose anew is not what was frozen.
        here = quote(str(scheduler.study.folder))
        overrides = [[f"hydra.sweep.dir={here}", f"hydra.sweep.subdir={trial.job}"] for trial in batch]
        for trial in batch:
            print(f"job {trial.job} | launched | {trial.label}", flush=True)
            (scheduler.study.folder_of(trial) / "result.json").unlink(missing_ok=True)
        reason = "the launcher returned without a result"
        try:
            launcher.launch(overrides, initial_job_idx=batch[0].job)
        except Exception as error:
            reason = f"the launcher failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            log.warning(reason)
        for trial in batch:
            outcome = read_outcome(scheduler.study.result(trial))
            if outcome.cause is FailureReason.lost:
                outcome = Outcome(FailureReason.lost, reason)
                write_outcome(scheduler.study.folder_of(trial), outcome, 0.0)
            scheduler.complete(trial, outcome)


def run_job(cfg: DictConfig) -> None:
    """The task function that Hydra hands to its launcher: run one trial as a fresh process.

    The composed configuration is ignored: the trial's folder holds the one that was frozen when the sweep began.
    """
    process = JobProcess(Path(HydraConfig.get().runtime.output_dir))
    try:
        while process.poll() is None:
            time.sleep(0.1)
    except BaseException:  # give the trial the time to write a checkpoint
        process.stop(Outcome(FailureReason.stopped, "stopped with the sweep"))
        while process.poll() is None:
            time.sleep(0.1)
        raise
