"""Elementwise chains in one pass over memory.

A small transformer spends its time on reading and writing, not on arithmetic: TensorFlow makes a pass for each
operation, forwards and backwards, and keeps what lies between. Here a chain of operations along rows is compiled as one
kernel, and its gradient computes the chain again from its inputs instead of reading what was kept. Large products stay
with the backend's own library, which multiplies faster than XLA does on a CPU.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tnt_exp.model.dropout import dropped

EPSILON = 1e-5  # of every layer normalisation; Keras' default is 1e-3


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as one kernel in training, where the backend has such; the same numbers.

    Args:
        function: Of tensors, the last of which is the step's seed, None at inference. Differentiated for the others.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        return _tensorflow(function)
    if backend == "jax":
        import jax

        checkpointed: Callable[..., Any] = jax.checkpoint(function)
        return checkpointed
    return function


def _tensorflow(function: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    def differentiate(inputs: Any, gradients: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([one for one in inputs if one.dtype.is_floating])  # the seed is none
            outputs = function(*inputs)
        return tape.gradient(outputs, inputs, gradients, unconnected_gradients=tf.UnconnectedGradients.NONE)

    forward = tf.function(function, autograph=False, jit_compile=True)
    backward = tf.function(differentiate, autograph=False, jit_compile=True)

    def kernel(*inputs: Any) -> tuple[Any, Callable[..., Any]]:
        return forward(*inputs), lambda *above: backward(inputs, above if len(above) > 1 else above[0])

    differentiable = tf.custom_gradient(kernel)

    def call(*inputs: Any) -> Any:
        # Outside a graph each new shape would wait for a compiler; a model that is saved is made of plain operations.
        return function(*inputs) if inputs[-1] is None or tf.executing_eagerly() else differentiable(*inputs)

    return call


@functools.cache
def standardize() -> Callable[..., Any]:
    """(x, seed) -> (x - mean) / sqrt(variance + 1e-5) over the last axis: a layer norm without scale and offset."""

    def function(x: Any, seed: Any) -> Any:
        del seed
        wide = ops.cast(x, "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32")
        centred = wide - ops.mean(wide, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
        return ops.cast(centred * ops.rsqrt(variance + EPSILON), x.dtype)

    return fused(function)


@functools.cache
def gelu_drop(rate: float) -> Callable[..., Any]:
    """(x, seed) -> dropout of the exact GELU."""
    # `approximate=False`: the error function itself; Keras' default is a tanh in its place.
    return fused(lambda x, seed: dropped(ops.gelu(x, approximate=False), rate, seed))


@functools.cache
def add_drop(rate: float) -> Callable[..., Any]:
    """(x, branch, seed) or (x, branch, path, seed) -> x + dropout of the branch.

    With `path`, the branch is also dropped for whole samples at that rate.
    """

    def function(x: Any, branch: Any, *path_and_seed: Any) -> Any:
        *path, seed = path_and_seed
        branch = dropped(ops.reshape(branch, ops.shape(x)), rate, seed)
        return x + (dropped(branch, path[0], seed, salt=1, whole_samples=True) if path else branch)

    return fused(function)


@functools.cache
def softmax_drop(rate: float) -> Callable[..., Any]:
    """(scores, seed) -> dropout of the softmax over the last axis, and its sums over that axis."""

    def function(scores: Any, seed: Any) -> tuple[Any, Any]:
        weights = dropped(ops.softmax(scores), rate, seed)
        return weights, ops.sum(weights, axis=-1)

    return fused(function)
