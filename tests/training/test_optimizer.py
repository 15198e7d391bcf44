"""The decay that TensorFlow Addons' AdamW applied, reproduced with Keras'."""

from typing import Any

import numpy as np
import pytest

from tnt_exp.config.compose import compose
from tnt_exp.training import optimizer as optimizers


def move(packed: Any, gradients: list[Any]) -> None:
    """The variables, by their gradients."""
    packed.apply(packed.flatten(gradients))
    packed.copy_to_variables()


@pytest.mark.backend
def test_decay_of_the_keras_example_has_no_learning_rate_factor() -> None:
    """One step of w <- w - 2e-4 w - lr m / (sqrt(v) + eps): Addons' update, computed here by hand."""
    import keras
    from keras import ops

    config = compose(["optimizer=keras_example"]).optimizer
    start, gradient = np.array([1.0, -2.0, 3.0], np.float32), np.array([0.3, 0.0, -5.0], np.float32)
    variable = keras.Variable(start)
    optimizer = optimizers.build_optimizer(config, [variable], lambda _: True, scale_loss=False)
    move(optimizer, [keras.ops.convert_to_tensor(gradient)])
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
    optimizer = optimizers.build_optimizer(config, [matrix, bias], lambda v: len(v.shape) > 1, scale_loss=False)
    zeros: list[Any] = [keras.ops.zeros(variable.shape) for variable in (matrix, bias)]
    move(optimizer, zeros)
    np.testing.assert_allclose(ops.convert_to_numpy(matrix), 0.95, rtol=1e-6)
    np.testing.assert_array_equal(ops.convert_to_numpy(bias), 1.0)


def is_matrix(variable: Any) -> bool:
    return len(variable.shape) == 2


def updated(*overrides: str) -> np.ndarray:
    """A matrix and a bias after six steps with drawn gradients (muon and lion forget a gradient's length)."""
    import keras
    from keras import ops

    config = compose(list(overrides)).optimizer
    start = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    matrix, bias = keras.Variable(start), keras.Variable(start[0])
    optimizer = optimizers.build_optimizer(config, [matrix, bias], is_matrix, is_hidden=is_matrix, scale_loss=False)
    random = np.random.default_rng(0)
    for _ in range(6):
        gradients = [random.normal(size=shape).astype(np.float32) for shape in ((3, 4), (4,))]
        move(optimizer, [ops.convert_to_tensor(gradient) for gradient in gradients])
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


ALGORITHMS: dict[str, dict[str, Any]] = {"adamw": {}, "sgd": {"momentum": 0.9}, "lion": {}, "muon": {}}


@pytest.mark.backend
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_joined_variables_are_updated_as_keras_updates_each(algorithm: str) -> None:
    """With decay, clipping and averages; the numbers of Keras' own optimizer on the variables themselves."""
    import keras
    from keras import ops

    random = np.random.default_rng(0)
    shapes = [(3, 4), (4,), (4, 2), (2,), (5, 1, 2)]
    start = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    gradients = [[random.normal(size=shape).astype(np.float32) for shape in shapes] for _ in range(5)]
    ours, theirs = ([keras.Variable(value) for value in start] for _ in range(2))
    overrides = [f"optimizer.name={algorithm}", "optimizer.learning_rate=0.01", "optimizer.weight_decay=0.1"]
    config = compose([*overrides, "optimizer.clip_norm=1", "optimizer.ema=0.8", "optimizer.decay=matrices"]).optimizer
    kernels = [variable for variable in ours if len(variable.shape) == 2]
    packed = optimizers.build_optimizer(
        config,
        ours,
        lambda variable: len(variable.shape) > 1,
        is_hidden=lambda variable: any(variable is kernel for kernel in kernels),
        scale_loss=False,
    )
    common = {"learning_rate": 0.01, "weight_decay": 0.1, "global_clipnorm": 1.0, "use_ema": True, "ema_momentum": 0.8}
    known = {
        "adamw": lambda: keras.optimizers.AdamW(
            beta_1=config.beta_1, beta_2=config.beta_2, epsilon=config.epsilon, **common
        ),
        "sgd": lambda: keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov, **common),
        "lion": lambda: keras.optimizers.Lion(beta_1=config.beta_1, beta_2=config.beta_2, **common),
        "muon": lambda: keras.optimizers.Muon(
            adam_beta_1=config.beta_1,
            adam_beta_2=config.beta_2,
            adam_weight_decay=0.1,
            epsilon=config.epsilon,
            momentum=config.momentum,
            nesterov=config.nesterov,
            **common,
        ),
    }
    keras_own = known[algorithm]()
    keras_own.exclude_from_weight_decay(var_list=[variable for variable in theirs if len(variable.shape) == 1])
    keras_own.build(theirs)
    for gradient in gradients:
        move(packed, [ops.convert_to_tensor(part) for part in gradient])
        keras_own.apply([ops.convert_to_tensor(part) for part in gradient], theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-5, atol=1e-7)
    averages = packed.ema_values()
    assert averages is not None
    for one, other in zip(averages, keras_own._model_variables_moving_average, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(one), ops.convert_to_numpy(other), rtol=1e-5, atol=1e-7)
    moved = max(np.abs(ops.convert_to_numpy(one) - old).max() for one, old in zip(ours, start, strict=True))
    assert moved > 0.01


@pytest.mark.backend
def test_factor_of_a_variable_scales_its_step() -> None:
    import keras
    from keras import ops

    config = compose(["optimizer.weight_decay=0.1"]).optimizer
    start = np.linspace(-1, 1, 6, dtype=np.float32)
    moves = []
    for factors in ([1.0, 1.0, 1.0], [0.5, 0.0, 1.0]):
        variables = [keras.Variable(start) for _ in factors]
        packed = optimizers.build_optimizer(
            config, variables, lambda _: True, learning_rate_factors=factors, scale_loss=False
        )
        move(packed, [ops.convert_to_tensor(start + 2)] * 3)
        moves.append([ops.convert_to_numpy(variable) - start for variable in variables])
    whole, scaled = moves
    np.testing.assert_allclose(scaled[0], 0.5 * whole[0], rtol=1e-4)
    np.testing.assert_array_equal(scaled[1], 0)
    np.testing.assert_allclose(scaled[2], whole[2], rtol=1e-6)
