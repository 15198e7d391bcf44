"""Tokens, outputs of the blocks and attention weights of `TNT`."""

import numpy as np
import pytest
from keras import ops


def _numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


@pytest.mark.backend
@pytest.mark.parametrize(("pool", "tokens"), [("class_token", 10), ("average", 9)])
def test_features_are_what_is_pooled(small, images, pool, tokens):
    network = small(pool=pool)
    features = network.features(images)
    assert features.shape == (3, tokens, 24)
    np.testing.assert_allclose(_numpy(network.head(network.pool(features))), _numpy(network(images)), atol=1e-5)


@pytest.mark.backend
def test_block_outputs(small, images, block_outputs):
    network = small(inner_blocks=(2,))
    outputs = block_outputs(network, images)
    assert [(pixels.shape, patches.shape) for pixels, patches in outputs] == [((27, 16, 6), (3, 10, 24))] * 2
    np.testing.assert_allclose(_numpy(network.norm(outputs[-1][1])), _numpy(network.features(images)), atol=1e-5)


@pytest.mark.backend
def test_attention_weights(small, images):
    network = small(inner_blocks=(2,))
    (first_inner, first_outer), (inner, outer) = network.attention_weights(images)
    assert first_inner is None
    assert first_outer.shape == outer.shape == (3, 4, 10, 10)
    assert inner.shape == (27, 3, 16, 16)
    for weights in (first_outer, inner, outer):
        np.testing.assert_allclose(_numpy(weights).sum(axis=-1), 1, atol=1e-5)


def test_attention_weights_are_those_that_act(small, images, block_outputs):
    """The last block's outer attention, computed from its weights."""
    network = small()
    for variable in network.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(0, 0.3, variable.shape))
    block, (pixels, patches) = network.blocks[1], block_outputs(network, images)[0]
    weights = _numpy(network.attention_weights(images)[1][1])
    fused = patches + block.fusion(block.inner(pixels))
    normed = _numpy(block.outer.attention_norm(fused))
    attention = block.outer.attention
    values = (normed @ _numpy(attention.qkv_kernel)[:, 48:]).reshape(3, 10, 4, 6).transpose(0, 2, 1, 3)
    mixed = (weights @ values).transpose(0, 2, 1, 3).reshape(3, 10, 24)
    expected = mixed @ _numpy(attention.projection_kernel) + _numpy(attention.projection_bias)
    norm = block.outer.attention_norm
    acted = _numpy(attention(norm.standardize(fused), norm=norm)).reshape(3, 10, 24)
    np.testing.assert_allclose(acted, expected, rtol=1e-4, atol=1e-4)
