"""Fields of the schema, with their documentation and bounds."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any


def config_field(
    default: Any,
    doc: str,
    *,
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> Any:
    """Return a dataclass field with a default, a line of documentation and optional bounds.

    Args:
        default: The default; a list is copied for each instance.
        doc: One line, with the unit if there is one.
        gt, lt: Exclusive bounds of a number (or of each number of a list).
        ge, le: Inclusive bounds.
    """
    bounds = {"gt": gt, "ge": ge, "lt": lt, "le": le}
    metadata = {"doc": doc, "bounds": {k: v for k, v in bounds.items() if v is not None}}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


_COMPARE: dict[str, tuple[str, Callable[[Any, float], bool]]] = {
    "gt": (">", lambda value, bound: value > bound),
    "ge": (">=", lambda value, bound: value >= bound),
    "lt": ("<", lambda value, bound: value < bound),
    "le": ("<=", lambda value, bound: value <= bound),
}


def out_of_bounds(section: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (key, expectation, value) for each value outside its bounds, in a dataclass and those in it."""
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
