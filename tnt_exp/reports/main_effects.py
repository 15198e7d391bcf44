"""The main effect of each value of a swept key, all else being equal."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tnt_exp.formatting import as_number
from tnt_exp.reports.leaderboard import RankedPoint

MOST_VALUES = 8  # more of them are a range, not a choice


@dataclass(frozen=True)
class MainEffect:
    """A value of a swept key compared with the first value of that key.

    Attributes:
        key: The swept key.
        value: One of its values.
        points: How many points have this value.
        difference: Of the objective from that of the first value; 0 for the first value.
        error: Standard error of the difference; 0 for the first value.
    """

    key: str
    value: str
    points: int
    difference: float
    error: float


def main_effects(ranking: Sequence[RankedPoint]) -> list[MainEffect]:
    """Estimate the main effect of each value, keys with the largest differences first.

    Least squares over the means of the points, with one term per value: exact if keys do not interact. Keys with one
    value, or with more than MOST_VALUES, are left out.

    Args:
        ranking: Points; runs that differ in the seed only count as one.

    Returns:
        Nothing if the points are too few, or too similar, to separate the values.
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
    for key in sorted(values, key=lambda key: -_span([0.0, *(estimates[key, value][0] for value in values[key][1:])])):
        for value in values[key]:
            points = sum(params[key] == value for params, _ in means)
            found_effects.append(MainEffect(key, value, points, *estimates.get((key, value), (0.0, 0.0))))
    return found_effects


def write_main_effects(file: Path, found: Sequence[MainEffect]) -> None:
    """Write `effects.csv`: one row per value."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["key", "value", "points", "difference", "standard_error"])
        writer.writerows([item.key, item.value, item.points, item.difference, item.error] for item in found)


def _order(value: str) -> tuple[int, float, str]:
    number = as_number(value)
    if number is None:
        return (0 if value in ("null", "none", "false") else 2, 0.0, value)
    return (1, number, "")


def _span(numbers: Sequence[float]) -> float:
    return max(numbers) - min(numbers)
