"""The leaderboard of a sweep: runs ranked by their objective; runs that differ in the seed only count as one point."""

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = "seed"


@dataclass(frozen=True)
class TrialRow:
    """One run of a sweep.

    Attributes:
        job: Its number.
        params: Swept keys and their values.
        state: `finished`, `failed`, `pruned` or `waiting`.
        objective: The value that is compared; None: it has none.
        metrics: Of the kept epoch and of the test.
        facts: `parameters`, `macs`, `train_seconds`, `total_seconds`, as far as they are known.
        error: Why it failed.
        command: The command that runs it alone.
        place: Its run folder.
        log: The last lines of its output, if it failed.
        run_id: Its id in MLflow.
    """

    job: int
    params: dict[str, str]
    state: str
    objective: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    command: str = ""
    place: str = ""
    log: str = ""
    run_id: str | None = None


@dataclass(frozen=True)
class RankedPoint:
    """Runs that differ in the seed only.

    Attributes:
        rank: From 1; None: no run has an objective.
        params: Swept keys without the seed.
        mean: Of the objective over the runs that finished.
        std: Sample standard deviation; None for fewer than two runs.
        rows: The runs.
    """

    rank: int | None
    params: dict[str, str]
    mean: float | None
    std: float | None
    rows: list[TrialRow]

    @property
    def best(self) -> TrialRow:
        """The run that represents the point: the first one that finished."""
        return next((row for row in self.rows if row.state == "finished"), self.rows[0])


def rank_points(rows: Sequence[TrialRow], *, maximize: bool) -> list[RankedPoint]:
    """Return the points, best first; those without an objective last, in the order of their numbers."""
    groups: dict[tuple[tuple[str, str], ...], list[TrialRow]] = {}
    for row in rows:
        groups.setdefault(tuple((key, value) for key, value in row.params.items() if key != SEED), []).append(row)
    found = []
    for params, members in groups.items():
        values = [
            row.objective
            for row in members
            if row.state == "finished" and row.objective is not None and math.isfinite(row.objective)
        ]
        mean = statistics.fmean(values) if values else None
        std = statistics.stdev(values) if len(values) > 1 else None
        found.append(RankedPoint(None, dict(params), mean, std, members))

    def order(point: RankedPoint) -> tuple[bool, float]:
        if point.mean is None:
            return True, float(point.rows[0].job)
        return False, -point.mean if maximize else point.mean

    found.sort(key=order)
    return [
        RankedPoint(rank if item.mean is not None else None, item.params, item.mean, item.std, item.rows)
        for rank, item in enumerate(found, 1)
    ]


def leaderboard_columns(ranking: Sequence[RankedPoint], objective: str) -> dict[str, list[Any]]:
    """Return the leaderboard as columns of equal length.

    Args:
        ranking: Best first.
        objective: Name of the objective.
    """
    keys = list(dict.fromkeys(key for point in ranking for key in point.params))
    table: dict[str, list[Any]] = {"rank": [point.rank for point in ranking]}
    for key in keys:
        table[key] = [point.params.get(key, "") for point in ranking]
    table[objective] = [point.mean for point in ranking]
    if any(len(point.rows) > 1 for point in ranking):
        table["std"] = [point.std for point in ranking]
        table["runs"] = [sum(row.state == "finished" for row in point.rows) for point in ranking]
    for name in ("parameters", "macs", "train_seconds"):
        table[name] = [point.best.facts.get(name) for point in ranking]
    table["state"] = [point.best.state for point in ranking]
    table["jobs"] = [" ".join(str(row.job) for row in point.rows) for point in ranking]
    return table


def write_leaderboard(file: Path, ranking: Sequence[RankedPoint], objective: str) -> None:
    """Write `leaderboard.csv`: one row per point, best first."""
    table = leaderboard_columns(ranking, objective)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def write_points(file: Path, rows: Sequence[TrialRow]) -> None:
    """Write `points.csv`: one row per run, with every metric."""
    params = list(dict.fromkeys(key for row in rows for key in row.params))
    metrics = list(dict.fromkeys(key for row in rows for key in row.metrics))
    facts = list(dict.fromkeys(key for row in rows for key in row.facts))
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["job", *params, "state", *metrics, *facts, "error", "folder", "mlflow_run_id", "command"])
        for row in rows:
            writer.writerow(
                [
                    row.job,
                    *(row.params.get(key, "") for key in params),
                    row.state,
                    *(row.metrics.get(key, "") for key in metrics),
                    *(row.facts.get(key, "") for key in facts),
                    row.error or "",
                    row.place,
                    row.run_id or "",
                    row.command,
                ]
            )
