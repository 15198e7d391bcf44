"""Images and labels: where they come from, how they are split, in what order they are seen.

`check` and `facts` need nothing but the standard library and answer in milliseconds;
everything else is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tnt_exp.data.checks import check
from tnt_exp.data.known import Facts, facts

if TYPE_CHECKING:
    from tnt_exp.data.batches import Batches, epoch_order, padded
    from tnt_exp.data.dataset import Dataset, Split
    from tnt_exp.data.loading import load

__all__ = ["Batches", "Dataset", "Facts", "Split", "check", "epoch_order", "facts", "load", "padded"]

_HOMES = {
    "Batches": "batches",
    "epoch_order": "batches",
    "padded": "batches",
    "Dataset": "dataset",
    "Split": "dataset",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
