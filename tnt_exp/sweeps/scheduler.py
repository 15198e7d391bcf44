"""The scheduler of a sweep: which trial is next, what became of each, what is left."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tnt_exp.atomic_files import JsonObject
from tnt_exp.errors import UserError
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import (
    FailureReason,
    Outcome,
    Trial,
    TrialState,
    default_objective,
    objective_value,
    result_number,
)
from tnt_exp.sweeps.worker import JobProcess

_PERMANENT = (None, FailureReason.pruned, FailureReason.stopped)  # outcomes that a retry cannot improve


class TrialSource(Protocol):
    """Supplies the trials of a sweep."""

    @property
    def total(self) -> int:
        """The number of trials, including those that have ended."""

    def next(self) -> Trial | None:
        """Return the next trial that can start now, or None (until another trial ends)."""

    def on_trial_end(self, trial: Trial) -> None:
        """The trial has ended and will not be retried."""


class SweepCallback:
    """Follows a sweep; each method does nothing unless it is overridden."""

    def poll(self, running: dict[int, tuple[Trial, JobProcess]]) -> None:
        """Called about twenty times per second with the trials that run as processes of this machine, by slot."""

    def on_trial_end(self, trial: Trial, outcome: Outcome) -> None:
        """The trial has ended and will not be retried, or was stopped together with the sweep."""

    def on_retry(self, trial: Trial, outcome: Outcome) -> None:
        """The trial has ended with this outcome and will be retried."""

    def finish(self, status: str) -> None:
        """The sweep has ended: FINISHED, FAILED or KILLED."""


class GridSource:
    """Supplies a list of trials to run: a grid, of `total` trials."""

    def __init__(self, waiting: Sequence[Trial], total: int) -> None:
        self._pending_trials = deque(waiting)
        self.total = total

    def next(self) -> Trial | None:
        """Return the next trial of the list."""
        return self._pending_trials.popleft() if self._pending_trials else None

    def on_trial_end(self, trial: Trial) -> None:
        """Do nothing: a grid does not depend on results."""


@dataclass
class Scheduler:
    """Hands out trials and receives their outcomes; every executor loops over it."""

    study: SweepStudy
    source: TrialSource
    retries: int = 0  # how often a failed trial is retried
    fail_fast: bool = False  # hand out no trial after the first failure
    callbacks: list[SweepCallback] = field(default_factory=list)
    running: dict[int, float] = field(default_factory=dict)  # job: when it was handed out, monotonic seconds
    states: dict[int, TrialState] = field(default_factory=dict)  # of all trials, by job
    best: Trial | None = None  # the best trial so far
    best_value: float = 0.0  # its objective
    failures: list[tuple[Trial, Outcome]] = field(default_factory=list)  # in this process, in order
    seconds: list[float] = field(default_factory=list)  # durations of the trials that finished in this process
    last_seconds: float = 0.0  # duration of the trial that ended last
    _again: deque[Trial] = field(default_factory=deque)
    _tries: dict[int, int] = field(default_factory=dict)
    _results: dict[int, JsonObject] = field(default_factory=dict)  # of the trials that finished, by job

    def __post_init__(self) -> None:
        for trial in self.study.trials:
            self._read(trial)
        self._compare()

    @property
    def objective(self) -> str:
        """The metric, or the number of a result, by which all trials are compared."""
        return str(self.study.data["objective"] or default_objective(self._results.values()))

    @property
    def stopped(self) -> bool:
        """True if a failure stops the sweep."""
        return self.fail_fast and bool(self.failures)

    def next_trial(self) -> Trial | None:
        """Return a trial to start now, or None if there is none now (and none at all if nothing is running)."""
        if self.stopped:
            return None
        trial = self._again.popleft() if self._again else self.source.next()
        if trial is not None:
            self.running[trial.job] = time.monotonic()
            self.states.setdefault(trial.job, TrialState.waiting)
        return trial

    def complete(self, trial: Trial, outcome: Outcome) -> None:
        """Receive the outcome of a trial; raise `UserError` if it finished without the objective."""
        seconds = self.last_seconds = time.monotonic() - self.running.pop(trial.job)
        tries = self._tries[trial.job] = self._tries.get(trial.job, 0) + 1
        if outcome.cause not in _PERMANENT and tries <= self.retries:
            for callback in self.callbacks:
                callback.on_retry(trial, outcome)
            self._again.append(trial)
            return
        result = self._read(trial)
        if outcome.cause is None:
            self.seconds.append(seconds)
            self._compare()
            self._check_objective(trial, result)
        elif self.states[trial.job] is TrialState.failed:
            self.failures.append((trial, outcome))
        for callback in self.callbacks:
            callback.on_trial_end(trial, outcome)
        if outcome.cause is not FailureReason.stopped:
            self.source.on_trial_end(trial)

    def count(self, state: TrialState) -> int:
        """Return the number of trials in this state."""
        return sum(1 for found in self.states.values() if found is state)

    def _read(self, trial: Trial) -> JsonObject | None:
        result = self.study.result(trial)
        self.states[trial.job] = self.study.state(trial)
        if result is not None and self.states[trial.job] is TrialState.finished:
            self._results[trial.job] = result
        return result

    def _compare(self) -> None:
        name = self.objective
        values = {job: objective_value(result, name) for job, result in sorted(self._results.items())}
        found = {job: value for job, value in values.items() if value is not None}
        if found:  # among equal values the first trial is the best, as in the leaderboard
            job = (max if self.study.maximize else min)(found, key=lambda job: found[job])
            self.best, self.best_value = self.study.trials[job], found[job]

    def _check_objective(self, trial: Trial, result: JsonObject | None) -> None:
        name = self.study.data["objective"]
        if result is not None and name and result_number(result, name) is None:
            offered = sorted(result.get("metrics", {}))
            raise UserError(
                f"sweep.objective: expected one of {', '.join(offered)} (or a number of result.json), received {name}, "
                f"which job {trial.job} does not have."
            )
