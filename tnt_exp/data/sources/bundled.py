"""Scikit-learn's bundled handwritten digits (UCI, E. Alpaydin and C. Kaynak, 1998): no download."""

import importlib.util
from pathlib import Path

import numpy as np

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data.dataset import RawDataset, Split
from tnt_exp.data.sources.source import DatasetInfo, DatasetSource
from tnt_exp.data.splits import test_split_size, train_split_sizes
from tnt_exp.errors import UserError

_IMAGES = 1797  # training and test together


class DigitsSource(DatasetSource):
    """1,797 images of 8x8 grey pixels in ten classes, without a test part of their own."""

    def info(self, config: DatasetConfig) -> DatasetInfo:
        """See `DatasetSource`."""
        train, _ = train_split_sizes(_IMAGES - test_split_size(_IMAGES, config), config)
        return DatasetInfo(8, 8, 1, 10, train)

    def validate(self, config: DatasetConfig) -> None:
        """See `DatasetSource`."""
        if config.path is not None:
            raise UserError(
                f"dataset.path={config.path}: expected none with dataset=digits, whose images come with the program; "
                "leave it out or choose another dataset"
            )

    def read(self, config: DatasetConfig) -> RawDataset:
        """Return uint8 (1797, 8, 8, 1): grey levels 0..16 scaled to 0..255."""
        rows = np.loadtxt(_digits_file(), delimiter=",", dtype=np.uint16)
        levels, labels = rows[:, :-1].reshape(-1, 8, 8, 1), rows[:, -1]
        images = ((levels * 255 + 8) // 16).astype(np.uint8)  # rounds to the nearest
        return RawDataset(Split(images, labels.astype(np.int32)), None, class_names=tuple("0123456789"))


def _digits_file() -> Path:
    """Return the file of `sklearn.datasets.load_digits`, found without the slow import of scikit-learn."""
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("dataset=digits: expected scikit-learn, whose images these are; install it.")
    return Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"


SOURCES = {"digits": DigitsSource()}
