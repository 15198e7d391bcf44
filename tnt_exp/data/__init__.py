"""Images and labels: where they come from, how they are split, in what order they are seen.

`validate` and `dataset_info` answer in milliseconds; everything else is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tnt_exp.data.metadata import DatasetInfo
from tnt_exp.data.validate import dataset_info, validate

if TYPE_CHECKING:
    from tnt_exp.data.batches import Batches, epoch_order, padded_batches
    from tnt_exp.data.dataset import Dataset, Split, dataset_digest
    from tnt_exp.data.load import load_dataset

__all__ = [
    "Batches",
    "Dataset",
    "DatasetInfo",
    "Split",
    "dataset_digest",
    "dataset_info",
    "epoch_order",
    "load_dataset",
    "padded_batches",
    "validate",
]

_MODULES = {
    "Batches": "batches",
    "epoch_order": "batches",
    "padded_batches": "batches",
    "Dataset": "dataset",
    "dataset_digest": "dataset",
    "Split": "dataset",
    "load_dataset": "load",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
