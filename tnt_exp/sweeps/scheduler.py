"""The scheduler of a sweep: which trial is next, what became of each, what is left."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tnt_exp.atomic_files import JsonObject
from tnt_exp.errors import UserError
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import FailureReason, Outcome, Trial, TrialState, objective_value

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


class SweepCallback(Protocol):
    """Receives the outcomes of trials."""

    def on_trial_end(self, trial: Trial, outcome: Outcome) -> None:
        """The trial has ended and will not be retried, or was stopped together with the sweep."""

    def on_retry(self, trial: Trial, outcome: Outcome) -> None:
        """The trial has ended with this outcome and will be retried."""


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
class BestTrial:
    """The best trial so far, and its objective."""

    trial: Trial
    value: float


@dataclass
class Scheduler:
    """Hands out trials and receives their outcomes; every executor loops over it.

    Args:
        study: The sweep.
        source: Supplies the trials.
        retries: How often a failed trial is retried.
        fail_fast: Hand out no trial after the first failure.
        callbacks: Receive every outcome.

    Attributes:
        running: For each running trial (by number), when it was handed out, monotonic seconds.
        states: The state of each trial.
        best: The best trial so far.
        failures: Trials that failed in this process, in order.
        seconds: Durations of the trials that finished in this process.
        last_seconds: Duration of the trial that ended last.
    """

    study: SweepStudy
    source: TrialSource
    retries: int = 0
    fail_fast: bool = False
    callbacks: list[SweepCallback] = field(default_factory=list)
    running: dict[int, float] = field(default_factory=dict)
    states: dict[int, TrialState] = field(default_factory=dict)
    best: BestTrial | None = None
    failures: list[tuple[Trial, Outcome]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    last_seconds: float = 0.0
    _again: deque[Trial] = field(default_factory=deque)
    _tries: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for trial in self.study.trials:
            result = self.study.result(trial)
            self.states[trial.job] = self.study.state(trial)
            self._compare(trial, result)

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
        """Receive the outcome of a trial that was handed out.

        Raises:
            UserError: The trial finished without the objective by which the sweep compares.
        """
        seconds = self.last_seconds = time.monotonic() - self.running.pop(trial.job)
        tries = self._tries[trial.job] = self._tries.get(trial.job, 0) + 1
        if outcome.cause not in _PERMANENT and tries <= self.retries:
            for callback in self.callbacks:
                callback.on_retry(trial, outcome)
            self._again.append(trial)
            return
        result = self.study.result(trial)
        self.states[trial.job] = self.study.state(trial)
        if outcome.cause is None:
            self.seconds.append(seconds)
            self._compare(trial, result)
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

    def _compare(self, trial: Trial, result: JsonObject | None) -> None:
        value = objective_value(result, self.study.data["objective"])
        if value is None or self.states[trial.job] is not TrialState.finished or value != value:
            return
        sign = 1 if self.study.maximize else -1
        # Among equal values the first trial is the best, as in the leaderboard.
        if self.best is None or (sign * value, -trial.job) > (sign * self.best.value, -self.best.trial.job):
            self.best = BestTrial(trial, value)

    def _check_objective(self, trial: Trial, result: JsonObject | None) -> None:
        name = self.study.data["objective"]
        if result is not None and name and objective_value(result, name) is None:
            offered = sorted(result.get("metrics", {}))
            raise UserError(
                f"sweep.objective: expected one of {', '.join(offered)} (or a number of result.json), received {name}, "
                f"which job {trial.job} does not have."
            )
