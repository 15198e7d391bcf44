"""The leaderboard of a sweep: runs ranked by their objective; runs that differ in seed or fold only are one point."""

import csv
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tnt_exp.atomic_files import atomic_write
from tnt_exp.formatting import as_number, format_params, format_wrong

FOLD = "dataset.fold"
REPEATED = ("seed", FOLD)  # runs that differ in nothing else are repetitions of one point
TEST = "test/accuracy"
TEST_METRICS = (TEST, "test/balanced_accuracy", "test/macro_f1")
_NAMED = 4  # of points that are tied
MOST_VALUES = 8  # a key with more values is a range, not a choice; it has no main effects


@dataclass(frozen=True)
class TrialRow:
    """One run of a sweep."""

    job: int  # its number
    params: dict[str, str]  # swept keys and their values
    state: str  # `finished`, `failed`, `pruned` or `waiting`
    objective: float | None = None  # the value that is compared
    metrics: dict[str, float] = field(default_factory=dict)  # of the kept epoch and of the test
    facts: dict[str, float] = field(default_factory=dict)  # `parameters`, `macs`, `..._seconds`, as far as known
    error: str | None = None  # why it failed
    command: str = ""  # runs it alone
    place: str = ""  # its run folder
    log: str = ""  # the last lines of its output, if it failed
    run_id: str | None = None  # in MLflow

    @property
    def label(self) -> str:
        """The swept values, `model.embed_dim=48 model.depth=4`."""
        return format_params(self.params)


