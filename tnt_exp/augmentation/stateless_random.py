"""Random numbers as a function of (seed, step, salt, place): no state, so nothing to save and nothing to lose.

A hash of the counter, in 32-bit integer arithmetic that every backend has. `keras.random` would do but for one thing:
on TensorFlow its numbers change with XLA and with the device. These are the same bits everywhere, compiled or not.
"""

import hashlib
import math
from typing import Any

from keras import ops

Tensor = Any


class StatelessRandom:
    """The random numbers of one step.

    Each consumer names its own salt and so has its own stream, whatever else is drawn.

    Args:
        seed: The seed of the run.
        step: Integer scalar, the number of the step.
        microbatch: Integer scalar, the number of a microbatch, all of one size; None: the whole batch. A draw whose
            first axis is the microbatch's images gives what those images get in a draw for the whole batch.
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
        """Return float32 numbers of the standard normal law (Box-Muller), within 4.9."""
        words = self._words(salt, math.prod(shape))
        # Two uniform numbers of 16 bits; the half keeps the logarithm finite. The other normal number that they would
        # make, of the sine, is left: a number is a function of one word, and so of its place.
        radius = ops.sqrt(-2.0 * ops.log((ops.cast(_shift_right(words, 16), "float32") + 0.5) * 2.0**-16))
        angle = (ops.cast(words & 0xFFFF, "float32") + 0.5) * (2.0 * math.pi * 2.0**-16)
        return ops.reshape(radius * ops.cos(angle), shape)

    def _words(self, salt: str, count: int) -> Tensor:
        """Return `count` words of 32 random bits, int32."""
        digest = hashlib.blake2b(f"{self._seed}/{salt}".encode(), digest_size=8).digest()
        first, second = (int.from_bytes(half, "big", signed=True) for half in (digest[:4], digest[4:]))
        start = mix(self._step ^ first) ^ second
        places = ops.arange(count, dtype="int32")
        if self._microbatch is not None:
            places = places + ops.cast(self._microbatch, "int32") * count
        return mix(mix(places ^ start) + start)


def mix(words: Tensor) -> Tensor:
    """Scramble each word: C. Wellons' lowbias32, a bijection where every input bit turns every output bit."""
    words = (words ^ _shift_right(words, 16)) * 0x7FEB352D
    words = (words ^ _shift_right(words, 15)) * (0x846CA68B - 2**32)
    return words ^ _shift_right(words, 16)


def _shift_right(words: Tensor, places: int) -> Tensor:
    """Shift without the sign, which int32 would drag along."""
    return ops.right_shift(words, places) & (2 ** (32 - places) - 1)
