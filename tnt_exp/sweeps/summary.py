"""Tables of a sweep as text: before it starts, while it runs, at its end."""

from collections.abc import Sequence

from tnt_exp.config import Config
from tnt_exp.config.sweep import SweepConfig
from tnt_exp.formatting import format_bytes, format_duration, format_table
from tnt_exp.preflight import estimate_resources
from tnt_exp.reports.leaderboard import kept_name, leaderboard_columns
from tnt_exp.reports.sweep_page import SweepResults
from tnt_exp.sweeps.plan import Plan
from tnt_exp.sweeps.results import load_results
from tnt_exp.sweeps.scheduler import Scheduler
from tnt_exp.sweeps.search_space import SearchSpace
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import TrialSpec, TrialState, objective_value, read_outcome
from tnt_exp.sweeps.worker import LOG

_MAX_ROWS = 40  # rows


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
    right = range(len(keys) + 4)
    text = format_table(["job", *keys, "parameters", "MACs", "memory (estimate)"], rows, list(right))
    more = len(trials) - len(rows)
    return text + (f"\n... and {more} more" if more else "")


def state_counts(study: SweepStudy) -> str:
    """Return `5 finished, 1 failed, 3 to run`."""
    states = [study.state(trial) for trial in study.trials]
    words = {
        TrialState.finished: "finished",
        TrialState.failed: "failed",
        TrialState.pruned: "pruned",
        TrialState.waiting: "to run",
    }
    return ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states) or "no trials"


def trials_summary(study: SweepStudy) -> str:
    """Return a table of all trials: swept values, state, objective, time, and why a trial failed."""
    keys = list(dict.fromkeys(key for trial in study.trials for key in trial.params))
    rows = []
    for trial in study.trials:
        result = study.result(trial) or {}
        state = study.state(trial)
        value = objective_value(result, study.data["objective"]) if state is not TrialState.failed else None
        why = read_outcome(result) if state is TrialState.failed else None
        rows.append(
            [
                str(trial.job),
                *(trial.params.get(key, "") for key in keys),
                state.value,
                "" if value is None else f"{value:.4f}",
                format_duration(result["total_seconds"]) if "total_seconds" in result else "",
                f"{why.cause.value}: {why.error}" if why and why.cause else "",
            ]
        )
    right = [*range(len(keys) + 1), len(keys) + 2, len(keys) + 3]
    found = load_results(study)
    header = ["job", *keys, "state", kept_name(found.objective), "time", ""]
    return "\n".join([format_table(header, rows, right), *found.verdict, *_settings(found)])


def best_trials_summary(found: SweepResults) -> str:
    """Return the best points as a table."""
    table = leaderboard_columns(found.ranking[:_MAX_ROWS], found.objective)
    rows = [[_cell(value) for value in row] for row in zip(*table.values(), strict=True)]
    return format_table(list(table), rows, range(len(table)))


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
        lines += [best_trials_summary(found), *found.verdict]
        lines.append(f"alone      {found.ranking[0].best.command}")
        lines += _settings(found)
    for trial, outcome in scheduler.failures:
        if outcome.cause:
            log = study.folder_of(trial) / LOG
            lines.append(f"failed     job {trial.job} ({trial.label}): {outcome.cause.value}: {outcome.error} | {log}")
    if scheduler.count(TrialState.failed):
        lines.append(f"again      tnt-exp sweep resume {study.folder} sweep.rerun=failed")
    elif scheduler.count(TrialState.waiting):
        lines.append(f"resume     tnt-exp sweep resume {study.folder}")
    return "\n".join(lines)
