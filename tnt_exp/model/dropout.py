"""Dropout whose randomness is an argument, also of whole samples (drop path)."""

import math

from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor, mix
from tnt_exp.model.initializers import derive_seed


def layer_seed(seed: Tensor | None, name: str) -> Tensor | None:
    """Return the seed that a layer gets from the step's `seed`; None at inference, where nothing is dropped."""
    if seed is None:
        return None
    offset = [derive_seed(0, name)] + [0] * (seed.shape[0] - 1)
    return ops.cast(seed, "int32") + ops.convert_to_tensor(offset, "int32")


def dropout(x: Tensor, rate: float | Tensor, seed: Tensor | None, salt: int = 0, whole_samples: bool = False) -> Tensor:
    """Set random values to 0 and scale the others by 1 / (1 - rate), so that the mean stays.

    Whether a value is dropped is a hash of its position: three multiplications and no state, which a compiler fuses
    with the operations around it. The generators of `keras.random` are passes over memory of their own, and slow ones
    under XLA. One variable holds the randomness of a whole model, and a block that is computed again in the backward
    pass (rematerialisation) drops the same values.

    Args:
        rate: Fraction that is dropped, in [0, 1): a number, or a float32 scalar.
        seed: Integers (2,); None drops nothing. A third one is the index of the microbatch that `x` belongs to, where
            all have one size: it drops the values that would be dropped of the whole batch.
        salt: Makes independent masks of one seed.
        whole_samples: Drop whole samples (the first axis): stochastic depth (arXiv 1603.09382), "drop path".
    """
    if seed is None or (isinstance(rate, float | int) and rate == 0):
        return x
    shape = ops.shape(x)
    if whole_samples:
        shape = shape[:1] + (1,) * (len(shape) - 1)
    count = math.prod(shape) if all(isinstance(side, int) for side in shape) else ops.prod(ops.stack(list(shape)))
    seed = ops.cast(seed, "int32")
    first, step = mix(seed[0] ^ mix(seed[1] + salt)), 0x9E3779B1 - 2**32
    if seed.shape[0] > 2:
        first = first + seed[2] * count * step
    words = ops.reshape(ops.arange(count, dtype="int32"), shape) * step + first
    # These shifts of int32 repeat the sign bit, which does no harm: it is enough that every bit reaches the highest.
    words = (words ^ ops.right_shift(words, 15)) * 0x2C1B3C6D
    words = (words ^ ops.right_shift(words, 13)) * 0x297A2D39
    if isinstance(rate, float | int):
        threshold = ops.convert_to_tensor(int(rate * 2**32) - 2**31, "int32")
    else:
        threshold = ops.cast(ops.cast(rate, "float32") * 2.0**32 - 2.0**31, "int32")
    return ops.where(words >= threshold, x / ops.cast(1 - rate, x.dtype), ops.zeros((), x.dtype))
