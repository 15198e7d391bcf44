"""Every layer builds, computes, differentiates, saves and compiles, on every backend."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from tnt_exp.model import TNT, Classifier, Preprocess
from tnt_exp.model.blocks import Fusion, TNTBlock, Transformer
from tnt_exp.model.dropout import dropout
from tnt_exp.model.embedding import PatchEmbedding, PixelEmbedding
from tnt_exp.model.layers import Pool
from tnt_exp.model.tnt_config import TNTConfig

pytestmark = pytest.mark.backend

# 2 images of 24 px in 9 patches of 16 pixels, widths 6 and 24.
IMAGES, PIXELS, PATCHES, TOKENS = (2, 24, 24, 3), (18, 16, 6), (2, 9, 24), (2, 10, 24)
NETWORK = {"num_classes": 5, "image_size": 24, "stride": 2, "depth": 2, "embed_dim": 24, "inner_dim": 6}
HEADS = {"num_heads": 4, "inner_num_heads": 3}
DROPS = {"attention_dropout": 0.3, "mlp_dropout": 0.3}


def config(**changes):
    """The configuration that a layer of such a network reads."""
    return TNTConfig(**{**NETWORK, **HEADS, **changes})


CASES = {
    "dropout": (lambda: DropoutLayer(), [PIXELS], [PIXELS]),
    "drop_path": (lambda: DropoutLayer(whole_samples=True), [PIXELS], [PIXELS]),
    "transformer": (lambda: Transformer(config(**DROPS), 24, 4), [TOKENS], [TOKENS]),
    "transformer_wide": (
        lambda: Transformer(config(head_width="full", qkv_bias=True, **DROPS), 6, 2),
        [PIXELS],
        [PIXELS],
    ),
    "fusion_paper": (lambda: Fusion(config()), [PIXELS], [TOKENS]),
    "fusion_example": (lambda: Fusion(config(fusion="norm_dense", pool="average")), [PIXELS], [PATCHES]),
    "fusion_legacy": (lambda: Fusion(config(fusion="pixel_norm_dense")), [PIXELS], [TOKENS]),
    "block": (lambda: TNTBlock(config(**DROPS), 1), [PIXELS, TOKENS], [PIXELS, TOKENS]),
    "block_without_inner": (lambda: TNTBlock(config(inner_blocks=(2,)), 1), [PIXELS, TOKENS], [PIXELS, TOKENS]),
    "pixels": (lambda: PixelEmbedding(config()), [IMAGES], [PIXELS]),
    "pixels_image": (lambda: PixelEmbedding(config(stem="image", pixel_position=False)), [IMAGES], [PIXELS]),
    "pixels_same": (lambda: PixelEmbedding(config(stem="image_same", pixel_projection=True)), [IMAGES], [PIXELS]),
    "patches": (lambda: PatchEmbedding(config(embedding_dropout=0.3)), [PIXELS], [TOKENS]),
    "patches_example": (
        lambda: PatchEmbedding(config(patch_projection=True, pool="average", patch_position=False)),
        [PIXELS],
        [PATCHES],
    ),
    "pool_class_token": (lambda: Pool(config()), [TOKENS], [(2, 24)]),
    "pool_average": (lambda: Pool(config(pool="average")), [TOKENS], [(2, 24)]),
    "pool_sequence": (lambda: Pool(config(pool="sequence")), [TOKENS], [(2, 24)]),
    "preprocess": (lambda: Preprocess(24), [(2, 30, 26, 3)], [IMAGES]),
    "network": (lambda: TNT(**NETWORK, **HEADS, **DROPS, drop_path=0.3, embedding_dropout=0.3), [IMAGES], [(2, 5)]),
    "network_remat": (
        lambda: TNT(**NETWORK, **HEADS, **DROPS, drop_path=0.3, remat=True, representation_size=7),
        [IMAGES],
        [(2, 5)],
    ),
    "network_sequence": (
        lambda: TNT(**NETWORK, **HEADS, pool="sequence", initialization="keras", inner_blocks=(2,)),
        [IMAGES],
        [(2, 5)],
    ),
    "classifier": (
        lambda: Classifier(Preprocess(24), TNT(**NETWORK, **HEADS), class_names=tuple("abcde")),
        [(2, 30, 26, 3)],
        [(2, 5)],
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A layer called once, its inputs, the shapes it should return."""
    make, shapes, expected = CASES[request.param]
    random = np.random.default_rng(0)
    inputs = [random.normal(size=shape).astype("float32") for shape in shapes]
    layer = make()
    _call(layer, inputs)
    # Away from zero and one, where a mistake would not show.
    for variable in layer.trainable_variables:
        variable.assign(np.asarray(ops.convert_to_numpy(variable)) + random.normal(0, 0.05, variable.shape))
    return layer, inputs, expected


def _call(layer, inputs):
    """Call the layer, in the way that is fastest on the current backend."""
    if not layer.built:
        layer.build(*(x.shape for x in inputs))
    if keras.backend.backend() == "jax":
        return _compiled(layer, inputs, {})
    return layer(*map(ops.convert_to_tensor, inputs))


