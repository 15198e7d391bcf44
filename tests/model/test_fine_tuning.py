"""Which weights decay, how deep they lie, which stand still."""

import pytest

from tnt_exp.model import freeze, is_decayed, layer_depth


@pytest.fixture
def network(small):
    return small(
        name="tnt",
        pixel_projection=True,
        patch_projection=True,
        qkv_bias=True,
        fusion="norm_dense",
        representation_size=7,
    )


def test_matrices_decay(network):
    still = ("bias", "gamma", "beta", "positions", "class_token")
    for variable in network.trainable_variables:
        name = variable.path.split("/")[-1]
        assert is_decayed(variable) == (not name.endswith(still)), variable.path
        assert is_decayed(variable) == (len(variable.shape) > 1 and name not in ("positions", "class_token"))


def test_depth(network, small):
    depths = {variable.path: layer_depth(variable.path, 2) for variable in network.trainable_variables}
    assert depths["tnt/pixel_embedding/kernel"] == depths["tnt/patch_embedding/positions"] == 0
    assert depths["tnt/block_1/inner/attention/qkv_kernel"] == 1
    assert depths["tnt/block_2/fusion/norm/gamma"] == 2
    assert depths["tnt/norm/gamma"] == depths["tnt/representation/kernel"] == depths["tnt/head/bias"] == 3
    assert set(depths.values()) == {0, 1, 2, 3}
    assert layer_depth(small(pool="sequence").pool.kernel.path, 2) == 3
    assert layer_depth("classifier/tnt/block_12/outer/mlp/reduce_bias", 12) == 12


@pytest.mark.parametrize(
    ("what", "moving"),
    [
        ("nothing", {"pixel_embedding", "patch_embedding", "block_1", "block_2", "norm", "representation", "head"}),
        ("backbone", {"norm", "representation", "head"}),
        ("all_but_head", {"representation", "head"}),
    ],
)
def test_freeze(network, what, moving):
    freeze(network, what)
    assert {variable.path.split("/")[1] for variable in network.trainable_variables} == moving
    freeze(network, "nothing")
    assert len(network.trainable_variables) == len([v for v in network.variables if "seed" not in v.path])


def test_freeze_keeps_the_pool_with_the_norm(small):
    network = small(pool="sequence")
    freeze(network, "backbone")
    assert network.pool.trainable_variables
    freeze(network, "all_but_head")
    assert not network.pool.trainable_variables


def test_unknown_part(network):
    with pytest.raises(ValueError, match="Expected freeze to be one of"):
        freeze(network, "stem")
