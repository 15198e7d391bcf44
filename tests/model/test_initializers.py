"""Initial weights, and the seeds that they follow from."""

import numpy as np
import pytest
from keras import ops

from tnt_exp.model.initializers import TruncatedNormal, Uniform, derive_seed


def _numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def test_seeds_of_names_differ():
    seeds = [derive_seed(seed, name) for seed in range(20) for name in ("head", "block_1", "block_2", "")]
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
def test_initial_weights_are_the_same_on_every_backend(small):
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
