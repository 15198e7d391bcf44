"""Dropout whose randomness is handed in, and the drop path made of it."""

from typing import Any

import keras
from keras import ops


class StepSeed(keras.random.SeedGenerator):
    """A seed for one call, in the form that `keras.random` accepts: it holds no state and moves none."""

    def __init__(self, value: Any) -> None:
        # The parent's constructor would create a variable.
        self.value = value

    def next(self, ordered: bool = True) -> Any:
        """The seed."""
        return self.value


@keras.saving.register_keras_serializable(package="tnt_exp")
class Dropout(keras.layers.Layer):
    """Sets a random part of the values to 0 and scales the rest, so that the mean stays.

    The step's seed is an argument and not a state of the layer. So one variable carries the randomness of a whole
    model, and a block that is computed again in the backward pass (rematerialisation) drops the same values.

    Args:
        rate: Part that is dropped, in [0, 1).
        whole_samples: Drop whole samples (the first axis): stochastic depth (arXiv 1603.09382), "drop path".
        seed: Sets this layer's randomness apart from that of other layers.

    Call arguments:
        x: Any shape.
        seed: (2,), the step's seed; None where nothing is to be dropped (inference).

    Returns:
        A tensor like `x`.
    """

    def __init__(self, rate: float, whole_samples: bool = False, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"Expected a dropout rate in [0, 1), received: {self.name} {rate}.")
        self.rate = rate
        self.whole_samples = whole_samples
        self.seed = seed
        self.built = True

    def call(self, x: Any, seed: Any = None) -> Any:
        """Apply it."""
        if seed is None or self.rate == 0:
            return x
        shape = ops.shape(x)
        if self.whole_samples:
            shape = shape[:1] + (1,) * (len(shape) - 1)
        own = seed + ops.convert_to_tensor([self.seed, 0], seed.dtype)
        kept = keras.random.uniform(shape, dtype="float32", seed=StepSeed(own)) >= self.rate
        return ops.where(kept, x / (1 - self.rate), 0)
