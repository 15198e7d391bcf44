"""The network of the keras.io example, built anew from stock Keras layers, against ours with the same weights."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tnt_exp.model import build

pytestmark = pytest.mark.backend

PIXELS, PATCHES, INNER, OUTER = 4, 144, 32, 64


class _Positions(layers.Layer):
    """Adds an Embedding of the token's number."""

    def __init__(self, tokens, width, **kwargs):
        super().__init__(**kwargs)
        self.tokens = tokens
        self.embedding = layers.Embedding(tokens, width)

    def build(self, input_shape):
        self.embedding.build((self.tokens,))

    def call(self, x):
        return x + self.embedding(ops.arange(self.tokens))


def _stock():
    """The example's model from uint8 images on, without augmentation and softmax; its layers in order of creation."""
    made = []

    def use(layer, *inputs):
        made.append(layer)
        return layer(*inputs)

    def norm(x):
        return use(layers.LayerNormalization(epsilon=1e-5), x)

    def transformer(x, width, heads):
        y = norm(x)
        x = x + use(layers.MultiHeadAttention(heads, key_dim=width, dropout=0.5), y, y)
        y = use(layers.Dense(4 * width, activation=lambda h: keras.activations.gelu(h, approximate=False)), norm(x))
        y = layers.Dropout(0.2)(use(layers.Dense(width), layers.Dropout(0.2)(y)))
        return x + y

    def joined(pixels):
        return ops.reshape(pixels, (-1, PATCHES, PIXELS * INNER))

    inputs = keras.Input((32, 32, 3))
    x = layers.Resizing(96, 96)(layers.Rescaling(1 / 255)(inputs))
    x = use(layers.Conv2D(INNER, 7, strides=4, padding="same"), x)
    x = ops.image.extract_patches(x, (2, 2), padding="valid")
    pixels = use(layers.Dense(INNER), ops.reshape(x, (-1, PIXELS, INNER)))
    pixels = use(_Positions(PIXELS, INNER), pixels)
    patches = norm(use(layers.Dense(OUTER), norm(joined(pixels))))
    patches = use(_Positions(PATCHES, OUTER), use(layers.Dense(OUTER), patches))
    patches = layers.Dropout(0.5)(patches)
    for _ in range(5):
        pixels = transformer(pixels, INNER, 2)
        patches = patches + use(layers.Dense(OUTER), norm(joined(pixels)))
        patches = transformer(patches, OUTER, 4)
    outputs = use(layers.Dense(100), layers.GlobalAveragePooling1D()(norm(patches)))
    return keras.Model(inputs, outputs), made


def _weights(layer):
    """The weights of a layer in our layout: query, key and value side by side."""
    if not isinstance(layer, layers.MultiHeadAttention):
        return layer.get_weights()
    q, q_bias, k, k_bias, v, v_bias, out, out_bias = layer.get_weights()
    width = q.shape[0]
    kernel = np.concatenate([part.reshape(width, -1) for part in (q, k, v)], axis=1)
    return [kernel, np.concatenate([q_bias, k_bias, v_bias]).ravel(), out.reshape(-1, width), out_bias]


def _in_order(network):
    """Our weights, in the order in which the example creates its layers."""

    def transformer(part):
        return [
            *part.attention_norm.weights,
            *part.attention.weights,
            *part.mlp_norm.weights,
            *part.mlp.weights,
        ]

    pixels, patches = network.pixel_embedding, network.patch_embedding
    ours = [*pixels.weights, *patches.pixel_norm.weights, patches.kernel, patches.bias, *patches.patch_norm.weights]
    ours += [patches.projection_kernel, patches.projection_bias, patches.positions]
    for block in network.blocks:
        ours += [*transformer(block.inner), *block.fusion.norm.weights, block.fusion.kernel, block.fusion.bias]
        ours += transformer(block.outer)
    return [*ours, *network.norm.weights, *network.head.weights]


@pytest.fixture(scope="module")
def pair():
    from tnt_exp.config.compose import compose

    keras.utils.set_random_seed(0)
    stock, made = _stock()
    model = build(compose(["model=keras_example"]).model, 100, 3)
    return stock, made, model


def _limit_of_2021(variable):
    """The limit of the uniform distribution the example drew from; None where it is Glorot's as Keras has it today.

    In attention Keras took (dim, heads, head) and (heads, head, dim) for a convolution's (window, inputs, outputs);
    today it looks at how many numbers go in and out. An Embedding draws from -0.05 to 0.05.
    """
    if variable.path.endswith("positions"):
        return 0.05
    heads, dim = {"inner": (2, INNER), "outer": (4, OUTER)}.get(variable.path.split("/")[2], (0, 0))
    if "attention/qkv" in variable.path:
        return (6 / (dim * heads + dim * dim)) ** 0.5
    if "attention/projection" in variable.path:
        return (6 / (heads * dim + heads * dim)) ** 0.5
    return None


def test_weights_start_as_there(pair):
    _, made, model = pair
    theirs = [weight for layer in made for weight in _weights(layer)]
    for expected, variable in zip(theirs, _in_order(model.network), strict=True):
        received = np.asarray(ops.convert_to_numpy(variable))
        assert received.shape == expected.shape, variable.path
        if variable.path.endswith(("kernel", "positions")):
            # Both uniform: the same limit, the same deviation.
            limit = _limit_of_2021(variable) or np.abs(expected).max()
            assert np.abs(received).max() == pytest.approx(limit, rel=0.05), variable.path
            assert received.std() == pytest.approx(limit / 3**0.5, rel=0.15), variable.path
        else:
            np.testing.assert_array_equal(received, expected, err_msg=variable.path)


def test_logits(pair):
    stock, made, model = pair
    assert stock.count_params() == model.count_params() == 660_164
    random = np.random.default_rng(0)
    for variable in stock.trainable_variables:
        variable.assign(np.asarray(ops.convert_to_numpy(variable)) + random.normal(0, 0.05, variable.shape))
    theirs = [weight for layer in made for weight in _weights(layer)]
    for value, variable in zip(theirs, _in_order(model.network), strict=True):
        variable.assign(value)
    images = random.integers(0, 256, (4, 32, 32, 3)).astype("uint8")
    expected = stock.predict(images.astype("float32"), verbose=0)
    received = model.predict(images, verbose=0)
    assert expected.std() > 0.1
    np.testing.assert_allclose(received, expected, atol=1e-5, rtol=1e-5)


def test_dropouts_are_where_they_are_there(pair):
    network = pair[2].network
    assert network.patch_embedding.config.embedding_dropout == 0.5
    assert network.config.drop_path == 0
    for block in network.blocks:
        for part in (block.inner, block.outer):
            assert part.attention.config.attention_dropout == 0.5
            assert part.mlp.config.mlp_dropout == part.config.mlp_dropout == 0.2
