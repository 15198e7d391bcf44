"""Elementwise chains in one pass over memory.

A small transformer spends its time on reading and writing, not on arithmetic: TensorFlow makes one pass over memory
per operation, forwards and backwards, and stores the intermediate values. Here a chain of operations along rows is
compiled as one kernel, and its gradient as another, which reads little. Large products stay with the backend's own
library, which multiplies faster than XLA does on a CPU.

The functions that are fused end with the argument `seed`, the step's, which is None at inference. Their gradient is
that to all arguments but the seed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.model.dropout import dropout
from tnt_exp.model.gelu import gelu_of_half_precision

EPSILON = 1e-5  # of every layer normalisation; Keras' default is 1e-3

Tensors = Sequence[Tensor]
Forward = Callable[..., Tensors]  # (tensors..., seed) -> outputs
SaveForBackward = Callable[[Tensors, Tensors], Tensors]  # (inputs, outputs) -> what the gradient reads
Backward = Callable[[Tensors, Tensors], Tensors]  # (saved, gradients of the outputs) -> gradients of the inputs
Fused = Callable[..., Tensor]  # (tensors..., seed) -> a tensor, or a tuple of several


def dense(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Return x (rows, k) times kernel (k, n), plus bias (n,)."""
    return add_bias(ops.matmul(x, kernel), bias)


def fused(function: Fused, product: int, half: Fused | None = None) -> Fused:
    """Return `function` of (tensors..., seed) as one kernel in training, on backends that have such kernels.

    The result takes (tensors..., bias, seed), and adds the bias (n,) to tensor number `product`, (rows, n), first.
    Numbers in float32 are those of the plain function. The gradient computes the chain again from its inputs instead of
    reading stored values. TensorFlow's kernels for bfloat16 compute `half`, where it is given: the same function to
    the precision of their results.
    """

    def add(*inputs: Tensor) -> Tensors:
        *values, bias, seed = inputs
        values[product] = add_bias(values[product], bias)
        return (*values, seed)

    backend = keras.config.backend()
    if backend == "torch":
        return lambda *inputs: function(*add(*inputs))
    wide = _in_float32(function)
    if backend == "jax":
        import jax

        checkpointed = jax.checkpoint(wide)
        return lambda *inputs: checkpointed(*add(*inputs))
    import tensorflow as tf

    share_gradient = _with_bias_gradient(lambda product, _: tf.identity(product))
    summed = _recomputed(wide, constants=1)
    biased = _recomputed(_in_float32(lambda *inputs: (half or function)(*add(*inputs))), constants=2)

    def call(*inputs: Tensor) -> Tensor:
        *values, bias, seed = inputs
        if not has_half_kernels(values[product], seed):
            return summed(*add(*inputs))
        # The product in bfloat16 is a slower one where a bias is added at once, so the kernel adds it.
        values[product] = share_gradient(values[product], bias)
        return biased(*values, bias, seed)

    return call


def has_half_kernels(x: Tensor, seed: Tensor | None) -> bool:
    """Whether `x` is of half precision, in training, where TensorFlow has kernels of ours for it."""
    if seed is None or keras.config.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.executing_eagerly() and x.dtype.size < 4


