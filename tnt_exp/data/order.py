"""Random order as a pure function of whole numbers."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What an order is for: the same seed gives each purpose an order of its own."""

    epoch = 0
    test = 1
    limit = 2
    validation = 3


def order(size: int, purpose: Purpose, *seed: int) -> np.ndarray:
    """A permutation of 0..size-1 (int64).

    Sorts the raw words of a counter-based generator: NumPy promises these for all versions and
    machines, which it does not for `Generator.permutation`.
    """
    words = np.random.Philox(np.random.SeedSequence([purpose, *seed])).random_raw(size)
    return np.argsort(words, kind="stable")
