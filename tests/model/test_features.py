"""Tokens, block outputs, attention maps and their picture."""

import numpy as np
import pytest
from keras import ops

from tnt_exp.model import Classifier, Preprocess
from tnt_exp.model.attention_picture import attention_picture


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
def test_block_outputs(small, images):
    network = small(inner_blocks=(2,))
    outputs = network.block_outputs(images)
    assert [(pixels.shape, patches.shape) for pixels, patches in outputs] == [((27, 16, 6), (3, 10, 24))] * 2
    np.testing.assert_allclose(_numpy(network.norm(outputs[-1][1])), _numpy(network.features(images)), atol=1e-5)


@pytest.mark.backend
def test_attention_maps(small, images):
    network = small(inner_blocks=(2,))
    (first_inner, first_outer), (inner, outer) = network.attention(images)
    assert first_inner is None
    assert first_outer.shape == outer.shape == (3, 4, 10, 10)
    assert inner.shape == (27, 3, 16, 16)
    for maps in (first_outer, inner, outer):
        np.testing.assert_allclose(_numpy(maps).sum(axis=-1), 1, atol=1e-5)


def test_maps_are_those_that_act(small, images):
    """The last block's outer attention, put together from its maps."""
    network = small()
    for variable in network.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(0, 0.3, variable.shape))
    block, (pixels, patches) = network.blocks[1], network.block_outputs(images)[0]
    maps = _numpy(network.attention(images)[1][1])
    fused = patches + block.fusion(block.inner(pixels))
    normed = _numpy(block.outer.attention_norm(fused))
    attention = block.outer.attention
    values = (normed @ _numpy(attention.qkv_kernel)[:, 48:]).reshape(3, 10, 4, 6).transpose(0, 2, 1, 3)
    mixed = (maps @ values).transpose(0, 2, 1, 3).reshape(3, 10, 24)
    expected = mixed @ _numpy(attention.projection_kernel) + _numpy(attention.projection_bias)
    norm = block.outer.attention_norm
    acted = _numpy(attention(norm.standardized(fused), norm=norm)).reshape(3, 10, 24)
    np.testing.assert_allclose(acted, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "pool"), [(3, "class_token"), (1, "average")])
def test_picture(small, channels, pool):
    classifier = Classifier(Preprocess(24), small(channels=channels, pool=pool))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, channels)).astype("uint8")
    picture = attention_picture(classifier, pixels)
    assert picture.shape == (2, 240, 480, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:, ::10, :240:10], np.broadcast_to(pixels, (2, 24, 24, 3)))
    assert (picture[:, :, 240:] <= picture[:, :, :240]).all()
    assert not np.array_equal(picture, attention_picture(classifier, pixels, block=1))


def test_picture_is_bright_where_attention_falls(small):
    classifier = Classifier(Preprocess(24), small(pool="average"))
    network = classifier.network
    maps = np.full((1, 4, 9, 9), 0.05)
    maps[..., 4] = 0.6  # the middle patch
    network.attention = lambda images: [(None, maps)] * 2
    right = attention_picture(classifier, np.full((1, 24, 24, 3), 200, "uint8"))[0, :, 240:, 0]
    assert right[110:130, 110:130].min() > 180
    assert right[:40, :40].max() < 60


def test_picture_of_a_block_that_is_not_there(small):
    with pytest.raises(ValueError, match="Expected a block from 1 to 2, received: block=3"):
        attention_picture(Classifier(Preprocess(24), small()), np.zeros((1, 24, 24, 3), "uint8"), block=3)