def _compiled(layer, inputs, extra, xla=True):
    inputs = [ops.convert_to_tensor(x) for x in inputs]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda *x: layer(*x, **extra), jit_compile=xla)(*inputs)
    if keras.backend.backend() == "jax":
        import jax

        def pure(values, *x):
            with keras.StatelessScope(state_mapping=list(zip(layer.variables, values, strict=True))):
                return layer(*x, **extra)

        return jax.jit(pure)([v.value for v in layer.variables], *inputs)
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    # Keras runs PyTorch without a compiler, and `torch.compile` breaks at each call of a Keras layer; so the graph of
    # PyTorch's own operations is recorded and run. A step's seed becomes a number on the way, which a graph cannot.
    with torch.no_grad():
        return layer(*inputs, **extra) if extra else make_fx(layer)(*inputs)(*inputs)


def _numpy(outputs):
    outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
    return [np.asarray(ops.convert_to_numpy(ops.cast(output, "float32"))) for output in outputs]


def _joined(outputs):
    return np.concatenate([output.ravel() for output in _numpy(outputs)])


def _seeded(layer):
    """Return the keyword arguments of a training call; none for a layer without dropout."""
    if isinstance(layer, keras.Model):
        return {"training": True}
    if isinstance(layer, DropoutLayer | Transformer | TNTBlock | PatchEmbedding):
        return {"seed": ops.convert_to_tensor(np.array([3, 4]), keras.random.SeedGenerator(0).state.dtype)}
    return {}


def test_shapes_and_finite_values_whatever_the_batch(case):
    layer, inputs, expected = case
    outputs = _numpy(_call(layer, inputs))
    assert [output.shape for output in outputs] == expected
    assert all(np.isfinite(output).all() for output in outputs)
    half = _numpy(_call(layer, [x[: len(x) // 2] for x in inputs]))
    for one, other in zip(outputs, half, strict=True):
        np.testing.assert_allclose(one[: len(other)], other, rtol=1e-5, atol=1e-5)


def test_gradient_reaches_every_weight(case, gradients):
    layer, inputs, expected = case
    # Of the last output alone: the pixels that a block returns count only through the patches.
    weights = np.random.default_rng(2).normal(size=expected[-1]).astype("float32")

    def loss():
        outputs = layer(*map(ops.convert_to_tensor, inputs))
        return ops.sum(ops.multiply(outputs[-1] if isinstance(outputs, tuple) else outputs, weights))

    if layer.trainable_variables:
        _, found = gradients(layer, loss)
        for variable, gradient in zip(layer.trainable_variables, found, strict=True):
            assert gradient is not None, variable.path
            assert np.abs(gradient).max() > 0, variable.path


def test_config_is_json_and_rebuilds_the_layer(case):
    layer, inputs, _ = case
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    _call(again, inputs)
    assert [v.shape for v in again.variables] == [v.shape for v in layer.variables]
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(_joined(_call(layer, inputs)), _joined(_call(again, inputs)))


def test_saved_and_loaded_is_bit_equal(case, tmp_path):
    layer, inputs, _ = case
    model = layer if isinstance(layer, keras.Model) else _Wrapped(layer)
    before = _joined(_call(model, inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(before, _joined(_call(loaded, inputs)))


def test_compiled_equals_not_compiled(case):
    layer, inputs, _ = case
    plain = layer(*map(ops.convert_to_tensor, inputs))
    np.testing.assert_allclose(_joined(plain), _joined(_compiled(layer, inputs, {})), rtol=1e-4, atol=1e-4)


def test_compiled_drops_the_same_values(case):
    layer, inputs, _ = case
    if training := _seeded(layer):
        states = [np.asarray(ops.convert_to_numpy(v)) for v in layer.non_trainable_variables]
        plain = layer(*map(ops.convert_to_tensor, inputs), **training)
        for xla in {False, keras.config.backend() == "tensorflow"}:
            for variable, state in zip(layer.non_trainable_variables, states, strict=True):
                variable.assign(state)
            compiled = _compiled(layer, inputs, training, xla=xla)
            np.testing.assert_allclose(_joined(plain), _joined(compiled), rtol=1e-4, atol=1e-4)


def test_mixed_precision(case):
    single, inputs, expected = case
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = type(single).from_config({**single.get_config(), "dtype": "mixed_bfloat16"})
    finally:
        keras.config.set_dtype_policy(policy)
    _call(layer, inputs)
    layer.set_weights(single.get_weights())
    outputs = _call(layer, inputs)
    kinds = {
        keras.backend.standardize_dtype(o.dtype) for o in (outputs if isinstance(outputs, tuple | list) else (outputs,))
    }
    assert kinds == {"float32" if isinstance(layer, keras.Model | Preprocess) else "bfloat16"}
    assert all(v.dtype == "float32" for v in layer.trainable_variables)
    assert [output.shape for output in _numpy(outputs)] == expected
    np.testing.assert_allclose(_joined(_call(single, inputs)), _joined(outputs), rtol=0.1, atol=0.1)


@keras.saving.register_keras_serializable(package="tests")
class DropoutLayer(keras.layers.Layer):
    """The function as a layer."""

    def __init__(self, whole_samples=False, **kwargs):
        super().__init__(**kwargs)
        self.whole_samples = whole_samples

    def build(self, *shapes):
        """There are no weights."""

    def call(self, x, seed=None):
        return dropout(x, 0.3, seed, whole_samples=self.whole_samples)


@keras.saving.register_keras_serializable(package="tests")
class _Wrapped(keras.Model):
    """A model of one layer, since only models are saved."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, *shapes):
        """The layer is built already."""

    def call(self, x, y=None):
        return self.layer(x) if y is None else self.layer(x, y)

    def get_config(self):
        return {"layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["layer"]))
