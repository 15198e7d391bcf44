"""Tables of a sweep, as text: before it, while it runs, at its end."""

from collections.abc import Sequence

from tnt_exp.config import Config
from tnt_exp.config.sweep import SweepConfig
from tnt_exp.sweep.books import Books
from tnt_exp.sweep.costs import costs
from tnt_exp.sweep.ending import recorded
from tnt_exp.sweep.jobs import Jobs
from tnt_exp.sweep.plan import Plan
from tnt_exp.sweep.point import Candidate, State, objective_of
from tnt_exp.sweep.process import LOG
from tnt_exp.sweep.space import Space
from tnt_exp.sweep.story import command
from tnt_exp.sweep.table import clock, size, table

_MOST = 40  # rows


def of_plan(plan: Plan, books: Books | None) -> str:
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
        lines.append(f"goes on with {books.folder}: {counts_of(books)}")
        if plan.points:
            lines[-1] += f", {len(plan.points)} new"
    elif plan.points:
        lines.append(f"{len(plan.points)} points; how long they take is known after the first")
    return "\n".join(lines)


def of_search(space: Space, settings: SweepConfig, parallel: int, books: Books | None) -> str:
    """What is searched, and where the search stands."""
    rows = [[key, space.text(key)] for key in space.swept]
    lines = [table(["key", "values"], rows)]
    how = f"{settings.trials} trials, {parallel} at once, {settings.method.name}, seed {settings.seed}"
    lines.append(f"{how}, {settings.direction.name} {settings.objective or 'the accuracy'}")
    if books:
        lines.append(f"goes on with {books.folder}: {counts_of(books)}")
    return "\n".join(lines)


def _costs(points: Sequence[tuple[Candidate, Config]], first: int) -> str:
    keys = list(dict.fromkeys(key for candidate, _ in points for key in candidate.params))
    rows = []
    for number, (candidate, config) in enumerate(points[:_MOST], first):
        cost = costs(config)
        known = [f"{cost.parameters:,}", f"{cost.macs / 1e6:,.4g} M", size(cost.bytes)] if cost else ["?", "?", "?"]
        rows.append([str(number), *(candidate.params.get(key, "") for key in keys), *known])
    right = range(len(keys) + 4)
    text = table(["job", *keys, "parameters", "MACs", "memory (estimate)"], rows, list(right))
    more = len(points) - len(rows)
    return text + (f"\n... and {more} more" if more else "")


def counts_of(books: Books) -> str:
    """`5 finished, 1 failed, 3 to run`."""
    states = [books.state(point) for point in books.points]
    words = {State.finished: "finished", State.failed: "failed", State.pruned: "pruned", State.waiting: "to run"}
    return ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states) or "no points"


def of_points(books: Books) -> str:
    """Every point: what it changes, its state, its objective, its time, and why it failed."""
    keys = list(dict.fromkeys(key for point in books.points for key in point.params))
    rows = []
    for point in books.points:
        result = books.result(point) or {}
        state = books.state(point)
        value = objective_of(result, books.data["objective"]) if state is not State.failed else None
        why = recorded(result) if state is State.failed else None
        rows.append(
            [
                str(point.job),
                *(point.params.get(key, "") for key in keys),
                state.value,
                "" if value is None else f"{value:.4f}",
                clock(result["total_seconds"]) if "total_seconds" in result else "",
                f"{why.cause.value}: {why.error}" if why and why.cause else "",
            ]
        )
    right = [*range(len(keys) + 1), len(keys) + 2, len(keys) + 3]
    return table(["job", *keys, "state", "objective", "time", ""], rows, right)


def of_end(books: Books, jobs: Jobs) -> str:
    """What became of the sweep, and what to do about it."""
    lines = [f"sweep {books.id}: {counts_of(books)}"]
    if jobs.best:
        best = jobs.best
        lines.append(f"best       {best.value:.4f}, job {best.point.job}: {best.point.label}")
        lines.append(f"alone      {command(best.point)}")
    for point, ending in jobs.failures:
        if ending.cause:
            log = books.folder_of(point) / LOG
            lines.append(
                f"failed     job {point.job} ({point.label}): {ending.cause.value}: {ending.error} | log {log}"
            )
    if jobs.count(State.failed):
        lines.append(f"again      tnt-exp sweep resume {books.folder} sweep.rerun=failed")
    elif jobs.count(State.waiting):
        lines.append(f"go on      tnt-exp sweep resume {books.folder}")
    return "\n".join(lines)
