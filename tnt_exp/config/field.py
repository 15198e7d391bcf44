"""How a field of the schema carries its documentation and its bounds."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any


def config_field(
    default: Any,
    doc: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> Any:
    """A dataclass field with a default, a line of documentation and optional bounds.

    Args:
        default: The default; a list is copied for each instance.
        doc: One line, with the unit where there is one.
        above, below: Exclusive bounds of a number (or of each number of a list).
        least, most: Inclusive bounds.
    """
    bounds = {"above": above, "least": least, "below": below, "most": most}
    metadata = {"doc": doc, "bounds": {k: v for k, v in bounds.items() if v is not None}}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


_COMPARE: dict[str, tuple[str, Callable[[Any, float], bool]]] = {
    "above": (">", lambda value, bound: value > bound),
    "least": (">=", lambda value, bound: value >= bound),
    "below": ("<", lambda value, bound: value < bound),
    "most": ("<=", lambda value, bound: value <= bound),
}


def out_of_bounds(section: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (key, expectation, value) for each value outside its bounds, in a dataclass instance and those within."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from out_of_bounds(value, f"{prefix}{field.name}.")
        bounds = field.metadata.get("bounds", {})
        numbers = value if isinstance(value, list) else [value]
        for kind, bound in bounds.items():
            sign, holds = _COMPARE[kind]
            # `not holds` rather than the opposite comparison: NaN satisfies no bound.
            if any(number is not None and not holds(number, bound) for number in numbers):
                yield prefix + field.name, f"{sign} {bound:g}", value
