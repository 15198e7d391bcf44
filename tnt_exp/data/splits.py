"""Stratified, seeded splits."""

import numpy as np

from tnt_exp.data.order import Purpose, order


def shares(class_counts: np.ndarray, size: int, ties: np.ndarray) -> np.ndarray:
    """Divide `size` among classes in proportion to `class_counts`, by largest remainder.

    The shares add up to `size` exactly and none exceeds its class. Equal remainders go by `ties`,
    a permutation of the classes.
    """
    whole, remainder = np.divmod(class_counts.astype(np.int64) * size, class_counts.sum())
    neediest = np.lexsort((ties, -remainder))
    whole[neediest[: size - whole.sum()]] += 1
    return whole


def stratified(labels: np.ndarray, size: int, purpose: Purpose, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `size` of `labels`, each class in proportion.

    Returns:
        (chosen, rest): positions, each in rising order; together all of 0..len(labels)-1.
    """
    counts = np.bincount(labels)
    share = shares(counts, size, order(len(counts), purpose, seed, 1))
    shuffled = order(len(labels), purpose, seed, 0)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    rank_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.zeros(len(labels), bool)
    chosen[by_class[rank_in_class < np.repeat(share, counts)]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)
