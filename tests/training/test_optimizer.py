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
    optimizer.apply([keras.ops.convert_to_tensor(gradient)])
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
    optimizer.apply(zeros)
    np.testing.assert_allclose(ops.convert_to_numpy(matrix), 0.95, rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(bias), 1.0)


def updated(*overrides: str) -> np.ndarray:
    """A matrix and a bias after six steps with drawn gradients (muon and lion forget a gradient's length)."""
    import keras
    from keras import ops

    config = compose(list(overrides)).optimizer
    start = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    matrix, bias = keras.Variable(start), keras.Variable(start[0])
    optimizer = optimizers.build(config, [matrix, bias], lambda v: len(v.shape) > 1, scale_loss=False)
    random = np.random.default_rng(0)
    for _ in range(6):
        slopes = [random.normal(size=shape).astype(np.float32) for shape in ((3, 4), (4,))]
        optimizer.apply([ops.convert_to_tensor(slope) for slope in slopes])
    return np.concatenate([ops.convert_to_numpy(matrix).ravel(), ops.convert_to_numpy(bias)])


@pytest.mark.parametrize(
    ("algorithm", "override"),
    [
        ("adamw", "optimizer.learning_rate=0.5"),
        ("adamw", "optimizer.weight_decay=0.9"),
        ("adamw", "optimizer.decay=all"),
        ("adamw", "optimizer.beta_1=0.5"),
        ("adamw", "optimizer.beta_2=0.5"),
        ("adamw", "optimizer.epsilon=0.5"),
        ("adamw", "optimizer.accumulation=2"),
        ("lion", "optimizer.beta_1=0.5"),
        ("lion", "optimizer.beta_2=0.1"),
        ("sgd", "optimizer.momentum=0.1"),
        ("sgd", "optimizer.nesterov=false"),
        ("sgd", "optimizer.clip_norm=0.01"),
        ("muon", "optimizer.momentum=0.1"),
        ("muon", "optimizer.nesterov=false"),
        ("muon", "optimizer.beta_1=0.5"),
        ("muon", "optimizer.epsilon=0.5"),
    ],
)
def test_setting_changes_the_update(algorithm: str, override: str) -> None:
    common = (f"optimizer={algorithm}", "optimizer.learning_rate=0.1", "optimizer.weight_decay=0.5")
    assert np.abs(updated(*common) - updated(*common, override)).max() > 1e-6


def test_algorithms_differ() -> None:
    results = [updated(f"optimizer={name}", "optimizer.learning_rate=0.1") for name in ("adamw", "sgd", "lion", "muon")]
    for index, one in enumerate(results):
        for other in results[index + 1 :]:
            assert np.abs(one - other).max() > 1e-3
