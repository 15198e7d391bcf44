"""The decay that TensorFlow Addons' AdamW applied, reproduced with Keras'."""

from typing import Any

import numpy as np
import pytest

from tnt_exp.config.compose import compose
from tnt_exp.training import optimizer as optimizers


@pytest.mark.backend
def test_decay_of_the_keras_example_has_no_learning_rate_factor() -> None:
    """One step of w <- w - 2e-4 w - lr m / (sqrt(v) + eps): Addons' update, computed here by hand."""
    import keras
    from keras import ops

    config = compose(["optimizer=keras_example"]).optimizer
    start, gradient = np.array([1.0, -2.0, 3.0], np.float32), np.array([0.3, 0.0, -5.0], np.float32)
    variable = keras.Variable(start)
    optimizer = optimizers.build(config, [variable], lambda _: True, scale_loss=False)
    optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    first, second = 0.1 * gradient, 0.001 * gradient**2
    rate = 1e-3 * np.sqrt(1 - 0.999) / (1 - 0.9)
    decayed = start - 2e-4 * start
    expected = decayed - rate * first / (np.sqrt(second) + 1e-7)
    np.testing.assert_allclose(ops.convert_to_numpy(variable), expected, rtol=1e-6)


def test_decay_of_matrices_spares_the_rest() -> None:
    import keras
    from keras import ops

    config = compose(["optimizer.weight_decay=0.5", "optimizer.learning_rate=0.1"]).optimizer
    matrix, bias = keras.Variable(np.ones((2, 2), np.float32)), keras.Variable(np.ones(2, np.float32))
    optimizer = optimizers.build(config, [matrix, bias], lambda v: len(v.shape) > 1, scale_loss=False)
    zeros: list[Any] = [keras.ops.zeros(variable.shape) for variable in (matrix, bias)]
    optimizer.apply(zeros, [matrix, bias])
    np.testing.assert_allclose(ops.convert_to_numpy(matrix), 0.95, rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(bias), 1.0)
