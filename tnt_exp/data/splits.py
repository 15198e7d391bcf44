"""Sizes of splits, stratified splits and random orders, as pure functions of the configuration and of integers."""

from enum import IntEnum
from math import floor

import numpy as np

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.errors import UserError


class RandomStream(IntEnum):
    """What a random order is for: with the same seed, each has its own order."""

    epoch = 0
    test = 1
    limit = 2
    validation = 3
    fold = 4
    grid = 5


def random_order(size: int, stream: RandomStream, *seed: int) -> np.ndarray:
    """Return a permutation of 0..size-1 (int64).

    Sorts the raw words of a counter-based generator: NumPy guarantees these for all versions and machines, which it
    does not for `Generator.permutation`.
    """
    words = np.random.Philox(np.random.SeedSequence([stream, *seed])).random_raw(size)
    return np.argsort(words, kind="stable")


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


def class_shares(class_counts: np.ndarray, size: int, ties: np.ndarray) -> np.ndarray:
    """Divide `size` among classes in proportion to `class_counts`, by largest remainder.

    The shares add up to `size` exactly and none exceeds its class. Equal remainders are ordered by `ties`, a
    permutation of the classes.
    """
    whole, remainder = np.divmod(class_counts.astype(np.int64) * size, class_counts.sum())
    neediest = np.lexsort((ties, -remainder))
    whole[neediest[: size - whole.sum()]] += 1
    return whole


def stratified_split(labels: np.ndarray, size: int, stream: RandomStream, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `size` of `labels`, each class in proportion; return the positions (chosen, rest), each ascending."""
    counts = np.bincount(labels)
    share = class_shares(counts, size, random_order(len(counts), stream, seed, 1))
    by_class = _shuffled_by_class(labels, stream, seed)
    rank_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(labels), bool)
    chosen[by_class[rank_in_class < np.repeat(share, counts)]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def fold_split(labels: np.ndarray, folds: int, fold: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose one of `folds` disjoint parts of `labels`; return the positions (chosen, rest), each ascending.

    In any two parts the number of images of a class differs by one at most.
    """
    chosen = np.zeros(len(labels), bool)
    chosen[_shuffled_by_class(labels, RandomStream.fold, seed)[fold::folds]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def _shuffled_by_class(labels: np.ndarray, stream: RandomStream, seed: int) -> np.ndarray:
    """Return all positions, one class after the other, within a class in random order."""
    shuffled = random_order(len(labels), stream, seed, 0)
    return shuffled[np.argsort(labels[shuffled], kind="stable")]
