"""Fields of the schema, with their documentation and bounds."""

import copy
import dataclasses
from typing import Any


def config_field(default: Any, doc: str, **bounds: float) -> Any:
    """Return a dataclass field with a default, which is copied if it is a list or a dictionary.

    `doc` is one line, with the unit if there is one. Bounds of a number, or of each number of a list, are `gt` and `lt`
    (exclusive), `ge` and `le` (inclusive).
    """
    metadata = {"doc": doc, "bounds": bounds}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