def fused_with_gradient(
    forward: Forward, save_for_backward: SaveForBackward, backward: Backward, num_outputs: int, torch: Fused
) -> Fused:
    """Return `forward` as one kernel in training, with `backward` as another.

    Only the first `num_outputs` outputs of `forward` are returned; the others are for the gradient alone. `torch` is
    the same function made of PyTorch's own kernels.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        return _tensorflow(forward, save_for_backward, backward, num_outputs)
    if backend == "jax":
        return _jax(forward, save_for_backward, backward, num_outputs)
    return torch


def _in_float32(function: Fused) -> Fused:
    """Return a function of (tensors..., seed) that in training computes in float32 and rounds the result alone.

    Otherwise XLA rounds every intermediate value to bfloat16, and on a CPU that takes longer than the chain itself.
    At inference, where the chain is no kernel, conversions would be further passes over memory.
    """

    def wide(*inputs: Tensor) -> Tensor:
        *values, seed = inputs
        if seed is None:
            return function(*inputs)
        return _rounded(function(*map(_at_least_float32, values), seed), values[0].dtype)

    return wide


def _one_or_all(outputs: Tensors) -> Tensor | tuple[Tensor, ...]:
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _recomputed(function: Fused, constants: int) -> Fused:
    """Return a function as one kernel of TensorFlow, whose gradient computes it again from its inputs.

    There is no gradient to the last inputs, the `constants`.
    """
    import tensorflow as tf

    def differentiate(inputs: Tensors, output_gradients: Tensors) -> Tensors:
        values = [_at_least_float32(value) for value in inputs[:-constants]]
        with tf.GradientTape() as tape:
            tape.watch(values)
            output = function(*values, *inputs[-constants:])
        gradients: Tensors = tape.gradient(output, values, _at_least_float32(output_gradients[0]))
        return [_rounded(gradient, value.dtype) for gradient, value in zip(gradients, inputs, strict=False)]

    return _tensorflow(lambda *inputs: (function(*inputs),), lambda inputs, _: inputs, differentiate, 1, constants)


def _tensorflow(
    forward: Forward, save_for_backward: SaveForBackward, backward: Backward, num_outputs: int, constants: int = 1
) -> Fused:
    import tensorflow as tf

    compiled_forward = tf.function(forward, autograph=False, jit_compile=True)
    compiled_backward = tf.function(backward, autograph=False, jit_compile=True)

    def kernel(*inputs: Tensor) -> tuple[Tensor, Callable[..., Tensors]]:
        outputs = compiled_forward(*inputs)
        saved = save_for_backward(inputs, outputs)
        return _one_or_all(outputs[:num_outputs]), lambda *gradients: (
            *compiled_backward(saved, gradients),
            *[None] * constants,
        )

    differentiable = tf.custom_gradient(kernel)

    def call(*inputs: Tensor) -> Tensor:
        # Outside a graph each new shape would be compiled first; and a saved model is made of plain operations.
        if inputs[-1] is None or tf.executing_eagerly():
            return _one_or_all(forward(*inputs)[:num_outputs])
        return differentiable(*inputs)

    return call


def _jax(forward: Forward, save_for_backward: SaveForBackward, backward: Backward, num_outputs: int) -> Fused:
    import jax

    def forward_rule(*inputs: Tensor) -> tuple[Tensor, Tensors]:
        outputs = forward(*inputs)
        return _one_or_all(outputs[:num_outputs]), tuple(save_for_backward(inputs, outputs))

    def backward_rule(saved: Tensors, gradients: Tensor | Tensors) -> Tensors:
        return (*backward(saved, gradients if num_outputs > 1 else (gradients,)), None)

    differentiable: Fused = jax.custom_vjp(lambda *inputs: _one_or_all(forward(*inputs)[:num_outputs]))
    differentiable.defvjp(forward_rule, backward_rule)  # type: ignore[attr-defined]
    return differentiable


def add_bias(product: Tensor, bias: Tensor) -> Tensor:
    """Add a bias (n,) or an offset (m, n) to a product (rows, ..., n).

    Its gradient is a sum over all rows. In bfloat16 on a CPU, TensorFlow's own rounds after each row, which loses half
    of it in 16,000 rows, and that of JAX after some.
    """
    backend = keras.config.backend()
    if backend == "torch" or keras.backend.standardize_dtype(product.dtype) != "bfloat16":
        return ops.add(product, bias)
    if backend == "jax":
        return ops.cast(ops.add(ops.cast(product, "float32"), ops.cast(bias, "float32")), "bfloat16")
    return _with_bias_gradient(ops.add)(product, ops.cast(bias, "bfloat16"))


def _with_bias_gradient(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of (product, bias) in TensorFlow with the gradient of their sum."""
    import tensorflow as tf

    def compute(product: Tensor, bias: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensors]]:
        rows = tuple(range(len(product.shape) - len(bias.shape)))
        return function(product, bias), lambda gradient: (gradient, ops.sum(gradient, axis=rows))

    differentiable: Callable[[Tensor, Tensor], Tensor] = tf.custom_gradient(compute)
    return differentiable


def _at_least_float32(x: Tensor) -> Tensor:
    return ops.cast(x, "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32")


