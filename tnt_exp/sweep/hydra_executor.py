"""Jobs by any other Hydra launcher (Ray, submitit, joblib): handed out in batches, taken in from their folders."""

# MERGED DOCS:
# """One job where another launcher (Ray, submitit, joblib) has put it: one fresh process, as everywhere."""

import logging
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from tnt_exp.sweep.outcome import FailureReason, Outcome, read_outcome, write_outcome
from tnt_exp.sweep.scheduler import Scheduler
from tnt_exp.sweep.trial import Trial
from tnt_exp.sweep.worker import JobProcess

log = logging.getLogger("tnt_exp")


def run_with_launcher(launcher: Launcher, jobs: Scheduler) -> None:
    """Run jobs until nothing is left.

    A launcher that raises has lost some jobs, and others have ended well: their folders say which.

    Args:
        launcher: Set up by Hydra.
        jobs: Where points come from and endings go to.
    """
    while batch := _next_batch(jobs):
        # Its folder is all a job needs: what a launcher would compose anew is not what was frozen.
        here = str(jobs.books.folder).replace("'", "\\'")
        overrides = [[f"hydra.sweep.dir='{here}'", f"hydra.sweep.subdir={point.job}"] for point in batch]
        for point in batch:
            print(f"job {point.job} | handed over | {point.label}", flush=True)
            (jobs.books.folder_of(point) / "result.json").unlink(missing_ok=True)
        reason = "the launcher came back without it"
        try:
            launcher.launch(overrides, initial_job_idx=batch[0].job)
        except Exception as error:
            reason = f"the launcher failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            log.warning(reason)
        for point in batch:
            ending = read_outcome(jobs.books.result(point))
            if ending.cause is FailureReason.lost:
                ending = Outcome(FailureReason.lost, reason)
                write_outcome(jobs.books.folder_of(point), ending, 0.0)
            jobs.ended(point, ending)


def _next_batch(jobs: Scheduler) -> list[Trial]:
    batch = []
    while (point := jobs.take()) is not None:
        batch.append(point)
    return batch


def run_job(cfg: DictConfig) -> None:
    """The task that Hydra hands to its launcher.

    What was composed is not looked at: the job's folder holds what was frozen when the sweep began.
    """
    process = JobProcess(Path(HydraConfig.get().runtime.output_dir))
    try:
        while process.poll() is None:
            time.sleep(0.1)
    except BaseException:  # stopped: the job gets the time to write a checkpoint
        process.stop(Outcome(FailureReason.stopped, "stopped with the sweep"))
        while process.poll() is None:
            time.sleep(0.1)
        raise
