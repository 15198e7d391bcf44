"""Elementwise chains in one pass over memory.

A small transformer spends its time on reading and writing, not on arithmetic: TensorFlow makes a pass for each
operation, forwards and backwards, and keeps what lies between. Here a chain of operations along rows is compiled as one
kernel, and its gradient as another, which reads little. Large products stay with the backend's own library, which
multiplies faster than XLA does on a CPU.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tnt_exp.model.dropout import dropout_scale

EPSILON = 1e-5  # of every layer normalisation; Keras' default is 1e-3

Tensors = Sequence[Any]


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as one kernel in training, where the backend has such; the same numbers.

    Its gradient computes the chain again from its inputs instead of reading what was kept.

    Args:
        function: Of tensors, the last of which is the step's seed, None at inference. Differentiated for the others.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        return _tensorflow(lambda *inputs: (function(*inputs),), lambda inputs, _: inputs, _differentiated(function), 1)
    if backend == "jax":
        import jax

        checkpointed: Callable[..., Any] = jax.checkpoint(function)
        return checkpointed
    return function


def fused_with_gradient(
    forward: Callable[..., Tensors],
    keep: Callable[[Tensors, Tensors], Tensors],
    backward: Callable[[Tensors, Tensors], Tensors],
    shown: int,
    torch: Callable[..., Any],
) -> Callable[..., Any]:
    """`forward` as one kernel in training, `backward` as another.

    Args:
        forward: Of tensors, the last of which is the step's seed, None at inference.
        keep: What of the inputs and outputs is kept for the gradient.
        backward: (kept, gradients of the outputs shown) -> gradients of the inputs but the seed.
        shown: So many of the outputs are the function's; the others are for the gradient alone.
        torch: The same of PyTorch's own kernels.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        return _tensorflow(forward, keep, backward, shown)
    if backend == "jax":
        return _jax(forward, keep, backward, shown)
    return torch


def _one_or_all(outputs: Tensors) -> Any:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _differentiated(function: Callable[..., Any]) -> Callable[[Tensors, Tensors], Tensors]:
    """TensorFlow's gradient of a function of (tensors..., seed)."""
    import tensorflow as tf

    def differentiate(inputs: Tensors, gradients: Tensors) -> Tensors:
        *values, seed = inputs
        with tf.GradientTape() as tape:
            tape.watch(values)
            output = function(*values, seed)
        found: Tensors = tape.gradient(output, values, gradients[0])
        return found

    return differentiate


def _tensorflow(
    forward: Callable[..., Tensors],
    keep: Callable[[Tensors, Tensors], Tensors],
    backward: Callable[[Tensors, Tensors], Tensors],
    shown: int,
) -> Callable[..., Any]:
    import tensorflow as tf

    forwards = tf.function(forward, autograph=False, jit_compile=True)
    backwards = tf.function(backward, autograph=False, jit_compile=True)

    def kernel(*inputs: Any) -> tuple[Any, Callable[..., Any]]:
        outputs = forwards(*inputs)
        kept = keep(inputs, outputs)
        return _one_or_all(outputs[:shown]), lambda *above: (*backwards(kept, above), None)

    differentiable = tf.custom_gradient(kernel)

    def call(*inputs: Any) -> Any:
        # Outside a graph each new shape would wait for a compiler; a model that is saved is made of plain operations.
        if inputs[-1] is None or tf.executing_eagerly():
            return _one_or_all(forward(*inputs)[:shown])
        return differentiable(*inputs)

    return call


def _jax(
    forward: Callable[..., Tensors],
    keep: Callable[[Tensors, Tensors], Tensors],
    backward: Callable[[Tensors, Tensors], Tensors],
    shown: int,
) -> Callable[..., Any]:
    import jax

    def begin(*inputs: Any) -> tuple[Any, Tensors]:
        outputs = forward(*inputs)
        return _one_or_all(outputs[:shown]), tuple(keep(inputs, outputs))

    def end(kept: Tensors, above: Any) -> Tensors:
        return (*backward(kept, above if shown > 1 else (above,)), None)

    differentiable: Callable[..., Any] = jax.custom_vjp(lambda *inputs: _one_or_all(forward(*inputs)[:shown]))
    differentiable.defvjp(begin, end)  # type: ignore[attr-defined]
    return differentiable


