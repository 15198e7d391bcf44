"""What is known about a data set before it is read: sizes of splits, `dataset.path`. Imports nothing slow."""

import os
from dataclasses import dataclass
from math import floor
from pathlib import Path

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.errors import UserError, similar_path


@dataclass(frozen=True)
class DatasetInfo:
    """Numbers of a data set; None: unknown before the data are read."""

    height: int | None = None  # pixels
    width: int | None = None  # pixels
    channels: int | None = None
    classes: int | None = None
    train: int | None = None  # training images, after the limit and the validation split


def test_split_size(images: int, config: DatasetConfig) -> int:
    """Return how many of `images` are kept for the test, if the source has no test part or there are folds."""
    if config.folds is not None:
        if not 2 <= config.folds <= images:
            raise UserError(f"dataset.folds: expected 2 to {images}, the number of images, received {config.folds}")
        return len(range(config.fold, images, config.folds))
    return _held_out(images, config.test_fraction, "test_fraction")


def train_split_sizes(images: int, config: DatasetConfig) -> tuple[int, int]:
    """Return (training, validation) sizes of `images` that are not for the test.

    `train_limit` is applied first: a limit of 10,000 with a validation fraction of 0.2 gives 8,000 and 2,000.
    """
    if config.train_limit is not None and config.train_limit < 1:
        raise UserError(f"dataset.train_limit: expected at least one image, received {config.train_limit}")
    available = images if config.train_limit is None else min(images, config.train_limit)
    if config.validation_fraction == 0:
        return available, 0
    validation = _held_out(available, config.validation_fraction, "validation_fraction")
    return available - validation, validation


def _held_out(images: int, fraction: float, key: str) -> int:
    if not 0 < fraction < 1:
        raise UserError(f"dataset.{key}: expected a fraction between 0 and 1, received {fraction:g}")
    held_out = floor(images * fraction + 0.5)
    if not 0 < held_out < images:
        raise UserError(
            f"dataset.{key}={fraction:g}: expected at least one image on either side of the split, "
            f"received {held_out} of {images} images held out; change the fraction or give more images"
        )
    return held_out


def official_info(config: DatasetConfig, shape: tuple[int, int, int], classes: int, official_train: int) -> DatasetInfo:
    """Return the info of a data set that has a test part of its own.

    Files on disk may hold fewer images than the official ones: with `dataset.path`, the number of training images is
    unknown.

    Args:
        config: The dataset section.
        shape: (height, width, channels) of its images.
        classes: Number of classes.
        official_train: Number of official training images.

    Raises:
        UserError: A split would be empty.
    """
    held_out = test_split_size(official_train, config) if config.folds else 0
    train = None if config.path else train_split_sizes(official_train - held_out, config)[0]
    return DatasetInfo(*shape, classes, train)


def required_path(config: DatasetConfig) -> Path:
    """Return `dataset.path` with `~` expanded.

    Raises:
        UserError: It is not given, or nothing readable is there.
    """
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
