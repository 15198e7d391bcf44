"""What tests of data sets share."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from data import official_files

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data import Dataset, load_dataset
from tnt_exp.errors import UserError


@pytest.fixture(scope="session")
def official() -> ModuleType:
    return official_files


def assert_valid(dataset: Dataset) -> None:
    """Everything that a `Dataset` promises."""
    splits = [dataset.train, dataset.test, *([dataset.validation] if dataset.validation else [])]
    for split in splits:
        assert split.images.dtype == np.uint8
        assert split.images.shape == (len(split), *dataset.image_shape)
        assert split.images.flags.c_contiguous
        assert split.labels.dtype == np.int32
        assert split.labels.shape == (len(split),)
        assert len(split) > 0
        assert split.labels.min() >= 0
        assert split.labels.max() < dataset.num_classes
    assert dataset.channels in (1, 3)
    assert all(isinstance(name, str) for name in dataset.class_names)
    assert len(dataset.digest) == 16


@pytest.fixture(scope="session")
def loads_or_is_refused() -> Callable[[DatasetConfig], None]:
    """Load: a valid data set, or one line of UserError that names the path, and nothing else."""

    def check(config: DatasetConfig) -> None:
        try:
            dataset = load_dataset(config)
        except UserError as error:
            message = str(error)
        else:
            return assert_valid(dataset)
        assert str(config.path) in message
        assert "\n" not in message
        return None

    return check
