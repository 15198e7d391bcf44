"""Runs of a sweep in the order of their objective; runs that differ in the seed only count as one."""

# MERGED DOCS:
# """The leaderboard of a sweep as CSV files and as columns."""

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
        params: Swept key: value.
        state: `finished`, `failed`, `pruned` or `waiting`.
        objective: What is compared; None: it has none.
        metrics: Of the kept epoch and of the test.
        facts: `parameters`, `macs`, `train_seconds`, `total_seconds`, those that are known.
        error: Why it failed.
        command: What to type to run it alone.
        place: Its run folder.
        log: Last lines of its output, of a failed run.
        run_id: Of MLflow.
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
        rank: From 1; None: no run of it has an objective.
        params: Swept keys but the seed.
        mean: Of the objective over the runs that finished.
        std: Of the sample; None for fewer than two.
        rows: The runs.
    """

    rank: int | None
    params: dict[str, str]
    mean: float | None
    std: float | None
    rows: list[TrialRow]

    @property
    def best(self) -> TrialRow:
        """The run that stands for it: the first that finished."""
        return next((row for row in self.rows if row.state == "finished"), self.rows[0])


def rank_points(rows: Sequence[TrialRow], *, maximize: bool) -> list[RankedPoint]:
    """Best first; those without an objective last, in the order of their numbers."""
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

    def order(standing: RankedPoint) -> tuple[bool, float]:
        if standing.mean is None:
            return True, float(standing.rows[0].job)
        return False, -standing.mean if maximize else standing.mean

    found.sort(key=order)
    return [
        RankedPoint(rank if item.mean is not None else None, item.params, item.mean, item.std, item.rows)
        for rank, item in enumerate(found, 1)
    ]


def leaderboard_columns(places: Sequence[RankedPoint], objective: str) -> dict[str, list[Any]]:
    """The leaderboard, a list a column; the same length each.

    Args:
        places: Best first.
        objective: The objective's name.
    """
    keys = list(dict.fromkeys(key for place in places for key in place.params))
    table: dict[str, list[Any]] = {"rank": [place.rank for place in places]}
    for key in keys:
        table[key] = [place.params.get(key, "") for place in places]
    table[objective] = [place.mean for place in places]
    if any(len(place.rows) > 1 for place in places):
        table["std"] = [place.std for place in places]
        table["runs"] = [sum(row.state == "finished" for row in place.rows) for place in places]
    for name in ("parameters", "macs", "train_seconds"):
        table[name] = [place.best.facts.get(name) for place in places]
    table["state"] = [place.best.state for place in places]
    table["jobs"] = [" ".join(str(row.job) for row in place.rows) for place in places]
    return table


def write_leaderboard(file: Path, places: Sequence[RankedPoint], objective: str) -> None:
    """`leaderboard.csv`: a row for each standing, best first."""
    table = leaderboard_columns(places, objective)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def write_points(file: Path, rows: Sequence[TrialRow]) -> None:
    """`points.csv`: a row for each run, with every metric."""
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
