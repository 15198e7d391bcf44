"""Random numbers as a function of (seed, step, salt, position): there is no state to save or restore.

They are a hash of a counter, in 32-bit integer arithmetic that every backend has. The numbers of `keras.random` change
with XLA and with the device on TensorFlow; these are the same bits everywhere, compiled or not.
"""

import hashlib
import math
from typing import Any

from keras import ops

Tensor = Any  # a tensor of the current backend, whose types have no common base class; shapes: see docstrings


class StatelessRandom:
    """The random numbers of one step (an integer scalar) of the run with this seed.

    Each use has its own salt, so its numbers do not depend on what else is drawn. `microbatch` is the index of a
    microbatch, an integer scalar, where all have one size; None: the whole batch. A draw whose first axis is the
    microbatch's images gives these images the numbers that they have in a draw for the whole batch.
    """

    def __init__(self, seed: int, step: Tensor, microbatch: Tensor | None = None) -> None:
        self._seed = seed
        self._step = ops.cast(step, "int32")
        self._microbatch = microbatch

    def uniform(self, salt: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return float32 numbers, uniform in [low, high), in steps of 2^-24 of the range."""
        unit = ops.cast(_shift_right(self._words(salt, math.prod(shape)), 8), "float32") * 2.0**-24
        return ops.reshape(low + (high - low) * unit, shape)

    def normal(self, salt: str, shape: tuple[int, ...]) -> Tensor:
        """Return float32 numbers of the standard normal distribution (Box-Muller), within 4.9."""
        words = self._words(salt, math.prod(shape))
        # Two uniform numbers of 16 bits; the half keeps the logarithm finite. The second normal number of Box-Muller,
        # from the sine, is not used: so each number depends on one word, and thereby on its position alone.
        radius = ops.sqrt(-2.0 * ops.log((ops.cast(_shift_right(words, 16), "float32") + 0.5) * 2.0**-16))
        angle = (ops.cast(words & 0xFFFF, "float32") + 0.5) * (2.0 * math.pi * 2.0**-16)
        return ops.reshape(radius * ops.cos(angle), shape)

    def _words(self, salt: str, count: int) -> Tensor:
        """Return `count` words of 32 random bits, int32."""
        digest = hashlib.blake2b(f"{self._seed}/{salt}".encode(), digest_size=8).digest()
        first, second = (int.from_bytes(half, "big", signed=True) for half in (digest[:4], digest[4:]))
        key = mix(self._step ^ first) ^ second
        positions = ops.arange(count, dtype="int32")
        if self._microbatch is not None:
            positions = positions + ops.cast(self._microbatch, "int32") * count
        return mix(mix(positions ^ key) + key)


def mix(words: Tensor) -> Tensor:
    """Hash each word by C. Wellons' lowbias32, a bijection in which every input bit changes every output bit."""
    words = (words ^ _shift_right(words, 16)) * 0x7FEB352D
    words = (words ^ _shift_right(words, 15)) * (0x846CA68B - 2**32)
    return words ^ _shift_right(words, 16)


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """Shift in zeros, where a shift of int32 repeats the sign bit."""
    return ops.right_shift(words, bits) & (2 ** (32 - bits) - 1)
