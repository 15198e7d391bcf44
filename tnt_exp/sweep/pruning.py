"""Stop the jobs that a search has given up."""

import time

import optuna

from tnt_exp.sweep import progress
from tnt_exp.sweep.ending import Cause, Ending
from tnt_exp.sweep.point import Point
from tnt_exp.sweep.process import JobProcess
from tnt_exp.sweep.search import Search

_EVERY = 1.0  # seconds


class Pruning:
    """Reports the epochs of running jobs to Optuna and stops those that it would prune.

    Args:
        search: The search.
        metric: What is compared, a column of `metrics.csv`.
    """

    def __init__(self, search: Search, metric: str) -> None:
        self._search = search
        self._metric = metric
        self._next = 0.0
        self._reported: dict[int, int] = {}

    def look(self, running: dict[int, tuple[Point, JobProcess]]) -> None:
        """Once a second."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY
        for point, process in running.values():
            frozen = self._search.trial_of(point)
            if frozen is not None:
                self._compare(point, process, optuna.trial.Trial(self._search.study, frozen._trial_id))

    def _compare(self, point: Point, process: JobProcess, trial: optuna.trial.Trial) -> None:
        done = self._reported.get(point.job, 0)
        for row in progress.read(process.folder).rows[done:]:
            done += 1
            value = progress.number(row.get(self._metric))
            if value is None:
                continue
            epoch = int(float(row["epoch"]))
            trial.report(value, epoch)
            if trial.should_prune():
                process.stop(Ending(Cause.pruned, f"{self._metric} {value:.4f} after epoch {epoch}: below the median"))
                break
        self._reported[point.job] = done
