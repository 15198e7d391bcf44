"""Axes of pictures: from values to positions and ticks."""

# MERGED DOCS:
# """Pictures of a sweep as SVG text: small, sharp at every size, and without a library to load."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tnt_exp.formatting import as_number
from tnt_exp.reports.leaderboard import TrialRow
from tnt_exp.reports.main_effects import MainEffect


@dataclass(frozen=True)
class Axis:
    """Where values are on an axis of length 1.

    Attributes:
        ticks: (position, label).
        categories: Text values in order; empty for numbers.
        low, high: Range of numbers, their logarithms on a logarithmic axis.
        log: Whether it is logarithmic.
    """

    ticks: list[tuple[float, str]]
    categories: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    def position(self, value: str | float) -> float | None:
        """In [0, 1]; None for a value that is not on the axis."""
        if self.categories:
            text = str(value)
            return _place(self.categories.index(text), len(self.categories)) if text in self.categories else None
        number = as_number(value)
        if number is None or (self.log and number <= 0):
            return None
        number = math.log10(number) if self.log else number
        return 0.5 if self.high == self.low else (number - self.low) / (self.high - self.low)


def axis(values: Sequence[str | float], *, may_be_log: bool = True) -> Axis:
    """An axis for values: of numbers where all are.

    Args:
        values: What must have a place.
        may_be_log: Whether it is logarithmic where the values span nearly two decades.
    """
    numbers = [as_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if not known or len(known) < len(numbers):
        names = tuple(dict.fromkeys(str(value) for value in values))
        return Axis([(_place(index, len(names)), name) for index, name in enumerate(names)], names)
    low, high = min(known), max(known)
    log = may_be_log and low > 0 and high / low >= 50
    distinct = sorted(set(known))
    found = Axis([], (), math.log10(low) if log else low, math.log10(high) if log else high, log)
    shown = distinct if len(distinct) <= 6 else _round_numbers(low, high, log)
    ticks = [(place, f"{value:.4g}") for value in shown if (place := found.position(value)) is not None]
    return Axis(ticks, (), found.low, found.high, log)


def _place(index: int, count: int) -> float:
    return 0.5 if count == 1 else index / (count - 1)


def _round_numbers(low: float, high: float, log: bool) -> list[float]:
    if log:
        decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        inner = [10.0**decade for decade in decades]
        return inner if len(inner) > 1 else [low, high]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


# From the worst to the best: pale, blue, red.
_SCALE = ((203, 213, 225), (122, 166, 194), (42, 111, 151), (200, 55, 70))

_LINES = ("#3b6ea8", "#d1662b", "#3f8f5b", "#a23b72", "#7a6a53", "#5c5fb0", "#b5892f", "#4b9aa8", "#8c4a3c", "#666666")

_STYLE = (
    "<style>text{font:11px system-ui,sans-serif;fill:#333}.name{font-weight:600}.grid{stroke:#ddd}"
    ".axis{stroke:#888}.run{fill:none;stroke-width:1.6;opacity:.7}.run:hover{stroke:#e0115f;stroke-width:4;opacity:1}"
    ".dot:hover{stroke:#e0115f;stroke-width:3}</style>"
)


def colour(part: float) -> str:
    """A colour for a value in [0, 1]."""
    place = min(max(part, 0.0), 1.0) * (len(_SCALE) - 1)
    index = min(int(place), len(_SCALE) - 2)
    mixed = (round(a + (b - a) * (place - index)) for a, b in zip(_SCALE[index], _SCALE[index + 1], strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def parallel_coordinates(rows: Sequence[TrialRow], objective: str, *, maximize: bool) -> str:
    """Parallel coordinates: an axis for each swept key, the objective last, a line for each run that has one.

    Args:
        rows: Runs.
        objective: The objective's name.
        maximize: Whether more is better.
    """
    shown = sorted((row for row in rows if row.objective is not None), key=lambda row: row.objective or 0.0)
    if not maximize:
        shown.reverse()  # the best are drawn last, on top
    keys = list(dict.fromkeys(key for row in shown for key in row.params))
    axes = {key: axis([row.params[key] for row in shown if key in row.params]) for key in keys}
    last = axis([row.objective for row in shown if row.objective is not None], may_be_log=False)
    width, height, top, side = max(1080, 150 * (len(keys) + 1)), 380, 46, 60
    step = (width - 2 * side) / max(1, len(keys))
    parts = []
    for rank, row in enumerate(shown):  # by rank, so that one bad run does not paint all others alike
        places = [axes[key].position(row.params[key]) if key in row.params else None for key in keys]
        places.append(last.position(row.objective or 0.0))
        points = [
            f"{side + step * column:.1f},{top + (1 - place) * (height - top - 24):.1f}"
            for column, place in enumerate(places)
            if place is not None
        ]
        stroke = colour(rank / max(1, len(shown) - 1))
        line = f'<polyline class="run" points="{" ".join(points)}" stroke="{stroke}">'
        parts.append(f"{line}<title>{_told(row)}</title></polyline>")
    for column, (name, here) in enumerate([*axes.items(), (objective, last)]):
        x = side + step * column
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 24}"/>')
        anchor = "end" if column == len(keys) else "start" if column == 0 else "middle"
        at = x + (side - 4 if anchor == "end" else 4 - side if anchor == "start" else 0)
        raised = 16 if column % 2 == 0 else 32
        parts.append(f'<text class="name" x="{at:.1f}" y="{raised}" text-anchor="{anchor}">{escape(name)}</text>')
        for place, label in here.ticks:
            y = top + (1 - place) * (height - top - 24)
            parts.append(f'<text x="{x + 5:.1f}" y="{y + 4:.1f}">{escape(label)}</text>')
    return _svg(width, height, "Parallel coordinates", parts)


def objective_scatter(rows: Sequence[TrialRow], key: str, objective: str) -> str:
    """The objective against one swept key, a dot a run."""
    shown = [row for row in rows if row.objective is not None and key in row.params]
    x = axis([row.params[key] for row in shown])
    y = axis([row.objective for row in shown if row.objective is not None], may_be_log=False)
    parts = _frame(x, y, key, objective, 340, 250)
    for row in shown:
        across, up = x.position(row.params[key]), y.position(row.objective or 0.0)
        if across is not None and up is not None:
            left, down = _at(across, up, 340, 250)
            parts.append(
                f'<circle class="dot" cx="{left:.1f}" cy="{down:.1f}" r="4" fill="{_LINES[0]}" fill-opacity=".65">'
                f"<title>{_told(row)}</title></circle>"
            )
    return _svg(340, 250, f"{objective} against {key}", parts)


def best_curves(best: Mapping[str, Sequence[tuple[float, float]]], metric: str) -> str:
    """A metric over the epochs, a line a run.

    Args:
        best: Label of a run: its (epoch, value) pairs.
        metric: The metric's name.
    """
    known = [point for points in best.values() for point in points]
    x = axis([epoch for epoch, _ in known], may_be_log=False)
    y = axis([value for _, value in known], may_be_log=False)
    width, height = 1080, 360
    parts = _frame(x, y, "epoch", metric, width, height)
    for number, (label, points) in enumerate(best.items()):
        stroke = _LINES[number % len(_LINES)]
        placed = [_at(x.position(epoch) or 0.0, y.position(value) or 0.0, width, height) for epoch, value in points]
        line = " ".join(f"{left:.1f},{down:.1f}" for left, down in placed)
        title = f"<title>{escape(label)}</title>"
        if len(placed) == 1:
            parts.append(
                f'<circle cx="{placed[0][0]:.1f}" cy="{placed[0][1]:.1f}" r="4" fill="{stroke}">{title}</circle>'
            )
        else:
            parts.append(f'<polyline class="run" points="{line}" stroke="{stroke}">{title}</polyline>')
        down = height + 16 * (number + 1)
        parts.append(f'<line x1="60" x2="80" y1="{down - 4}" y2="{down - 4}" stroke="{stroke}" stroke-width="3"/>')
        parts.append(f'<text x="86" y="{down}">{escape(label)}</text>')
    return _svg(width, height + 16 * (len(best) + 1), f"{metric} of the best runs", parts)


def effects_chart(found: Sequence[MainEffect], objective: str) -> str:
    """Each value beside the first value of its key: the difference, and a standard error to either side.

    Args:
        found: The values' effects, those of a key together.
        objective: The objective's name.
    """
    ends = [item.difference + side * item.error for item in found for side in (-1, 1)]
    x = axis([*ends, 0.0], may_be_log=False)
    left, width, line = 340, 1080, 20
    height = line * len(found) + 56

    def across(value: float) -> float:
        return left + (x.position(value) or 0.0) * (width - left - 150)

    zero = across(0.0)
    parts = [f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="20" y2="{height - 34}"/>']
    key = ""
    for number, item in enumerate(found):
        y = 30 + line * number
        told = f"{item.difference:+.4f} ± {item.error:.4f}"
        if item.key != key:
            key, told = item.key, "compared with"
            parts.append(f'<line class="grid" x1="0" x2="{width}" y1="{y - 10}" y2="{y - 10}"/>')
            parts.append(f'<text class="name" x="4" y="{y + 4}">{escape(key)}</text>')
        parts.append(f'<text x="{left - 20}" y="{y + 4}" text-anchor="end">{escape(item.value)}</text>')
        at, low, high = (across(item.difference + side * item.error) for side in (0, -1, 1))
        parts.append(f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{_LINES[0]}" stroke-width="2"/>')
        parts.append(f'<circle class="dot" cx="{at:.1f}" cy="{y}" r="4" fill="{_LINES[0]}"/>')
        parts.append(f'<text x="{width - 4}" y="{y + 4}" text-anchor="end">{told}</text>')
    middle = f"{objective}: difference from the first value, all else being equal (standard error)"
    parts.append(f'<text x="{width / 2:.0f}" y="{height - 8}" text-anchor="middle">{escape(middle)}</text>')
    return _svg(width, height, "What each value is worth", parts)


def _frame(x: Axis, y: Axis, across: str, up: str, width: int, height: int) -> list[str]:
    parts = []
    for place, label in y.ticks:
        left, down = _at(0, place, width, height)
        right, _ = _at(1, place, width, height)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text x="{left - 8:.1f}" y="{down + 4:.1f}" text-anchor="end">{escape(label)}</text>')
    for place, label in x.ticks:
        left, down = _at(place, 0, width, height)
        parts.append(f'<text x="{left:.1f}" y="{down + 20:.1f}" text-anchor="middle">{escape(label)}</text>')
    parts.append(
        f'<text class="name" x="{width / 2:.0f}" y="{height - 4}" text-anchor="middle">{escape(across)}</text>'
    )
    parts.append(f'<text class="name" x="6" y="14">{escape(up)}</text>')
    return parts


def _at(across: float, up: float, width: int, height: int) -> tuple[float, float]:
    return 66 + across * (width - 92), 28 + (1 - up) * (height - 80)


def _told(row: TrialRow) -> str:
    params = ", ".join(f"{key}={value}" for key, value in row.params.items())
    value = as_number(row.objective) if row.objective is not None else None
    return escape(f"job {row.job}: {params}: {value:.6g}" if value is not None else f"job {row.job}: {params}")


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'role="img" aria-label="{escape(title)}">{_STYLE}{"".join(parts)}</svg>'
    )