@dataclass(frozen=True)
class RankedPoint:
    """Runs that differ in the seed or the fold only."""

    rank: int | None  # from 1, equal for equal means; None: no run has an objective
    params: dict[str, str]  # swept keys without seed and fold
    mean: float | None  # of the objective over the runs that finished
    std: float | None  # sample standard deviation; None for fewer than two runs
    rows: list[TrialRow]

    @property
    def label(self) -> str:
        """The swept values, or the number of the only run."""
        return format_params(self.params) or f"job {self.rows[0].job}"

    @property
    def finished(self) -> list[TrialRow]:
        """The runs that finished."""
        return [row for row in self.rows if row.state == "finished"]

    @property
    def count(self) -> int:
        """The number of runs whose objective the mean is of."""
        return len(_finite(row.objective for row in self.finished))

    @property
    def is_complete(self) -> bool:
        """True if all its runs have an objective."""
        return all(row.state == "finished" and row.objective is not None for row in self.rows)

    @property
    def best(self) -> TrialRow:
        """The run that represents the point: the first one that finished."""
        return next(iter(self.finished), self.rows[0])

    def mean_of(self, metric: str) -> float | None:
        """Return the mean of a metric over the runs that finished, or None."""
        return _mean(_finite(row.metrics.get(metric) for row in self.finished))

    def std_of(self, metric: str) -> float | None:
        """Return the sample standard deviation of a metric over the runs that finished; None for fewer than two."""
        return _std(_finite(row.metrics.get(metric) for row in self.finished))


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _std(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def rank_points(rows: Sequence[TrialRow], *, maximize: bool) -> list[RankedPoint]:
    """Return the points, best first; below them those of which some runs have no objective, and those without one."""
    groups: dict[tuple[tuple[str, str], ...], list[TrialRow]] = {}
    for row in rows:
        point = tuple((key, value) for key, value in row.params.items() if key not in REPEATED)
        groups.setdefault(point, []).append(row)
    found = []
    for params, members in groups.items():
        values = _finite(row.objective for row in members if row.state == "finished")
        found.append(RankedPoint(None, dict(params), _mean(values), _std(values), members))

    def order(point: RankedPoint) -> tuple[int, float]:
        if point.mean is None:
            return 2, float(point.rows[0].job)
        return 0 if point.is_complete else 1, -point.mean if maximize else point.mean

    found.sort(key=order)
    ranking: list[RankedPoint] = []
    for place, item in enumerate(found, 1):
        above = ranking[-1] if ranking else None
        equal = above and order(above)[0] == order(item)[0] and _is_equal(above.mean, item.mean)
        rank = above.rank if above and equal else place
        ranking.append(replace(item, rank=rank) if item.mean is not None else item)
    return ranking


def _is_equal(value: float | None, other: float | None) -> bool:
    return value is not None and other is not None and math.isclose(value, other, rel_tol=1e-9, abs_tol=1e-12)


def kept_name(metric: str) -> str:
    """Return the name in MLflow of a metric of the kept epoch: there, `val/accuracy` is that of the last epoch."""
    return f"best/{metric}" if metric.startswith(("train/", "val/")) else metric


def verdict(ranking: Sequence[RankedPoint], objective: str, images: int | None) -> list[str]:
    """Return in sentences which trial is the best, by how much, and whether that is more than chance.

    `images` is how many images an accuracy was measured on; None: the objective is not an accuracy, or that is unknown.
    """
    best, others = ([p for p in ranking if p.rank and (p.rank == 1) == first] for first in (True, False))
    if not best:
        return [f"No trial has finished with {objective}."]
    mean, tests = best[0].mean or 0.0, [point.mean_of(TEST) for point in best[:_NAMED]]
    count = max(point.count for point in best)
    remarks = [f"mean of {count} runs"] if count > 1 else []
    remarks += [format_wrong(mean, images)] if images else []
    remark = f" ({', '.join(remarks)})" if remarks else ""
    tested = f", {TEST} " + ", ".join("-" if test is None else f"{test:.4f}" for test in tests)
    tested = tested if objective != TEST and any(test is not None for test in tests) else ""
    names = ", ".join(point.label for point in best[:_NAMED]) + (", ..." if len(best) > _NAMED else "")
    begin = f"{len(best)} are tied as the best" if len(best) > 1 else "Best"
    lines = [f"{begin}: {names}: {kept_name(objective)} {mean:.4f}{remark}{tested}."]
    if others := [point for point in others if point.is_complete or not best[0].is_complete]:
        lines.append(_lead(best[0], others, images, "They lead" if len(best) > 1 else "It leads"))
    return lines


def _lead(best: RankedPoint, others: Sequence[RankedPoint], images: int | None, begin: str) -> str:
    """Return by how much a point leads, and what that means beside the standard error of the difference."""
    lead = abs((best.mean or 0.0) - (others[0].mean or 0.0))
    count = f", {lead * images:.3g} of {images:,} images" if images else ""
    count += ": less than one image" if images and lead * images < 0.999 else ""
    begin = f"{begin} {others[0].label} by {lead:.4f}{count}."
    errors = [_standard_error(best, other, images) for other in others]
    if errors[0] is None:
        return f"{begin} Whether that is more than chance is known with several seeds (seed=0,1,2)."
    seeds = best.std is not None and others[0].std is not None
    of = f"over {best.count} runs" if seeds else f"on {images:,} images"
    if lead > 2 * errors[0]:
        return f"{begin} That is more than two standard errors {of} ({2 * errors[0]:.4f}): unlikely to be chance."
    within = sum(
        error is not None and abs((best.mean or 0.0) - (other.mean or 0.0)) <= 2 * error
        for other, error in zip(others, errors, strict=True)
    )
    advice = "more seeds" if best.std is not None else "several seeds (seed=0,1,2)"
    return (
        f"{begin} That may be chance: two standard errors {of} are {2 * errors[0]:.4f}, and {within} of the "
        f"{len(others)} ranked below are that near. Repeat the best ones with {advice} to know."
    )


def _standard_error(point: RankedPoint, other: RankedPoint, images: int | None) -> float | None:
    """Return the standard error of the difference of two means: between seeds, or of an accuracy on so many images."""
    if point.std is not None and other.std is not None:
        return math.sqrt(point.std**2 / point.count + other.std**2 / other.count)
    means = [found.mean for found in (point, other) if found.mean is not None]
    return math.sqrt(sum(abs(mean * (1 - mean)) / images for mean in means)) if images else None


def leaderboard_columns(ranking: Sequence[RankedPoint], objective: str) -> dict[str, list[Any]]:
    """Return the leaderboard as columns of equal length, in the order of the ranking."""
    table: dict[str, list[Any]] = {"rank": [point.rank for point in ranking]}
    for key in dict.fromkeys(key for point in ranking for key in point.params):
        table[key] = [point.params.get(key, "") for point in ranking]
    table[kept_name(objective)] = [point.mean for point in ranking]
    if any(len(point.rows) > 1 for point in ranking):
        table["std"] = [point.std for point in ranking]
        table["runs"] = [len(point.finished) for point in ranking]
    for name in TEST_METRICS:
        if name != objective and any(name in row.metrics for point in ranking for row in point.rows):
            table[name] = [point.mean_of(name) for point in ranking]
    facts = {name: [point.best.facts.get(name) for point in ranking] for name in ("parameters", "macs")}
    seconds = (_finite(row.facts.get("train_seconds") for row in point.finished) for point in ranking)
    table |= {**facts, "train_seconds": [*map(_mean, seconds)]} | table  # an objective keeps its own column
    table["state"] = [point.best.state for point in ranking]
    table["jobs"] = [" ".join(str(row.job) for row in point.rows) for point in ranking]
    return table


def write_leaderboard(folder: Path, ranking: Sequence[RankedPoint], objective: str) -> None:
    """Write `leaderboard.csv`, one row per point, best first, and `leaderboard.json`, which MLflow shows as a table."""
    table = leaderboard_columns(ranking, objective)
    rows = list(zip(*table.values(), strict=True))
    _write_csv(folder / "leaderboard.csv", table, rows)
    atomic_write(folder / "leaderboard.json", json.dumps({"columns": list(table), "data": rows}))


def write_points(file: Path, rows: Sequence[TrialRow]) -> None:
    """Write `points.csv`: one row per run, with every metric."""
    params = list(dict.fromkeys(key for row in rows for key in row.params))
    metrics = list(dict.fromkeys(key for row in rows for key in row.metrics))
    facts = list(dict.fromkeys(key for row in rows for key in row.facts))
    header = ["job", *params, "state", *metrics, *facts, "error", "folder", "mlflow_run_id", "command"]
    records = [
        {"job": row.job, **row.params, "state": row.state, **row.metrics, **row.facts, "error": row.error}
        | {"folder": row.place, "mlflow_run_id": row.run_id, "command": row.command}
        for row in rows
    ]
    _write_csv(file, header, ([record.get(name) for name in header] for record in records))


def _write_csv(file: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a table; None is an empty cell."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


@dataclass(frozen=True)
class MainEffect:
    """A value of a swept key compared with the first value of that key."""

    key: str
    value: str
    points: int  # how many have this value
    difference: float  # of the objective from that of the first value; 0 for the first value
    error: float  # standard error of the difference; 0 for the first value


def main_effects(ranking: Sequence[RankedPoint]) -> list[MainEffect]:
    """Estimate the main effect of each value, keys with the largest differences first.

    Least squares over the means of the points, with one term per value: exact if keys do not interact. Keys with one
    value, or with more than MOST_VALUES, are left out. There are no effects if the points are too few, or too similar,
    to separate the values.
    """
    means = [(point.params, point.mean) for point in ranking if point.mean is not None]
    values: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for params, _ in means for key in params):
        if all(key in params for params, _ in means):
            # In the order of the space, as far as it can be known: numbers by size, names by the alphabet.
            values[key] = sorted({params[key] for params, _ in means}, key=_order)
    values = {key: found for key, found in values.items() if 1 < len(found) <= MOST_VALUES}
    columns = [(key, value) for key, found in values.items() for value in found[1:]]
    design = np.array([[1.0, *(float(params[key] == value) for key, value in columns)] for params, _ in means])
    spare = len(means) - len(columns) - 1
    if not columns or spare < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        return []
    target = np.array([mean for _, mean in means])
    solution = np.linalg.lstsq(design, target)[0]
    variance = float(np.sum((target - design @ solution) ** 2)) / spare
    errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    estimates = {column: (float(solution[i]), float(errors[i])) for i, column in enumerate(columns, 1)}
    found_effects = []

    def span(key: str) -> float:
        differences = [0.0, *(estimates[key, value][0] for value in values[key][1:])]
        return max(differences) - min(differences)

    for key in sorted(values, key=span, reverse=True):
        for value in values[key]:
            points = sum(params[key] == value for params, _ in means)
            found_effects.append(MainEffect(key, value, points, *estimates.get((key, value), (0.0, 0.0))))
    return found_effects


def param_importances(ranking: Sequence[RankedPoint], found: Sequence[MainEffect]) -> dict[str, float]:
    """Return what fraction of the variance between the points the main effects of each key explain, largest first.

    What is left to 1 is the interaction of keys, and chance.
    """
    points = [point for point in ranking if point.mean is not None]
    total = float(np.var([point.mean or 0.0 for point in points])) if points else 0.0
    effects = {(item.key, item.value): item.difference for item in found}
    shares = {
        key: float(np.var([effects[key, point.params[key]] for point in points])) / total
        for key in dict.fromkeys(item.key for item in found if total)
    }
    return dict(sorted(shares.items(), key=lambda share: -share[1]))


def write_main_effects(file: Path, found: Sequence[MainEffect]) -> None:
    """Write `effects.csv`: one row per value."""
    _write_csv(file, ["key", "value", "points", "difference", "standard_error"], map(astuple, found))


def _order(value: str) -> tuple[int, float, str]:
    number = as_number(value)
    if number is None:
        return (0 if value in ("null", "none", "false") else 2, 0.0, value)
    return (1, number, "")
