"""Layer normalisation whose scale and offset can be part of the product behind it."""

from typing import Any

import keras
from keras import ops

from tnt_exp.model.fused import EPSILON, standardize


@keras.saving.register_keras_serializable(package="tnt_exp")
class Norm(keras.layers.LayerNormalization):
    """A layer normalisation over the last axis, with epsilon 1e-5.

    LN(x) W + b = x' (scale * W) + (offset W + b) with x' the standardised x. So scale and offset cost a pass over the
    weights instead of one over the tokens, and their gradients are those of weights.
    """

    def __init__(self, epsilon: float = EPSILON, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, **kwargs)

    def standardized(self, x: Any, seed: Any = None) -> Any:
        """`x` without scale and offset; `seed` is the step's, None at inference."""
        return standardize()(x, seed)

    def into(self, kernel: Any, bias: Any = None) -> tuple[Any, Any]:
        """Kernel (k width, n) and bias (n,) that take k standardised tokens at once instead of normalised ones."""
        tokens = kernel.shape[0] // self.gamma.shape[0]
        scale, offset = (ops.tile(ops.cast(part, kernel.dtype), tokens) for part in (self.gamma, self.beta))
        moved = ops.sum(offset[:, None] * kernel, axis=0)
        return scale[:, None] * kernel, moved if bias is None else moved + bias
