"""Layer normalisation whose scale and offset can be part of the product behind it."""

# MERGED DOCS:
# """From patch tokens to one vector."""
# """Blocks of one form are traced once."""

from typing import Any

import keras
from keras import ops

from tnt_exp.model import initializers as start
from tnt_exp.model.fused_ops import EPSILON, standardize


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


POOLS = ("class_token", "average", "sequence")


@keras.saving.register_keras_serializable(package="tnt_exp")
class Pool(keras.layers.Layer):
    """The class token, the average of the tokens, or their average weighted by a learnt score.

    Args:
        pool: "class_token": the first token (the paper); "average" (the keras.io example); "sequence": softmax of
            a Dense(1) weights the tokens (arXiv 2104.05704).
        initialization: See `tnt_exp.model.initializers`.
        seed: Seed of the weights.

    Call arguments:
        tokens: (B, T, D).

    Returns:
        (B, D).
    """

    def __init__(
        self,
        pool: str = "class_token",
        initialization: str = "truncated_normal",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if pool not in POOLS:
            raise ValueError(f"Expected pool to be one of {POOLS}, received: pool={pool!r}.")
        self.pool = pool
        self.initialization = initialization
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Create the weights of "sequence"; its Dense has no bias, which the softmax would cancel."""
        if self.pool == "sequence":
            dim = input_shape[-1]
            initializer = start.kernel_initializer(self.initialization, start.derive_seed(self.seed, "kernel"), dim, 1)
            self.kernel = self.add_weight(name="kernel", shape=(dim, 1), initializer=initializer)

    def call(self, tokens: Any) -> Any:
        """Pool."""
        if self.pool == "class_token":
            return tokens[:, 0]
        if self.pool == "average":
            return ops.mean(tokens, axis=1)
        return ops.sum(tokens * ops.softmax(ops.matmul(tokens, self.kernel), axis=1), axis=1)


class SharedBlockTrace:
    """Calls blocks: on TensorFlow, those of one form as one function with other weights.

    A graph that holds a block as often as the network is deep is traced, differentiated and optimised that often,
    which a user waits for at the start of every run. XLA and PyTorch have their own ways: there blocks are called
    plainly.
    """

    def __init__(self) -> None:
        self._functions: dict[Any, Any] = {}

    def __call__(self, block: Any, *arguments: Any) -> Any:
        """Call a block with tensors (or None)."""
        if keras.config.backend() != "tensorflow":
            return block(*arguments)
        import tensorflow as tf

        if tf.executing_eagerly():
            return block(*arguments)
        form = tuple((tuple(variable.shape), variable.dtype) for variable in block.variables)
        if form not in self._functions:
            self._functions[form] = _function(block)
        return self._functions[form]([tf.convert_to_tensor(variable.value) for variable in block.variables], *arguments)


def _function(block: Any) -> Any:
    import tensorflow as tf

    def apply(values: Any, *arguments: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(block.variables, values, strict=True))):
            return block(*arguments)

    # Not inlined: else the optimiser of graphs sees as many blocks as before.
    return tf.function(apply, autograph=False, experimental_attributes={"_noinline": True})
