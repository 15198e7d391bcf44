"""Dropout and drop path, and the one variable that their randomness follows from."""

import keras
import numpy as np
import pytest
from keras import ops

from tnt_exp.model import TNT
from tnt_exp.model.dropout import dropout
from tnt_exp.model.initializers import derive_seed


def _numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


@pytest.fixture
def step():
    """Return the seed of a step."""
    dtype = keras.random.SeedGenerator(0).state.dtype
    return lambda *numbers: ops.convert_to_tensor(np.array(numbers), dtype)


@pytest.mark.backend
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_mean(step, rate):
    dropped = _numpy(dropout(ops.ones((100, 40, 30)), rate, step(1, 2), 5))
    zeros = (dropped == 0).mean()
    assert zeros == pytest.approx(rate, abs=0.005)
    np.testing.assert_allclose(dropped[dropped > 0], 1 / (1 - rate), rtol=1e-5)


@pytest.mark.backend
def test_drop_path_drops_whole_samples(step):
    dropped = _numpy(dropout(ops.ones((2000, 3, 4)), 0.3, step(1, 2), whole_samples=True))
    assert (dropped == dropped[:, :1, :1]).all()
    assert (dropped[:, 0, 0] == 0).mean() == pytest.approx(0.3, abs=0.04)


@pytest.mark.backend
def test_layers_and_steps_drop_independently(step):
    x = ops.ones((100, 100))
    masks = [
        _numpy(dropout(x, 0.5, step(7, count), layer)) == 0
        for layer in (derive_seed(0, "a"), derive_seed(0, "b"))
        for count in (0, 1, 2)
    ]
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            assert (mask == other).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.backend
def test_randomness_is_one_variable_and_continues_from_it(small, images):
    network, again = small(mlp_dropout=0.3, drop_path=0.2), small(mlp_dropout=0.3, drop_path=0.2)
    for _ in range(3):
        network(images, training=True)
    (state,) = network.non_trainable_variables
    assert _numpy(state)[1] == 3
    again.non_trainable_variables[0].assign(state)
    np.testing.assert_array_equal(_numpy(network(images, training=True)), _numpy(again(images, training=True)))


@pytest.mark.backend
def test_inference_moves_no_randomness(small, images):
    network = small(mlp_dropout=0.3)
    before = _numpy(network.seed_generator.state)
    network(images)
    np.testing.assert_array_equal(_numpy(network.seed_generator.state), before)


@pytest.mark.backend
def test_rematerialisation_changes_no_gradient(small, images, gradients):
    """With dropout: the computation in the backward pass must drop the same values."""
    options = {"mlp_dropout": 0.3, "drop_path": 0.4}
    found = []
    for remat in (False, True):
        network = small(**options, remat=remat)

        def loss(network=network):
            return ops.mean(network(ops.convert_to_tensor(images), training=True) ** 2)

        found.append(gradients(network, loss))
        assert int(_numpy(network.seed_generator.state)[1]) == 1  # one seed was drawn, not one per pass
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for plain, again in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(plain, again, rtol=1e-3, atol=1e-6)


def test_models_of_other_sizes_share_no_state():
    """Two networks in one process neither share weights nor randomness."""
    first, second = TNT(3, mlp_dropout=0.5, depth=1), TNT(3, mlp_dropout=0.5, depth=1)
    images = np.zeros((1, 32, 32, 3), "float32")
    first(images, training=True)
    assert int(_numpy(first.seed_generator.state)[1]) == 1
    assert int(_numpy(second.seed_generator.state)[1]) == 0
