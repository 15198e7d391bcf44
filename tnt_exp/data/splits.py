"""Stratified splits and random orders as pure functions of integers."""

from enum import IntEnum

import numpy as np


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
    """Choose `size` of `labels`, each class in proportion.

    Returns:
        (chosen, rest): positions, each ascending; together all of 0..len(labels)-1.
    """
    counts = np.bincount(labels)
    share = class_shares(counts, size, random_order(len(counts), stream, seed, 1))
    by_class = _shuffled_by_class(labels, stream, seed)
    rank_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(labels), bool)
    chosen[by_class[rank_in_class < np.repeat(share, counts)]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def fold_split(labels: np.ndarray, folds: int, fold: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose one of `folds` parts of `labels`: together they hold each image once, and of a class sizes differ by one.

    Returns:
        (chosen, rest): positions, each ascending; together all of 0..len(labels)-1.
    """
    chosen = np.zeros(len(labels), bool)
    chosen[_shuffled_by_class(labels, RandomStream.fold, seed)[fold::folds]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def _shuffled_by_class(labels: np.ndarray, stream: RandomStream, seed: int) -> np.ndarray:
    """Return all positions, one class after the other, within a class in random order."""
    shuffled = random_order(len(labels), stream, seed, 0)
    return shuffled[np.argsort(labels[shuffled], kind="stable")]
