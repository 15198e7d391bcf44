"""The terminal while a sweep runs: a live table, or plain lines if the output is not a terminal."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tnt_exp import run_folder
from tnt_exp.config import Config
from tnt_exp.formatting import format_duration
from tnt_exp.sweeps.scheduler import Scheduler
from tnt_exp.sweeps.trial import FailureReason, Outcome, Trial, TrialState, objective_value
from tnt_exp.sweeps.worker import LOG, JobProcess

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


_REFRESH = 1.0  # seconds


class LiveTable:
    """Shows the trials of a sweep, of which one runs in each slot at once."""

    def __init__(self, scheduler: Scheduler, slots: int) -> None:
        self._scheduler = scheduler
        self._slots = slots
        self._live: Live | None = None
        self._next = 0.0
        self._epochs: dict[int, int] = {}

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def poll(self, running: dict[int, tuple[Trial, JobProcess]]) -> None:
        """Refresh the table of running trials, once per second."""
        now = time.monotonic()
        if self._live and now >= self._next:
            self._next = now + _REFRESH
            self._live.update(self._table(running), refresh=True)

    def on_trial_end(self, trial: Trial, outcome: Outcome) -> None:
        """Print a line for a trial that ended."""
        if outcome.cause is FailureReason.stopped:
            return
        scheduler = self._scheduler
        state = scheduler.states[trial.job]
        parts = [f"job {trial.job}", state.value, trial.label]
        result = scheduler.study.result(trial) or {}
        value = objective_value(result, scheduler.study.data["objective"])
        if value is not None and state is not TrialState.failed:
            parts.append(f"{value:.4f}")
        parts.append(format_duration(scheduler.last_seconds))
        if state is TrialState.failed and outcome.cause:
            parts += [f"{outcome.cause.value}: {outcome.error}", f"log {scheduler.study.folder_of(trial) / LOG}"]
        self._print(" | ".join([*parts, self.summary()]))

    def on_retry(self, trial: Trial, outcome: Outcome) -> None:
        """Print a line for a trial that is retried."""
        if outcome.cause:
            self._print(f"job {trial.job} | retry | {trial.label} | {outcome.cause.value}: {outcome.error}")

    def summary(self) -> str:
        """Return `4 of 9, 1 failed, best 0.97 (job 2), left 1:20`."""
        scheduler = self._scheduler
        parts = [f"{self._ended()} of {scheduler.source.total}"]
        parts += [f"{count} failed"] if (count := scheduler.count(TrialState.failed)) else []
        parts += [f"{count} pruned"] if (count := scheduler.count(TrialState.pruned)) else []
        if scheduler.best:
            parts.append(f"best {scheduler.best.value:.4f} (job {scheduler.best.trial.job})")
        left = self.left()
        parts += [f"left {format_duration(left)}"] if left else []
        return ", ".join(parts)

    def left(self) -> float | None:
        """Return the estimated seconds left, from the mean of the trials that finished; None before the first."""
        scheduler = self._scheduler
        if not scheduler.seconds:
            return None
        mean = sum(scheduler.seconds) / len(scheduler.seconds)
        now = time.monotonic()
        open_ = scheduler.source.total - self._ended()
        spent = sum(min(mean, now - begin) for begin in scheduler.running.values())
        return max(0.0, mean * open_ - spent) / self._slots

    def _ended(self) -> int:
        return len(self._scheduler.states) - self._scheduler.count(TrialState.waiting)

    def _print(self, line: str) -> None:
        if self._live:
            self._live.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def _table(self, running: dict[int, tuple[Trial, JobProcess]]) -> "Table":
        from rich.table import Table

        table = Table("job", "trial", "epoch", "objective", "time", caption=self.summary(), box=None)
        for trial, process in running.values():
            there = run_folder.read_metrics(process.folder)
            name = self._scheduler.study.data["objective"]
            values = [there.value(key) for key in ([name] if name else ["val/accuracy", "test/accuracy"])]
            value = next((value for value in values if value is not None), None)
            shown = "" if value is None else f"{value:.4f}"
            epochs = f"{there.epoch}/{self._total_epochs(trial)}"
            table.add_row(str(trial.job), trial.label, epochs, shown, format_duration(process.seconds))
        return table

    def _total_epochs(self, trial: Trial) -> int:
        if trial.job not in self._epochs:
            config: Config = self._scheduler.study.config(trial)
            self._epochs[trial.job] = config.trainer.epochs
        return self._epochs[trial.job]
