"""How far a running job is, read from its folder."""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        epoch: Epochs done.
        rows: Rows of `metrics.csv`, one an epoch.
    """

    epoch: int
    rows: list[dict[str, str]]

    def value(self, metric: str) -> float | None:
        """The metric after the last epoch; None where there is none."""
        return number(self.rows[-1].get(metric)) if self.rows else None


def read(folder: Path) -> Progress:
    """Read `metrics.csv`; a line that is being written is left out."""
    try:
        text = (folder / "metrics.csv").read_text()
    except FileNotFoundError:
        return Progress(0, [])
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(whole.splitlines()))
    return Progress(int(float(rows[-1]["epoch"])) if rows else 0, rows)


def number(text: str | None) -> float | None:
    """A number of a CSV cell, or None."""
    return float(text) if text else None
