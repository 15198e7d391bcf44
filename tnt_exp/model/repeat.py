"""Blocks of one form are traced once."""

from typing import Any

import keras


class Repeated:
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
