"""Stratified splits and random orders as pure functions of integers."""

from enum import IntEnum

import numpy as np


class RandomStream(IntEnum):
    """What a random order is for: with the same seed, each has its own order."""

    epoch = 0
    test = 1
    limit = 2
    validation = 3


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
    shuffled = random_order(len(labels), stream, seed, 0)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    rank_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(labels), bool)
    chosen[by_class[rank_in_class < np.repeat(share, counts)]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)
