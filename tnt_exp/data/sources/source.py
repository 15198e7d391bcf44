"""The interface of a data set, what is known before it is read, and the download of published ones by Keras."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data.dataset import RawDataset, make_split
from tnt_exp.data.splits import test_split_size, train_split_sizes
from tnt_exp.errors import UserError, similar_path


@dataclass(frozen=True)
class DatasetInfo:
    """Numbers of a data set; None: unknown before the data are read."""

    height: int | None = None  # pixels
    width: int | None = None  # pixels
    channels: int | None = None
    classes: int | None = None
    train: int | None = None  # training images, after the limit and the validation split


class DatasetSource(ABC):
    """A data set: what is known about it, what can be wrong with it, and how it is read."""

    # Those keys of the section that only some sources use and this one does.
    own_keys: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def info(self, config: DatasetConfig) -> DatasetInfo:
        """Return what is known before anything is read, or raise `UserError`: a split would be empty."""

    @abstractmethod
    def validate(self, config: DatasetConfig) -> None:
        """Check the section and the files that it names, in milliseconds, or raise `UserError`; no image is read."""

    @abstractmethod
    def read(self, config: DatasetConfig) -> RawDataset:
        """Read the data set, or list its files: uint8 (images, height, width, channels), labels from 0, class names.

        Raises `UserError` if data are missing, damaged, mislabelled or of another form.
        """


def official_info(config: DatasetConfig, shape: tuple[int, int, int], classes: int, official_train: int) -> DatasetInfo:
    """Return the info of a data set that has a test part of its own; `shape` is (height, width, channels).

    Files on disk may hold fewer images than the official ones: with `dataset.path`, the number of training images is
    unknown. Raises `UserError` if a split would be empty.
    """
    held_out = test_split_size(official_train, config) if config.folds else 0
    train = None if config.path else train_split_sizes(official_train - held_out, config)[0]
    return DatasetInfo(*shape, classes, train)


def required_path(config: DatasetConfig) -> Path:
    """Return `dataset.path` with `~` expanded, or raise `UserError`: it is not given, or nothing readable is there."""
    if not config.path:
        raise UserError(
            f"dataset.path: expected a file or folder for dataset={config.name.value}, received none; give it"
        )
    path = Path(config.path).expanduser()
    if not path.exists():
        raise UserError(
            f"dataset.path={path}: expected a file or folder, received a path where nothing is."
            f"{similar_path(path) or ' Correct it.'}"
        )
    if not os.access(path, os.R_OK):
        raise UserError(
            f"dataset.path={path}: expected something you may read, received something you may not; see its permissions"
        )
    return path


def optional_path(config: DatasetConfig) -> Path | None:
    """Return `dataset.path` as `required_path` does, or None if it is null."""
    return None if config.path is None else required_path(config)


def download(name: str, class_names: tuple[str, ...]) -> RawDataset:
    """Download a data set of `keras.datasets`, or read it from Keras' cache; raises `UserError` if that fails."""
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
