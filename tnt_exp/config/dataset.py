"""Which images, and how they are split."""

from dataclasses import dataclass
from enum import Enum

from tnt_exp.config.field import config_field


class Source(Enum):
    """Where images come from."""

    digits = "digits"  # scikit-learn's bundled 8x8 handwritten digits
    cifar10 = "cifar10"
    cifar100 = "cifar100"
    mnist = "mnist"
    fashion_mnist = "fashion_mnist"
    image_folder = "image_folder"
    npz = "npz"


class OnError(Enum):
    """What an unreadable image does."""

    stop = "stop"
    skip = "skip"


@dataclass
class DatasetConfig:
    """Images uint8 (height, width, channels) and their class numbers."""

    name: Source = config_field(Source.digits, "where images come from")
    path: str | None = config_field(None, "archive, folder or file on disk; null: bundled, or downloaded by Keras")
    image_size: int | None = config_field(
        None, "image_folder: side to which images are cropped and resized, pixels", ge=1
    )
    channels: int = config_field(3, "image_folder: 1 (grey) or 3 (RGB)", ge=1, le=3)
    validation_fraction: float = config_field(
        0.1, "fraction of the training images kept to choose the epoch", ge=0, lt=1
    )
    test_fraction: float = config_field(
        0.2, "digits, image_folder, npz without a test part: fraction kept for the test", gt=0, lt=1
    )
    folds: int | None = config_field(
        None, "cross-validation: the test images are one of so many folds of the training images; null: no folds", ge=2
    )
    fold: int = config_field(0, "which of dataset.folds is the test, from 0", ge=0)
    split_seed: int = config_field(0, "seed of the splits, apart from the training seed", ge=0)
    train_limit: int | None = config_field(None, "use only this many training images (stratified); null: all", ge=1)
    memory_limit: float = config_field(
        4.0, "image_folder: a split that needs more is decoded ahead of each step instead of held in memory, GiB", ge=0
    )
    on_error: OnError = config_field(
        OnError.stop, "image_folder: an unreadable image stops the run or is skipped and counted"
    )
