"""The jobs of a sweep under way: which is next, what became of each, what is left."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tnt_exp.errors import UserError
from tnt_exp.sweep.outcome import FailureReason, Outcome
from tnt_exp.sweep.study import SweepStudy
from tnt_exp.sweep.trial import Trial, TrialState, objective_value

_PERMANENT = (None, FailureReason.pruned, FailureReason.stopped)  # endings that no new try can better


class TrialSource(Protocol):
    """What is to be run."""

    @property
    def total(self) -> int:
        """Points in all, those that ended too."""

    def next(self) -> Trial | None:
        """The next point that can start now; None: none can (before another ends)."""

    def ended(self, point: Trial) -> None:
        """The point has ended for good."""


class SweepCallback(Protocol):
    """Someone who is told what becomes of jobs."""

    def ended(self, point: Trial, ending: Outcome) -> None:
        """The point has ended, for good or stopped with the sweep."""

    def again(self, point: Trial, ending: Outcome) -> None:
        """The point has ended so and will be started again."""


class GridSource:
    """A list of points: a grid.

    Args:
        waiting: Those that are to be run.
        total: Points of the sweep.
    """

    def __init__(self, waiting: Sequence[Trial], total: int) -> None:
        self._waiting = deque(waiting)
        self.total = total

    def next(self) -> Trial | None:
        """The next in order."""
        return self._waiting.popleft() if self._waiting else None

    def ended(self, point: Trial) -> None:
        """Nothing that comes depends on it."""


@dataclass
class BestTrial:
    """The best point so far."""

    point: Trial
    value: float


@dataclass
class Scheduler:
    """Hands out points and takes in endings. Used by every launcher's loop.

    Args:
        books: The sweep.
        source: What is to be run.
        retries: Times a point that failed is started again.
        fail_fast: Hand out nothing after the first failure.
        observers: Told of every ending.

    Attributes:
        running: Point number: when it was handed out, monotonic seconds.
        seconds: Of the points that finished now, start of the process to its end.
        last_seconds: Of the point that ended last.
        failures: Points that failed now, in the order of their ends.
    """

    books: SweepStudy
    source: TrialSource
    retries: int = 0
    fail_fast: bool = False
    observers: list[SweepCallback] = field(default_factory=list)
    running: dict[int, float] = field(default_factory=dict)
    states: dict[int, TrialState] = field(default_factory=dict)
    best: BestTrial | None = None
    failures: list[tuple[Trial, Outcome]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    last_seconds: float = 0.0
    _again: deque[Trial] = field(default_factory=deque)
    _tries: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for point in self.books.points:
            result = self.books.result(point)
            self.states[point.job] = self.books.state(point)
            self._compare(point, result)

    @property
    def halted(self) -> bool:
        """Whether a failure stops the sweep."""
        return self.fail_fast and bool(self.failures)

    def take(self) -> Trial | None:
        """A point to start now; None: there is none now, and none at all when nothing is running."""
        if self.halted:
            return None
        point = self._again.popleft() if self._again else self.source.next()
        if point is not None:
            self.running[point.job] = time.monotonic()
            self.states.setdefault(point.job, TrialState.waiting)
        return point

    def ended(self, point: Trial, ending: Outcome) -> None:
        """A point that was handed out has ended.

        Raises:
            UserError: It finished without the objective that the sweep compares.
        """
        seconds = self.last_seconds = time.monotonic() - self.running.pop(point.job)
        tries = self._tries[point.job] = self._tries.get(point.job, 0) + 1
        if ending.cause not in _PERMANENT and tries <= self.retries:
            for observer in self.observers:
                observer.again(point, ending)
            self._again.append(point)
            return
        result = self.books.result(point)
        self.states[point.job] = self.books.state(point)
        if ending.cause is None:
            self.seconds.append(seconds)
            self._compare(point, result)
            self._check_objective(point, result)
        elif self.states[point.job] is TrialState.failed:
            self.failures.append((point, ending))
        for observer in self.observers:
            observer.ended(point, ending)
        if ending.cause is not FailureReason.stopped:
            self.source.ended(point)

    def count(self, state: TrialState) -> int:
        """Points in this state."""
        return sum(1 for found in self.states.values() if found is state)

    def _compare(self, point: Trial, result: dict[str, Any] | None) -> None:
        value = objective_value(result, self.books.data["objective"])
        if value is None or self.states[point.job] is not TrialState.finished or value != value:
            return
        sign = 1 if self.books.maximize else -1
        # Of equals the first counts, as in the leaderboard.
        if self.best is None or (sign * value, -point.job) > (sign * self.best.value, -self.best.point.job):
            self.best = BestTrial(point, value)

    def _check_objective(self, point: Trial, result: dict[str, Any] | None) -> None:
        name = self.books.data["objective"]
        if result is not None and name and objective_value(result, name) is None:
            offered = sorted(result.get("metrics", {}))
            raise UserError(
                f"sweep.objective: expected one of {', '.join(offered)} (or a number of result.json), received {name}, "
                f"which job {point.job} does not have."
            )
