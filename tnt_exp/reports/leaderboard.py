"""The leaderboard of a sweep as CSV files and as columns."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tnt_exp.reports.standings import Row, Standing


def columns(places: Sequence[Standing], objective: str) -> dict[str, list[Any]]:
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


def write_leaderboard(file: Path, places: Sequence[Standing], objective: str) -> None:
    """`leaderboard.csv`: a row for each standing, best first."""
    table = columns(places, objective)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def write_points(file: Path, rows: Sequence[Row]) -> None:
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
