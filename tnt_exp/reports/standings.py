"""Runs of a sweep in the order of their objective; runs that differ in the seed only count as one."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

SEED = "seed"


@dataclass(frozen=True)
class Row:
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
class Standing:
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
    rows: list[Row]

    @property
    def best(self) -> Row:
        """The run that stands for it: the first that finished."""
        return next((row for row in self.rows if row.state == "finished"), self.rows[0])


def standings(rows: Sequence[Row], *, maximize: bool) -> list[Standing]:
    """Best first; those without an objective last, in the order of their numbers."""
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
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
        found.append(Standing(None, dict(params), mean, std, members))

    def order(standing: Standing) -> tuple[bool, float]:
        if standing.mean is None:
            return True, float(standing.rows[0].job)
        return False, -standing.mean if maximize else standing.mean

    found.sort(key=order)
    return [
        Standing(rank if item.mean is not None else None, item.params, item.mean, item.std, item.rows)
        for rank, item in enumerate(found, 1)
    ]
