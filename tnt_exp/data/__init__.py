"""Images and labels: where they come from, how they are split, in what order they are seen."""

from tnt_exp.data.batches import Batches, epoch_order, padded_batches
from tnt_exp.data.dataset import Dataset, Split, dataset_digest
from tnt_exp.data.load import dataset_info, load_dataset, load_test_split, validate
from tnt_exp.data.sources.source import DatasetInfo

__all__ = [
    "Batches",
    "Dataset",
    "DatasetInfo",
    "Split",
    "dataset_digest",
    "dataset_info",
    "epoch_order",
    "load_dataset",
    "load_test_split",
    "padded_batches",
    "validate",
]
