"""Jobs by any other Hydra launcher (Ray, submitit, joblib): handed out in batches, taken in from their folders."""

import logging

from hydra.plugins.launcher import Launcher

from tnt_exp.sweep.ending import Cause, Ending, record, recorded
from tnt_exp.sweep.jobs import Jobs
from tnt_exp.sweep.point import Point

log = logging.getLogger("tnt_exp")


def serve(launcher: Launcher, jobs: Jobs) -> None:
    """Run jobs until nothing is left.

    A launcher that raises has lost some jobs, and others have ended well: their folders say which.

    Args:
        launcher: Set up by Hydra.
        jobs: Where points come from and endings go to.
    """
    while batch := _batch(jobs):
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
            ending = recorded(jobs.books.result(point))
            if ending.cause is Cause.lost:
                ending = Ending(Cause.lost, reason)
                record(jobs.books.folder_of(point), ending, 0.0)
            jobs.ended(point, ending)


def _batch(jobs: Jobs) -> list[Point]:
    batch = []
    while (point := jobs.take()) is not None:
        batch.append(point)
    return batch
