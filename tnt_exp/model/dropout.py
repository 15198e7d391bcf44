"""Dropout whose randomness is handed in, and the drop path made of it."""

import math
from typing import Any

import keras
from keras import ops

from tnt_exp.augmentation.stateless_random import mix
from tnt_exp.model.initializers import derive_seed


def seed_of(seed: Any, place: str) -> Any:
    """The seed that the step's `seed` gives to a place of the network; None where nothing is dropped."""
    if seed is None:
        return None
    shift = [derive_seed(0, place)] + [0] * (seed.shape[0] - 1)
    return ops.cast(seed, "int32") + ops.convert_to_tensor(shift, "int32")


def dropout_scale(x: Any, rate: Any, seed: Any, salt: int = 0, whole_samples: bool = False) -> Any:
    """`x` with a random part of the values set to 0 and the rest scaled, so that the mean stays.

    A value is kept or not by a hash of its place: three multiplications and no state, which a compiler fuses with what
    stands around it. The generators of `keras.random` are passes of their own, and slow ones under XLA.

    Args:
        x: Any shape.
        rate: Part that is dropped, in [0, 1): a number, or a float32 scalar.
        seed: Integers (2,); None drops nothing. A third is the number of the part of a batch that `x` is of, all parts
            of one size: what is dropped is then what would be of the whole batch.
        salt: Sets the draws of one seed apart.
        whole_samples: Drop whole samples (the first axis).
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
    # The sign may be dragged along by the shifts: what counts is that every bit reaches the highest.
    words = (words ^ ops.right_shift(words, 15)) * 0x2C1B3C6D
    words = (words ^ ops.right_shift(words, 13)) * 0x297A2D39
    kept = words >= _threshold(rate)
    return ops.where(kept, x / ops.cast(1 - rate, x.dtype), ops.zeros((), x.dtype))


def check_rate(name: str, rate: float) -> None:
    """Raise `ValueError` where `rate` is none."""
    if not 0 <= rate < 1:
        raise ValueError(f"Expected a dropout rate in [0, 1), received: {name} {rate}.")


def _threshold(rate: Any) -> Any:
    """The int32 word below which a value is dropped."""
    if isinstance(rate, float | int):
        return ops.convert_to_tensor(int(rate * 2**32) - 2**31, "int32")
    return ops.cast(ops.cast(rate, "float32") * 2.0**32 - 2.0**31, "int32")


@keras.saving.register_keras_serializable(package="tnt_exp")
class Dropout(keras.layers.Layer):
    """`dropped` as a layer.

    The step's seed is an argument and not a state of the layer. So one variable carries the randomness of a whole
    model, and a block that is computed again in the backward pass (rematerialisation) drops the same values.

    Args:
        rate: Part that is dropped, in [0, 1).
        whole_samples: Drop whole samples (the first axis): stochastic depth (arXiv 1603.09382), "drop path".
        seed: Sets this layer's randomness apart from that of other layers.

    Call arguments:
        x: Any shape.
        seed: Integers (2,), the step's seed; None where nothing is to be dropped (inference).

    Returns:
        A tensor like `x`.
    """

    def __init__(self, rate: float, whole_samples: bool = False, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_rate(self.name, rate)
        self.rate = rate
        self.whole_samples = whole_samples
        self.seed = seed
        self.built = True

    def call(self, x: Any, seed: Any = None) -> Any:
        """Apply it."""
        return dropout_scale(x, self.rate, seed, self.seed, self.whole_samples)
