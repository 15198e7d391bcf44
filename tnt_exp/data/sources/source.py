"""The interface of a data set, and the download of published ones by Keras."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data.dataset import RawDataset, make_split
from tnt_exp.data.metadata import DatasetInfo
from tnt_exp.errors import UserError


class DatasetSource(ABC):
    """A data set: what is known about it, what can be wrong with it, and how it is read.

    Attributes:
        own_keys: Those keys of the dataset section that only some sources use and this one does.
    """

    own_keys: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def info(self, config: DatasetConfig) -> DatasetInfo:
        """Return what is known before anything is read.

        Raises:
            UserError: A split would be empty.
        """

    @abstractmethod
    def validate(self, config: DatasetConfig) -> None:
        """Check the section, and the files that it names, in milliseconds and without reading images.

        Raises:
            UserError: The data set cannot be read.
        """

    @abstractmethod
    def read(self, config: DatasetConfig) -> RawDataset:
        """Read the data set, or list its files.

        Returns:
            images uint8 (images, height, width, channels) with labels from 0, and class names.

        Raises:
            UserError: Data are missing, damaged, mislabelled or of another form.
        """


def download(name: str, class_names: tuple[str, ...]) -> RawDataset:
    """Download a data set through `keras.datasets`, or read it from the cache of Keras.

    Args:
        name: As in `keras.datasets`.
        class_names: Names of its classes.

    Raises:
        UserError: It could not be downloaded.
    """
    import keras

    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception for a failed download
        reason = " ".join(str(error).split())
        raise UserError(
            f"dataset={name}: expected Keras to download it, received: {reason}; "
            f"fetch the official files in another way and give dataset.path=, or use dataset=digits"
        ) from error

    def images(array: np.ndarray) -> np.ndarray:
        return array if array.ndim == 4 else array[..., None]

    where = f"keras.datasets.{name}"
    return RawDataset(
        train=make_split(images(x_train), y_train.reshape(-1), len(class_names), where),
        test=make_split(images(x_test), y_test.reshape(-1), len(class_names), where),
        class_names=class_names,
    )
