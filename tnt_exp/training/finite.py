"""Numbers that a run cannot go on with."""

import numpy as np


class NonFiniteError(RuntimeError):
    """The loss or the state of a run is infinite or not a number.

    Args:
        reason: What became so, and when.
    """


def finite(array: np.ndarray) -> bool:
    """Whether every number is; without a copy, unlike `np.isfinite`."""
    if array.size == 0 or array.dtype.kind in "biuSU":
        return True
    # bfloat16 is no kind of NumPy's own, and has no fast minimum.
    numbers = array if array.dtype.kind == "f" else array.astype(np.float32)
    return bool(np.isfinite(numbers.min()) and np.isfinite(numbers.max()))
