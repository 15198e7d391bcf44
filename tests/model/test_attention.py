"""The folded attention is attention: in float64, with biases, offsets and dropped weights."""

import numpy as np
import pytest
from keras import ops

from tnt_exp.model.attention import Attention
from tnt_exp.model.fused_ops import softmax_dropout
from tnt_exp.model.layers import Norm
from tnt_exp.model.tnt_config import TNTConfig

pytestmark = pytest.mark.backend

TOKENS, DIM, HEADS = 5, 8, 3


@pytest.fixture
def layers(float64):
    """An attention whose heads have the token's full width, the norm before it, and standardised tokens."""
    random = np.random.default_rng(0)
    config = TNTConfig(5, head_width="full", qkv_bias=True, attention_dropout=0.4)
    attention, norm = Attention(config, DIM, HEADS, dtype="float64"), Norm(dtype="float64")
    for layer in (attention, norm):
        layer.build((None, TOKENS, DIM))
        layer.set_weights([random.normal(size=weight.shape) for weight in layer.weights])
    tokens = random.normal(size=(4, TOKENS, DIM))
    return attention, norm, norm.standardize(ops.convert_to_tensor(tokens, "float64"))


def _numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def _plain(attention, norm, y, mask):
    """softmax(q k^T / sqrt(width)) * mask, times v, projected; in NumPy, from the weights."""
    x = _numpy(y) * _numpy(norm.gamma) + _numpy(norm.beta)
    qkv = x @ _numpy(attention.qkv_kernel) + _numpy(attention.qkv_bias)
    q, k, v = qkv.reshape(4, TOKENS, 3, HEADS, DIM).transpose(2, 0, 3, 1, 4)
    scores = q @ k.transpose(0, 1, 3, 2) / DIM**0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True) * mask
    mixed = (weights @ v).transpose(0, 2, 1, 3).reshape(4 * TOKENS, HEADS * DIM)
    return mixed @ _numpy(attention.projection_kernel) + _numpy(attention.projection_bias)


def test_at_inference(layers):
    attention, norm, y = layers
    assert attention.is_folded
    found = _numpy(ops.add(*attention(y, norm=norm)))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, _plain(attention, norm, y, 1.0), rtol=1e-12, atol=1e-12)


def test_with_dropped_weights(layers):
    """A query whose weights no longer sum to one has that much less of the value's bias, too."""
    attention, norm, y = layers
    seed = ops.convert_to_tensor(np.array([1, 2], "int32"))
    ones = ops.zeros((4, TOKENS * HEADS, TOKENS), "float64")
    mask = _numpy(softmax_dropout(0.4)(ones, seed)[0]) * TOKENS
    assert set(np.unique(mask.round(6))) == {0.0, round(1 / 0.6, 6)}
    mask = mask.reshape(4, TOKENS, HEADS, TOKENS).transpose(0, 2, 1, 3)
    found = _numpy(ops.add(*attention(y, norm=norm, seed=seed)))
    np.testing.assert_allclose(found, _plain(attention, norm, y, mask), rtol=1e-12, atol=1e-12)
