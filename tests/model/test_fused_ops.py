"""Kernels with gradients of their own have the gradient of the plain chain."""

from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

pytestmark = pytest.mark.backend

SEED = np.array([3, -7], np.int32)


def gradient(function: Callable[..., Any], x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """Of the sum of a function's outputs, weighted, compiled as in training."""
    import keras
    from keras import ops

    def loss(x: Any) -> Any:
        outputs = function(x, ops.convert_to_tensor(SEED))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return sum(
            ops.sum(output * ops.convert_to_tensor(weight)) for output, weight in zip(outputs, weights, strict=True)
        )

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def compiled(x: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(x)
            return tape.gradient(value, x)

        return np.asarray(compiled(tf.constant(x)))
    if backend == "jax":
        import jax

        return np.asarray(jax.jit(jax.grad(loss))(x))
    tensor = ops.convert_to_tensor(x).requires_grad_()
    loss(tensor).backward()
    assert tensor.grad is not None
    return np.asarray(ops.convert_to_numpy(tensor.grad))


def plain_standardize(x: Any, seed: Any) -> Any:
    from keras import ops

    del seed
    centred = x - ops.mean(x, axis=-1, keepdims=True)
    return centred / ops.sqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + 1e-5)


def plain_softmax_dropout(scores: Any, seed: Any) -> Any:
    from keras import ops

    from tnt_exp.model.dropout import dropout

    weights = dropout(ops.softmax(scores), 0.5, seed)
    return weights, ops.sum(weights, axis=-1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("width", [1, 4, 33])
def test_norm(width: int) -> None:
    from tnt_exp.model.fused_ops import standardize

    random = np.random.default_rng(0)
    x = random.normal(3, 2, (5, 6, width))
    weights = [random.normal(size=x.shape)]
    expected = gradient(plain_standardize, x, weights)
    np.testing.assert_allclose(gradient(standardize(), x, weights), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("width", [2, 4, 33])
def test_softmax_whose_weights_are_dropped(width: int) -> None:
    from tnt_exp.model.fused_ops import softmax_dropout

    random = np.random.default_rng(0)
    scores = random.normal(0, 5, (5, 6, width))
    weights = [random.normal(size=scores.shape), random.normal(size=scores.shape[:-1])]
    expected = gradient(plain_softmax_dropout, scores, weights)
    np.testing.assert_allclose(gradient(softmax_dropout(0.5), scores, weights), expected, rtol=1e-10, atol=1e-12)


def test_softmax_of_large_scores_is_finite() -> None:
    from tnt_exp.model.fused_ops import softmax_dropout

    scores = np.array([[1e4, 0.0, -1e4], [88.0, 89.0, 90.0]], np.float32)
    weights = [np.ones((2, 3), np.float32), np.zeros(2, np.float32)]
    assert np.isfinite(gradient(softmax_dropout(0.0), scores, weights)).all()


@pytest.mark.parametrize("name", ["gelu_dropout", "dropout_add"])
def test_chain_of_bfloat16_is_rounded_once(name: str) -> None:
    import keras
    from keras import ops

    from tnt_exp.model import fused_ops

    if keras.backend.backend() == "torch":
        pytest.skip("PyTorch has kernels of its own")
    chain = getattr(fused_ops, name)(0.3)
    random = np.random.default_rng(0)
    x, weights, bias = (_in_bfloat16(random.normal(0, 2, shape)) for shape in ((40, 50), (40, 50), (50,)))
    if keras.backend.backend() == "jax":  # rounds the sum before the chain
        bias = np.zeros_like(bias)

    def of(dtype: str) -> Callable[..., Any]:
        def function(x: Any, bias: Any, seed: Any) -> Any:
            values = [ops.cast(x, dtype)] * (2 if name == "dropout_add" else 1)
            return ops.cast(chain(*values, ops.cast(bias, dtype), seed), "float32")

        return function

    def to_x(dtype: str) -> np.ndarray:
        return gradient(lambda x, seed: of(dtype)(x, ops.convert_to_tensor(bias), seed), x, [weights])

    def to_bias(dtype: str) -> np.ndarray:
        return gradient(lambda bias, seed: of(dtype)(ops.convert_to_tensor(x), bias, seed), bias, [weights])

    # One rounding to 8 bits; dropout_add receives x twice, so that its gradients are added, too.
    rounded = 2**-8 if name == "gelu_dropout" else 2**-7
    # The gradient of a GELU of half precision is within 3e-5; times the largest weight and 1 / (1 - 0.3).
    near = 1e-6 if name == "dropout_add" else 3e-5 * np.abs(weights).max() / 0.7
    np.testing.assert_allclose(to_x("bfloat16"), to_x("float32"), rtol=rounded, atol=near)
    # Of 40 terms, each rounded.
    np.testing.assert_allclose(to_bias("bfloat16"), to_bias("float32"), rtol=2**-6, atol=40 * 2**-8)


def test_layer_normalisation_of_bfloat16_is_that_of_keras_rounded_once() -> None:
    import keras
    from keras import ops

    from tnt_exp.model.layers import Norm

    random = np.random.default_rng(0)
    x, weights = (_in_bfloat16(random.normal(0, 2, (64, 24))) for _ in range(2))
    bias, scale, offset = (_in_bfloat16(random.normal(0, 1, 24)) for _ in range(3))

    def of(dtype: str, argument: str) -> Callable[..., Any]:
        norm = Norm(dtype="float32" if dtype == "float32" else "mixed_bfloat16")
        norm.build((None, 24))

        def function(value: Any, seed: Any) -> Any:
            values = {"x": x, "bias": bias, "scale": scale, "offset": offset, argument: value}
            state = list(zip(norm.variables, [values.pop("scale"), values.pop("offset")], strict=True))
            with keras.StatelessScope(state_mapping=[(variable, ops.convert_to_tensor(v)) for variable, v in state]):
                inputs = [ops.cast(ops.convert_to_tensor(values[name]), dtype) for name in ("x", "bias")]
                return ops.cast(norm.normalize(*inputs, (-1, 8, 24), seed), "float32")

        return function

    weights = weights.reshape(8, 8, 24)
    for argument, value in (("x", x), ("bias", bias), ("scale", scale), ("offset", offset)):
        found, expected = (gradient(of(dtype, argument), value, [weights]) for dtype in ("bfloat16", "float32"))
        terms = 1 if argument == "x" else 64
        # Keras itself, on the other backends, adds the bias in bfloat16.
        np.testing.assert_allclose(found, expected, rtol=2**-6, atol=terms * 2**-6, err_msg=argument)


def _in_bfloat16(x: np.ndarray) -> np.ndarray:
    """Return numbers that bfloat16 has, in float32."""
    from keras import ops

    return np.asarray(ops.convert_to_numpy(ops.cast(x, "bfloat16")), np.float32)


@hypothesis.given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
@hypothesis.example([1.00390625, 1.01171875, -1.00390625, 3.4e38, -0.0, 1e-45, float("inf"), float("-inf")])
def test_results_of_kernels_are_rounded_as_a_cast_does(numbers: list[float]) -> None:
    import ml_dtypes
    from keras import ops

    from tnt_exp.model import fused_ops

    x = np.array([*numbers, np.nan], np.float32)
    rounded = ops.convert_to_numpy(ops.cast(fused_ops._rounded(ops.convert_to_tensor(x), "bfloat16"), "float32"))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(rounded, x.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_gradient_of_a_bias_in_bfloat16_is_that_of_all_rows() -> None:
    from keras import ops

    from tnt_exp.model.fused_ops import dense

    random = np.random.default_rng(0)
    x, kernel, weights = (random.normal(size=shape).astype(np.float32) for shape in ((16_384, 4), (4, 6), (16_384, 6)))

    def function(bias: Any, seed: Any) -> Any:
        del seed
        product = dense(*(ops.cast(ops.convert_to_tensor(value), "bfloat16") for value in (x, kernel)), bias)
        return ops.cast(product, "float32")

    found = gradient(lambda bias, seed: function(ops.cast(bias, "bfloat16"), seed), np.zeros(6, np.float32), [weights])
    # A sum of 16,384 numbers of about 1: each has lost at most 2**-9 of itself, the sum as much again.
    np.testing.assert_allclose(found, weights.sum(axis=0), rtol=2**-8, atol=1.0)
