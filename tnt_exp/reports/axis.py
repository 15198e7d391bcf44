"""Axes of pictures: from values to positions and ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


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


def as_number(value: str | float) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


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
