"""Tables of a sweep, as text: before it, while it runs, at its end."""

from collections.abc import Sequence

from tnt_exp.config import Config
from tnt_exp.config.sweep import SweepConfig
from tnt_exp.formatting import format_bytes, format_duration, format_table
from tnt_exp.preflight import estimate_resources
from tnt_exp.sweep.outcome import read_outcome
from tnt_exp.sweep.plan import Plan
from tnt_exp.sweep.results import rerun_command
from tnt_exp.sweep.scheduler import Scheduler
from tnt_exp.sweep.search_space import SearchSpace
from tnt_exp.sweep.study import SweepStudy
from tnt_exp.sweep.trial import TrialSpec, TrialState, objective_value
from tnt_exp.sweep.worker import LOG

_MOST = 40  # rows


def plan_summary(plan: Plan, books: SweepStudy | None) -> str:
    """Points that are new: what they change and what they cost; and what was left out."""
    lines = []
    if plan.points:
        first = len(books.points) if books else 0
        lines.append(_costs(plan.points, first))
    for candidate in plan.duplicates:
        lines.append(f"left out, the same as another point: {' '.join(candidate.overrides)}")
    for candidate, reason in plan.invalid:
        lines.append(f"left out: {' '.join(candidate.overrides)}: {reason.replace(chr(10), ' ')}")
    if books:
        lines.append(f"goes on with {books.folder}: {state_counts(books)}")
        if plan.points:
            lines[-1] += f", {len(plan.points)} new"
    elif plan.points:
        lines.append(f"{len(plan.points)} points; how long they take is known after the first")
    return "\n".join(lines)


def search_summary(space: SearchSpace, settings: SweepConfig, parallel: int, books: SweepStudy | None) -> str:
    """What is searched, and where the search stands."""
    rows = [[key, space.text(key)] for key in space.swept]
    lines = [format_table(["key", "values"], rows)]
    how = f"{settings.trials} trials, {parallel} at once, {settings.method.name}, seed {settings.seed}"
    lines.append(f"{how}, {settings.direction.name} {settings.objective or 'the accuracy'}")
    if books:
        lines.append(f"goes on with {books.folder}: {state_counts(books)}")
    return "\n".join(lines)


def _costs(points: Sequence[tuple[TrialSpec, Config]], first: int) -> str:
    keys = list(dict.fromkeys(key for candidate, _ in points for key in candidate.params))
    rows = []
    for number, (candidate, config) in enumerate(points[:_MOST], first):
        cost = estimate_resources(config)
        known = (
            [f"{cost.parameters:,}", f"{cost.macs / 1e6:,.4g} M", format_bytes(cost.bytes)] if cost else ["?", "?", "?"]
        )
        rows.append([str(number), *(candidate.params.get(key, "") for key in keys), *known])
    right = range(len(keys) + 4)
    text = format_table(["job", *keys, "parameters", "MACs", "memory (estimate)"], rows, list(right))
    more = len(points) - len(rows)
    return text + (f"\n... and {more} more" if more else "")


def state_counts(books: SweepStudy) -> str:
    """`5 finished, 1 failed, 3 to run`."""
    states = [books.state(point) for point in books.points]
    words = {
        TrialState.finished: "finished",
        TrialState.failed: "failed",
        TrialState.pruned: "pruned",
        TrialState.waiting: "to run",
    }
    return ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states) or "no points"


def trials_summary(books: SweepStudy) -> str:
    """Every point: what it changes, its state, its objective, its time, and why it failed."""
    keys = list(dict.fromkeys(key for point in books.points for key in point.params))
    rows = []
    for point in books.points:
        result = books.result(point) or {}
        state = books.state(point)
        value = objective_value(result, books.data["objective"]) if state is not TrialState.failed else None
        why = read_outcome(result) if state is TrialState.failed else None
        rows.append(
            [
                str(point.job),
                *(point.params.get(key, "") for key in keys),
                state.value,
                "" if value is None else f"{value:.4f}",
                format_duration(result["total_seconds"]) if "total_seconds" in result else "",
                f"{why.cause.value}: {why.error}" if why and why.cause else "",
            ]
        )
    right = [*range(len(keys) + 1), len(keys) + 2, len(keys) + 3]
    return format_table(["job", *keys, "state", "objective", "time", ""], rows, right)


def end_summary(books: SweepStudy, jobs: Scheduler) -> str:
    """What became of the sweep, and what to do about it."""
    lines = [f"sweep {books.id}: {state_counts(books)}"]
    if jobs.best:
        best = jobs.best
        lines.append(f"best       {best.value:.4f}, job {best.point.job}: {best.point.label}")
        lines.append(f"alone      {rerun_command(best.point)}")
    for point, ending in jobs.failures:
        if ending.cause:
            log = books.folder_of(point) / LOG
            lines.append(
                f"failed     job {point.job} ({point.label}): {ending.cause.value}: {ending.error} | log {log}"
            )
    if jobs.count(TrialState.failed):
        lines.append(f"again      tnt-exp sweep resume {books.folder} sweep.rerun=failed")
    elif jobs.count(TrialState.waiting):
        lines.append(f"go on      tnt-exp sweep resume {books.folder}")
    return "\n".join(lines)
