"""The executors of trials: processes of this machine (the default), or any other Hydra launcher.

Other launchers (Ray, submitit, joblib) run trials in batches, whose outcomes are read from their folders.
"""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
from tnt_exp.sweeps.worker import JobProcess

_POLL_INTERVAL = 0.05  # seconds

# Thread settings of TensorFlow; OpenMP (PyTorch, OpenBLAS, MKL); XLA on the CPU (JAX).
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")


@dataclass(frozen=True)
class DeviceSlot:
    """A place for one trial at a time."""

    environment: dict[str, str]  # variables of the trials that run here


def device_slots(config: LauncherConfig) -> list[DeviceSlot]:
    """Divide the machine's GPUs and cores into slots; raise `UserError` if more GPUs are asked for than there are."""
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
        result.append(DeviceSlot(environment))
    return result


def visible_gpus() -> list[str]:
    """Return the GPUs this process may use, as CUDA numbers them, without loading CUDA (which takes memory on each)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    nvidia = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(nvidia.iterdir())))] if nvidia.is_dir() else []


class JobSupervisor:
    """Runs trials as processes of this machine, one per slot.

    The command that runs a trial is `tnt-exp run`, unless another is given. On a CPU it is forked from a process that
    has loaded the backend. With a GPU each trial is a fresh process: what libraries of a GPU do when they are loaded is
    theirs, and a process that has begun to use one cannot be forked.
    """

    def __init__(self, scheduler: Scheduler, slots: Sequence[DeviceSlot], config: LauncherConfig) -> None:
        self._scheduler = scheduler
        self._slots, self._config = slots, config
        self._running: dict[int, tuple[Trial, JobProcess]] = {}
        self._servers: dict[str, ForkServer] = {}  # backend: its server

    def run(self) -> None:
        """Run until no trial is left; if it is interrupted, the running trials are stopped first."""
        try:
            self._start_trials()
            while self._running:
                self._complete_trials()
                if self._scheduler.stopped:
                    self._stop_trials()
                for callback in self._scheduler.callbacks:
                    callback.poll(self._running)
                time.sleep(_POLL_INTERVAL)
                self._start_trials()
        finally:
            self._stop_trials()
            while self._running:
                self._complete_trials()
                time.sleep(_POLL_INTERVAL)
            for server in self._servers.values():
                server.close()

    def _start_trials(self) -> None:
        """Start trials on free slots."""
        study = self._scheduler.study
        for number, slot in enumerate(self._slots):
            if number in self._running:
                continue
            trial = self._scheduler.next_trial()
            if trial is None:
                break
            server = self._server(trial, slot)
            process = JobProcess(study.folder_of(trial), self._config, slot.environment, study.cwd, server)
            self._running[number] = (trial, process)

    def _server(self, trial: Trial, slot: DeviceSlot) -> ForkServer | None:
        """Return the process that forks a trial, or None where a fresh one is to be started."""
        if self._config.command or slot.environment.get("CUDA_VISIBLE_DEVICES", visible_gpus()):
            return None
        backend = self._scheduler.study.config(trial).trainer.backend.value
        if backend not in self._servers or self._servers[backend].ended:
            self._servers[backend] = ForkServer(backend, {**os.environ, **slot.environment})
        return self._servers[backend]

    def _complete_trials(self) -> None:
        for number, (trial, process) in list(self._running.items()):
            outcome = process.poll()
            if outcome is not None:
                del self._running[number]
                self._scheduler.complete(trial, outcome)

    def _stop_trials(self) -> None:
        for _, process in self._running.values():
            process.stop(Outcome(FailureReason.stopped, "stopped with the sweep"))


class LocalLauncher(Launcher):
    """Hydra launcher: one fresh process per trial, over slots; its settings are the fields of `LauncherConfig`."""

    def __init__(self, **settings: Any) -> None:
        if isinstance(settings.get("command"), ListConfig):
            settings["command"] = list(settings["command"])
        self._config = LauncherConfig(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's; nothing to do, because a trial is a process here and not a function."""

    @cached_property
    def slots(self) -> list[DeviceSlot]:
        """Places for one trial at a time."""
        return device_slots(self._config)

    def run(self, scheduler: Scheduler) -> None:
        """Run trials until none is left."""
        JobSupervisor(scheduler, self.slots, self._config).run()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Raise `UserError`: other sweepers call this, and a trial needs the folder that ours has prepared."""
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
