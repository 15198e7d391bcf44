"""What a sweep prints: its trials before it starts, a live table or plain lines while it runs, the best at its end."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tnt_exp import run_folder
from tnt_exp.atomic_files import is_unlocked
from tnt_exp.config import Config
from tnt_exp.config.sweep import SweepConfig
from tnt_exp.formatting import format_bytes, format_duration, format_table
from tnt_exp.preflight import estimate_resources
from tnt_exp.reports.leaderboard import kept_name, leaderboard_columns
from tnt_exp.reports.sweep_page import SweepResults
from tnt_exp.sweeps.plan import Plan
from tnt_exp.sweeps.results import load_results
from tnt_exp.sweeps.scheduler import Scheduler, SweepCallback
from tnt_exp.sweeps.search_space import SearchSpace
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import FailureReason, Outcome, Trial, TrialSpec, TrialState, objective_value
from tnt_exp.sweeps.worker import LOG, JobProcess

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_MAX_ROWS = 40  # rows
_REFRESH = 1.0  # seconds


def plan_summary(plan: Plan, study: SweepStudy | None) -> str:
    """Return the new trials with their cost, and what was left out."""
    lines = []
    if plan.trials:
        first = len(study.trials) if study else 0
        lines.append(_costs(plan.trials, first))
    for spec in plan.duplicates:
        lines.append(f"left out, equal to another trial: {' '.join(spec.overrides)}")
    for spec, reason in plan.invalid:
        lines.append(f"left out: {' '.join(spec.overrides)}: {reason.replace(chr(10), ' ')}")
    if study:
        lines.append(f"resumes {study.folder}: {state_counts(study)}")
        if plan.trials:
            lines[-1] += f", {len(plan.trials)} new"
    elif plan.trials:
        lines.append(f"{len(plan.trials)} trials; how long they take is known after the first")
    return "\n".join(lines)


def search_summary(space: SearchSpace, settings: SweepConfig, parallel: int, study: SweepStudy | None) -> str:
    """Return the search space, and how far the search is."""
    rows = [[key, space.text(key)] for key in space.swept]
    lines = [format_table(["key", "values"], rows)]
    how = f"{settings.trials} trials, {parallel} at once, {settings.method.name}, seed {settings.seed}"
    lines.append(f"{how}, {settings.direction.name} {settings.objective or 'the accuracy'}")
    if study:
        lines.append(f"resumes {study.folder}: {state_counts(study)}")
    return "\n".join(lines)


def _costs(trials: Sequence[tuple[TrialSpec, Config]], first: int) -> str:
    keys = list(dict.fromkeys(key for spec, _ in trials for key in spec.params))
    rows = []
    for number, (spec, config) in enumerate(trials[:_MAX_ROWS], first):
        cost = estimate_resources(config)
        known = [f"{cost.parameters:,}", f"{cost.macs / 1e6:,.4g} M", format_bytes(cost.bytes)] if cost else ["?"] * 3
        rows.append([str(number), *(spec.params.get(key, "") for key in keys), *known])
    header = ["job", *keys, "parameters", "MACs", "memory (estimate)"]
    text = format_table(header, rows, range(len(header)))
    more = len(trials) - len(rows)
    return text + (f"\n... and {more} more" if more else "")


class LiveTable(SweepCallback):
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

    def __exit__(self, *error: object) -> None:
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
        value = objective_value(result, scheduler.objective)
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
            parts.append(f"best {scheduler.best_value:.4f} (job {scheduler.best.job})")
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
            self._epochs[trial.job] = self._scheduler.study.config(trial).trainer.epochs
        return self._epochs[trial.job]


def state_counts(study: SweepStudy) -> str:
    """Return `5 finished, 1 failed, 3 to run`."""
    states = [study.state(trial).value for trial in study.trials]
    words = {"finished": "finished", "failed": "failed", "pruned": "pruned", "waiting": "to run"}
    return ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states) or "no trials"


def trials_summary(study: SweepStudy) -> str:
    """Return a table of all trials: swept values, state, objective, time, and why a trial failed."""
    found, rows = load_results(study), []
    keys = list(dict.fromkeys(key for row in found.rows for key in row.params))
    for row in found.rows:
        shown = "" if row.objective is None else f"{row.objective:.4f}"
        seconds = format_duration(row.facts["total_seconds"]) if "total_seconds" in row.facts else ""
        swept = [row.params.get(key, "") for key in keys]
        runs = row.state == "waiting" and not is_unlocked(Path(row.place) / ".lock")
        rows.append([str(row.job), *swept, "running" if runs else row.state, shown, seconds, row.error or ""])
    right = [*range(len(keys) + 1), len(keys) + 2, len(keys) + 3]
    header = ["job", *keys, "state", kept_name(found.objective), "time", ""]
    return "\n".join([format_table(header, rows, right), *found.verdict, *_settings(found)])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _settings(found: SweepResults) -> list[str]:
    """Return the line that names the file with all settings of the best trial."""
    best = next((point.best for point in found.ranking if point.rank == 1), None)
    return [f"settings   {best.place}/config.yaml"] if best and best.place else []


def end_summary(study: SweepStudy, scheduler: Scheduler) -> str:
    """Return what became of the sweep, and what to do next."""
    lines = [f"sweep {study.id}: {state_counts(study)}"]
    found = load_results(study)
    if scheduler.best:
        table = leaderboard_columns(found.ranking[:_MAX_ROWS], found.objective)
        rows = [[_cell(value) for value in row] for row in zip(*table.values(), strict=True)]
        lines += [format_table(list(table), rows, range(len(table))), *found.verdict]
        lines.append(f"alone      {found.ranking[0].best.command}")
        lines += _settings(found)
    for trial, outcome in scheduler.failures:
        if outcome.cause:
            log = study.folder_of(trial) / LOG
            lines.append(f"failed     job {trial.job} ({trial.label}): {outcome.cause.value}: {outcome.error} | {log}")
    resume = f"tnt-exp sweep resume {shlex.quote(str(study.folder))}"
    if scheduler.count(TrialState.failed):
        lines.append(f"again      {resume} sweep.rerun=failed")
    if scheduler.count(TrialState.waiting):
        lines.append(f"resume     {resume}")
    return "\n".join(lines)
