"""Initial weights, dropout and what both follow from."""

import keras
import numpy as np
import pytest
from keras import ops

from tnt_exp.model import TNT
from tnt_exp.model.dropout import Dropout
from tnt_exp.model.initializers import TruncatedNormal, Uniform, derive_seed


def _numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


@pytest.fixture
def step():
    """A step's seed."""
    dtype = keras.random.SeedGenerator(0).state.dtype
    return lambda *numbers: ops.convert_to_tensor(np.array(numbers), dtype)


def test_seeds_of_places_differ():
    seeds = [derive_seed(seed, place) for seed in range(20) for place in ("head", "block_1", "block_2", "")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, "head") == 347_756_088  # the same in every version, or checkpoints would not continue


@pytest.mark.backend
def test_truncated_normal():
    values = _numpy(TruncatedNormal(0.02, seed=3)((300, 400)))
    assert values.std() == pytest.approx(0.02, rel=0.01)
    assert abs(values.mean()) < 2e-4
    assert np.abs(values).max() <= 2 * 0.02 / 0.879
    assert np.abs(values).max() > 1.9 * 0.02 / 0.88


@pytest.mark.backend
def test_uniform():
    values = _numpy(Uniform(0.3, seed=3)((300, 400)))
    assert np.abs(values).max() == pytest.approx(0.3, rel=1e-3)
    assert values.std() == pytest.approx(0.3 / 3**0.5, rel=0.01)


@pytest.mark.backend
def test_weights_start_the_same_on_every_backend(small):
    network = small(initialization="truncated_normal")
    sums = [float(np.abs(_numpy(v)).sum()) for v in (network.pixel_embedding.kernel, network.blocks[1].fusion.kernel)]
    np.testing.assert_allclose(sums, [36.141987, 38.462933], rtol=1e-4)


def test_truncated_normal_is_the_papers(small):
    network = small(embed_dim=48, num_heads=4)
    for variable in network.trainable_variables:
        value, name = _numpy(variable), variable.path.split("/")[-1]
        if name.endswith(("bias", "beta")):
            assert (value == 0).all()
        elif name == "gamma":
            assert (value == 1).all()
        elif "pixel_embedding/kernel" in variable.path:  # PyTorch's default for a convolution
            assert np.abs(value).max() == pytest.approx((7 * 7 * 3) ** -0.5, rel=0.01)
        elif value.size > 500:
            assert value.std() == pytest.approx(0.02, rel=0.1), variable.path


@pytest.mark.backend
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_mean(step, rate):
    dropped = _numpy(Dropout(rate, seed=5)(ops.ones((100, 40, 30)), step(1, 2)))
    zeros = (dropped == 0).mean()
    assert zeros == pytest.approx(rate, abs=0.005)
    np.testing.assert_allclose(dropped[dropped > 0], 1 / (1 - rate), rtol=1e-5)


@pytest.mark.backend
def test_drop_path_drops_whole_samples(step):
    dropped = _numpy(Dropout(0.3, whole_samples=True)(ops.ones((2000, 3, 4)), step(1, 2)))
    assert (dropped == dropped[:, :1, :1]).all()
    assert (dropped[:, 0, 0] == 0).mean() == pytest.approx(0.3, abs=0.04)


@pytest.mark.backend
def test_places_and_steps_drop_independently(step):
    x = ops.ones((100, 100))
    masks = [
        _numpy(Dropout(0.5, seed=place)(x, step(7, count))) == 0
        for place in (derive_seed(0, "a"), derive_seed(0, "b"))
        for count in (0, 1, 2)
    ]
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            assert (mask == other).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.backend
def test_randomness_is_one_variable_and_goes_on_from_it(small, images):
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
    """With dropout: what is computed again in the backward pass must drop the same values."""
    options = {"mlp_dropout": 0.3, "drop_path": 0.4}
    found = []
    for remat in (False, True):
        network = small(**options, remat=remat)

        def loss(network=network):
            return ops.mean(network(ops.convert_to_tensor(images), training=True) ** 2)

        found.append(gradients(network, loss))
        assert int(_numpy(network.seed_generator.state)[1]) == 1  # one step's seed was taken, not one a pass
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