def _wide(x: Any) -> Any:
    """`x` with at least the precision of float32."""
    return ops.cast(x, "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32")


@functools.cache
def standardize() -> Callable[..., Any]:
    """(x, seed) -> (x - mean) / sqrt(variance + 1e-5) over the last axis: a layer norm without scale and offset."""

    def forward(x: Any, seed: Any) -> Tensors:
        del seed
        wide = _wide(x)
        centred = wide - ops.mean(wide, axis=-1, keepdims=True)
        scale = ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + EPSILON)
        return ops.cast(centred * scale, x.dtype), scale

    def backward(kept: Tensors, above: Tensors) -> Tensors:
        y, scale = _wide(kept[0]), kept[1]
        slope = _wide(above[0])
        along = ops.mean(slope * y, axis=-1, keepdims=True)
        return (ops.cast(scale * (slope - ops.mean(slope, axis=-1, keepdims=True) - y * along), above[0].dtype),)

    def torch(x: Any, seed: Any) -> Any:
        from torch.nn import functional

        del seed
        return functional.layer_norm(x, x.shape[-1:], eps=EPSILON)

    return fused_with_gradient(forward, lambda _, outputs: outputs, backward, 1, torch)


@functools.cache
def gelu_drop(rate: float) -> Callable[..., Any]:
    """(x, seed) -> dropout of the exact GELU."""
    # `approximate=False`: the error function itself; Keras' default is a tanh in its place.
    return fused(lambda x, seed: dropout_scale(ops.gelu(x, approximate=False), rate, seed))


@functools.cache
def add_drop(rate: float) -> Callable[..., Any]:
    """(x, branch, seed) or (x, branch, path, seed) -> x + dropout of the branch.

    With `path`, the branch is also dropped for whole samples at that rate.
    """

    def function(x: Any, branch: Any, *path_and_seed: Any) -> Any:
        *path, seed = path_and_seed
        branch = dropout_scale(ops.reshape(branch, ops.shape(x)), rate, seed)
        return x + (dropout_scale(branch, path[0], seed, salt=1, whole_samples=True) if path else branch)

    return fused(function)


@functools.cache
def softmax_drop(rate: float) -> Callable[..., Any]:
    """(scores, seed) -> dropout of the softmax over the last axis, and its sums over that axis."""

    def forward(scores: Any, seed: Any) -> Tensors:
        wide = _wide(scores)
        most = ops.max(wide, axis=-1, keepdims=True)
        powers = ops.exp(wide - most)
        total = ops.sum(powers, axis=-1, keepdims=True)
        weights = dropout_scale(ops.cast(powers / total, scores.dtype), rate, seed)
        return weights, ops.sum(weights, axis=-1), most + ops.log(total)

    def backward(kept: Tensors, above: Tensors) -> Tensors:
        # With w the softmax and d = w k / (1 - rate) what was left of it, the gradient of the scores is d g - w (d g)1:
        # what was dropped need not be drawn again.
        scores, left, log_total = kept
        slope = _wide(left) * _wide(above[0] + above[1][..., None])
        weights = ops.exp(_wide(scores) - log_total)
        return (ops.cast(slope - weights * ops.sum(slope, axis=-1, keepdims=True), scores.dtype),)

    def torch(scores: Any, seed: Any) -> tuple[Any, Any]:
        weights = dropout_scale(ops.softmax(scores), rate, seed)
        return weights, ops.sum(weights, axis=-1)

    def keep(inputs: Tensors, outputs: Tensors) -> Tensors:
        return inputs[0], outputs[0], outputs[2]

    return fused_with_gradient(forward, keep, backward, 2, torch)


def attend(q: Any, k: Any, v: Any, rate: float, seed: Any) -> Any:
    """Dropout of softmax(q k^T), times v; of shapes (B, H, T, head) all.

    PyTorch has it as one kernel that never writes the weights; that one cannot drop as we do.
    """
    if keras.config.backend() == "torch" and (seed is None or rate == 0):
        from torch.nn import functional

        return functional.scaled_dot_product_attention(q, k, v, scale=1.0)
    weights, _ = softmax_drop(rate)(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), seed)
    return ops.matmul(weights, v)