def _rounded(x: Tensor, dtype: Any) -> Tensor:
    """Return a result of a kernel in the type of its inputs: `ops.cast` to the bit.

    XLA's own conversion to bfloat16 on a CPU doubles the time of a GELU.
    """
    if keras.config.backend() != "tensorflow" or dtype != "bfloat16" or x.dtype != "float32":
        return ops.cast(x, dtype)
    import tensorflow as tf

    def round_to_even(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        bits = tf.bitcast(x, tf.uint32)
        last = tf.bitwise.right_shift(bits, tf.constant(16, tf.uint32)) & tf.constant(1, tf.uint32)
        bits = tf.bitwise.right_shift(bits + last + tf.constant(0x7FFF, tf.uint32), tf.constant(16, tf.uint32))
        return tf.bitcast(tf.cast(bits, tf.uint16), tf.bfloat16), lambda gradient: tf.cast(gradient, tf.float32)

    rounded: Tensor = tf.custom_gradient(round_to_even)(x)
    return rounded


def _centred_and_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x - mean and 1 / sqrt(variance + 1e-5), over the last axis."""
    centred = x - ops.mean(x, axis=-1, keepdims=True)
    return centred, ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + EPSILON)


@functools.cache
def standardize() -> Fused:
    """Return (x, seed) -> (x - mean) / sqrt(variance + 1e-5) over the last axis: a layer norm without its weights."""

    def forward(x: Tensor, seed: Tensor) -> Tensors:
        wide = _at_least_float32(x)
        centred, scale = _centred_and_scale(wide)
        return (ops.cast if seed is None else _rounded)(centred * scale, x.dtype), scale

    def backward(saved: Tensors, gradients: Tensors) -> Tensors:
        y, scale = _at_least_float32(saved[0]), saved[1]
        gradient = _at_least_float32(gradients[0])
        along = ops.mean(gradient * y, axis=-1, keepdims=True)
        gradient = scale * (gradient - ops.mean(gradient, axis=-1, keepdims=True) - y * along)
        return (_rounded(gradient, gradients[0].dtype),)

    def torch(x: Tensor, seed: Tensor) -> Tensor:
        from torch.nn import functional

        del seed
        return functional.layer_norm(x, x.shape[-1:], eps=EPSILON)

    return fused_with_gradient(forward, lambda _, outputs: outputs, backward, 1, torch)


@functools.cache
def gelu_dropout(rate: float) -> Fused:
    """Return (x, bias, seed) -> dropout(GELU(x + bias))."""
    # `approximate=False`: the error function itself; Keras' default is a tanh in its place.
    return fused(
        lambda x, seed: dropout(ops.gelu(x, approximate=False), rate, seed),
        product=0,
        half=lambda x, seed: dropout(gelu_of_half_precision(x), rate, seed),
    )


@functools.cache
def normalize() -> Fused:
    """Return (x, scale, offset, bias, seed) -> the layer normalisation of x + bias over the last axis."""

    def function(x: Tensor, scale: Tensor, offset: Tensor, seed: Tensor) -> Tensor:
        del seed
        centred, inverse_deviation = _centred_and_scale(x)
        return centred * inverse_deviation * scale + offset

    return fused(function, product=0)


@functools.cache
def dropout_add(rate: float) -> Fused:
    """Return (x, branch, bias, seed) or (x, branch, drop_path, bias, seed) -> x + dropout(branch + bias).

    With `drop_path`, the branch is also dropped for whole samples at that rate.
    """

    def function(x: Tensor, branch: Tensor, *others: Tensor) -> Tensor:
        *drop_path, seed = others
        branch = dropout(ops.reshape(branch, ops.shape(x)), rate, seed)
        return x + (dropout(branch, drop_path[0], seed, salt=1, whole_samples=True) if drop_path else branch)

    return fused(function, product=1)


@functools.cache
def softmax_dropout(rate: float) -> Fused:
    """Return (scores, seed) -> dropout(softmax(scores)) over the last axis, and its sums over that axis."""

    def forward(scores: Tensor, seed: Tensor) -> Tensors:
        wide = _at_least_float32(scores)
        maximum = ops.max(wide, axis=-1, keepdims=True)
        exponentials = ops.exp(wide - maximum)
        total = ops.sum(exponentials, axis=-1, keepdims=True)
        narrow = ops.cast if seed is None else _rounded
        weights = narrow(dropout(exponentials / total, rate, seed), scores.dtype)
        sums = ops.sum(_at_least_float32(weights), axis=-1)
        return weights, narrow(sums, scores.dtype), maximum + ops.log(total)

    def backward(saved: Tensors, gradients: Tensors) -> Tensors:
        # With w the softmax, k the mask and d = w k / (1 - rate) the weights after dropout, the gradient of the scores
        # is d g - w (d g)1: the mask need not be computed again.
        scores, weights_after_dropout, log_total = saved
        weights_gradient, sums_gradient = map(_at_least_float32, gradients)
        gradient = _at_least_float32(weights_after_dropout) * (weights_gradient + sums_gradient[..., None])
        weights = ops.exp(_at_least_float32(scores) - log_total)
        return (_rounded(gradient - weights * ops.sum(gradient, axis=-1, keepdims=True), scores.dtype),)

    def torch(scores: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        weights = dropout(ops.softmax(scores), rate, seed)
        return weights, ops.sum(weights, axis=-1)

    def save_for_backward(inputs: Tensors, outputs: Tensors) -> Tensors:
        return inputs[0], outputs[0], outputs[2]

    return fused_with_gradient(forward, save_for_backward, backward, 2, torch)
