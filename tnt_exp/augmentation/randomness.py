"""Random numbers as a function of (seed, step, salt): no state, so nothing to save and nothing to lose."""

import hashlib
from typing import Any

import keras
from keras import ops

Tensor = Any


class _Counter(keras.random.SeedGenerator):
    """A Keras seed that is a pair (word, step) instead of a variable.

    Every `keras.random` function asks a SeedGenerator for its `next()`; this one gives the same pair each time.
    """

    def __init__(self, word: int, step: Tensor) -> None:
        # The parent's constructor would create a variable; it is left out on purpose.
        dtype = "uint32" if keras.backend.backend() == "jax" else "int32"
        self._pair = ops.stack([ops.convert_to_tensor(word, dtype), ops.cast(step, dtype)])

    def next(self, ordered: bool = True) -> Tensor:
        return self._pair


class Draws:
    """The random numbers of one step.

    Each consumer names its own salt and so has its own stream, whatever else is drawn.

    Args:
        seed: The seed of the run.
        step: Integer scalar tensor, the number of the step.
    """

    def __init__(self, seed: int, step: Tensor) -> None:
        self._seed = seed
        self._step = step

    def _counter(self, salt: str) -> _Counter:
        digest = hashlib.blake2b(f"{self._seed}/{salt}".encode(), digest_size=4).digest()
        return _Counter(int.from_bytes(digest, "big") >> 1, self._step)  # 31 bits: never negative as int32

    def uniform(self, salt: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return float32 numbers, uniform in [low, high)."""
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self._counter(salt))

    def normal(self, salt: str, shape: tuple[int, ...]) -> Tensor:
        """Return float32 numbers of the standard normal law."""
        return keras.random.normal(shape, dtype="float32", seed=self._counter(salt))
