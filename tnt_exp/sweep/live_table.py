"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tnt_exp import run_folder
from tnt_exp.config import Config
from tnt_exp.formatting import format_duration
from tnt_exp.sweep.outcome import FailureReason, Outcome
from tnt_exp.sweep.scheduler import Scheduler
from tnt_exp.sweep.trial import Trial, TrialState, objective_value
from tnt_exp.sweep.worker import LOG, JobProcess

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


_REFRESH = 1.0  # seconds


class LiveTable:
    """Shows jobs.

    Args:
        jobs: What is shown.
        slots: Jobs that run at once.
    """

    def __init__(self, jobs: Scheduler, slots: int) -> None:
        self._jobs = jobs
        self._slots = slots
        self._live: Live | None = None
        self._next = 0.0
        self._epochs: dict[int, int] = {}

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def look(self, running: dict[int, tuple[Trial, JobProcess]]) -> None:
        """Show the running jobs, once a second."""
        now = time.monotonic()
        if self._live and now >= self._next:
            self._next = now + _REFRESH
            self._live.update(self._table(running), refresh=True)

    def ended(self, point: Trial, ending: Outcome) -> None:
        """A line for a job that ended."""
        if ending.cause is FailureReason.stopped:
            return
        jobs = self._jobs
        state = jobs.states[point.job]
        parts = [f"job {point.job}", state.value, point.label]
        result = jobs.books.result(point) or {}
        value = objective_value(result, jobs.books.data["objective"])
        if value is not None and state is not TrialState.failed:
            parts.append(f"{value:.4f}")
        parts.append(format_duration(jobs.last_seconds))
        if state is TrialState.failed and ending.cause:
            parts += [f"{ending.cause.value}: {ending.error}", f"log {jobs.books.folder_of(point) / LOG}"]
        self._say(" | ".join([*parts, self.summary()]))

    def again(self, point: Trial, ending: Outcome) -> None:
        """A line for a job that is started again."""
        if ending.cause:
            self._say(f"job {point.job} | again | {point.label} | {ending.cause.value}: {ending.error}")

    def summary(self) -> str:
        """`4 of 9, 1 failed, best 0.97 (job 2), left 1:20`."""
        jobs = self._jobs
        done = sum(1 for state in jobs.states.values() if state is not TrialState.waiting)
        parts = [f"{done} of {jobs.source.total}"]
        parts += [f"{count} failed"] if (count := jobs.count(TrialState.failed)) else []
        parts += [f"{count} pruned"] if (count := jobs.count(TrialState.pruned)) else []
        if jobs.best:
            parts.append(f"best {jobs.best.value:.4f} (job {jobs.best.point.job})")
        left = self.left()
        parts += [f"left {format_duration(left)}"] if left else []
        return ", ".join(parts)

    def left(self) -> float | None:
        """Seconds left, from the mean of the jobs that finished; None before the first."""
        jobs = self._jobs
        if not jobs.seconds:
            return None
        mean = sum(jobs.seconds) / len(jobs.seconds)
        now = time.monotonic()
        open_ = jobs.source.total - sum(1 for state in jobs.states.values() if state is not TrialState.waiting)
        spent = sum(min(mean, now - begin) for begin in jobs.running.values())
        return max(0.0, mean * open_ - spent) / self._slots

    def _say(self, line: str) -> None:
        if self._live:
            self._live.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def _table(self, running: dict[int, tuple[Trial, JobProcess]]) -> "Table":
        from rich.table import Table

        table = Table("job", "point", "epoch", "objective", "time", caption=self.summary(), box=None)
        for point, process in running.values():
            there = run_folder.read_metrics(process.folder)
            name = self._jobs.books.data["objective"]
            values = [there.value(key) for key in ([name] if name else ["val/accuracy", "test/accuracy"])]
            value = next((value for value in values if value is not None), None)
            shown = "" if value is None else f"{value:.4f}"
            epochs = f"{there.epoch}/{self._of(point)}"
            table.add_row(str(point.job), point.label, epochs, shown, format_duration(process.seconds))
        return table

    def _of(self, point: Trial) -> int:
        if point.job not in self._epochs:
            config: Config = self._jobs.books.config(point)
            self._epochs[point.job] = config.trainer.epochs
        return self._epochs[point.job]
