"""Trials by any other Hydra launcher (Ray, submitit, joblib): launched in batches, outcomes read from their folders."""

import logging
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from tnt_exp.config.overrides import quote
from tnt_exp.sweeps.outcome import FailureReason, Outcome, read_outcome, write_outcome
from tnt_exp.sweeps.scheduler import Scheduler
from tnt_exp.sweeps.worker import JobProcess

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
