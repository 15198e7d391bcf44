"""The interface of a data set."""

from abc import ABC, abstractmethod
from typing import ClassVar

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data.dataset import RawDataset
from tnt_exp.data.metadata import DatasetInfo


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
