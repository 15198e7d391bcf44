"""How many images each part gets. Plain integers, so that it can be known before anything is read."""

from math import floor

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.config.errors import InputError


def test_size(images: int, config: DatasetConfig) -> int:
    """Images kept for the test out of `images` that come undivided."""
    return _held_out(images, config.test_fraction, "test_fraction")


def train_sizes(images: int, config: DatasetConfig) -> tuple[int, int]:
    """(training, validation) images out of `images` that are not for the test.

    `train_limit` is applied first: a limit of 10,000 with a validation fraction of 0.2 gives 8,000 and 2,000.
    """
    if config.train_limit is not None and config.train_limit < 1:
        raise InputError(f"dataset.train_limit: expected at least one image, received {config.train_limit}")
    available = images if config.train_limit is None else min(images, config.train_limit)
    if config.validation_fraction == 0:
        return available, 0
    validation = _held_out(available, config.validation_fraction, "validation_fraction")
    return available - validation, validation


def _held_out(images: int, fraction: float, key: str) -> int:
    if not 0 < fraction < 1:
        raise InputError(f"dataset.{key}: expected a fraction between 0 and 1, received {fraction:g}")
    held_out = floor(images * fraction + 0.5)
    if not 0 < held_out < images:
        raise InputError(
            f"dataset.{key}={fraction:g}: expected at least one image on either side of the split, "
            f"received {held_out} of {images} images held out; change the fraction or give more images"
        )
    return held_out
