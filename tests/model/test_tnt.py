"""Each argument of TNT does what it says, and none is ignored in silence."""

import dataclasses
import inspect
import warnings

import numpy as np
import pytest
from keras import ops

from tnt_exp.config.model import ModelConfig
from tnt_exp.errors import UserError
from tnt_exp.model import TNT, build
from tnt_exp.model.blocks import Transformer
from tnt_exp.model.tnt_config import TNTConfig, network_options

# The small network: D 24, C 6, N 9 patches, M 16 pixels per patch, so M C = 96.
_BLOCK = lambda dim: 12 * dim**2 + 6 * dim + 4 * dim  # noqa: E731  (four matrices and a bias; an MLP; two norms)
_FUSION = 2 * 96 + 96 * 24 + 2 * 24
_INNER = _BLOCK(6) + _FUSION

# argument: (another value, what it adds to the parameters)
STRUCTURE = {
    "num_classes": (7, 2 * 25),
    "channels": (1, -2 * 49 * 6),
    "image_size": (32, 7 * 24),
    "patch_size": (4, 27 * 24 - 12 * 6 - 3 * (2 + 24) * 72),
    "stride": (4, -12 * 6 - 3 * (2 + 24) * 72),
    "depth": (3, _INNER + _BLOCK(24)),
    "embed_dim": (28, None),
    "inner_dim": (9, None),
    "num_heads": (2, 0),
    "inner_num_heads": (2, 0),
    "head_width": ("full", 2 * (4 * 24 * 24 * 3 + 4 * 6 * 6 * 2)),
    "mlp_ratio": (2.0, -2 * sum(2 * dim * 2 * dim + 2 * dim for dim in (24, 6))),
    "qkv_bias": (True, 2 * 3 * (24 + 6)),
    "inner_blocks": ((2,), -_INNER),
    "stem": ("image", 0),
    "pixel_projection": (True, 6 * 6 + 6),
    "patch_projection": (True, 24 * 24 + 24),
    "pixel_position": (False, -16 * 6),
    "patch_position": (False, -10 * 24),
    "fusion": ("norm_dense", 2 * (24 - 48)),
    "pool": ("average", -2 * 24),
    "representation_size": (7, 24 * 7 + 7 + 7 * 5 - 24 * 5),
    "initialization": ("keras", 0),
    "seed": (1, 0),
}
DROPOUTS = ("drop_path", "embedding_dropout", "attention_dropout", "mlp_dropout")


def _logits(network, images, **call):
    return np.asarray(ops.convert_to_numpy(network(ops.convert_to_tensor(images), **call)))


def _stir(network):
    """Weights large enough that attention is not nearly even, and the same in networks of the same shapes."""
    random = np.random.default_rng(0)
    for variable in network.trainable_variables:
        variable.assign(random.normal(0, 0.5, variable.shape))


def test_no_argument_is_missing_here():
    own = set(inspect.signature(TNT.__init__).parameters) - {"self", "options"}
    fields = {field.name for field in dataclasses.fields(TNTConfig)}
    assert own | fields == STRUCTURE.keys() | set(DROPOUTS) | {"remat"}


def test_defaults_are_those_of_the_configuration():
    defaults = {field.name: field.default for field in dataclasses.fields(TNTConfig)}
    for name, value in network_options(ModelConfig()).items():
        assert defaults[name] == value, name


def test_each_key_of_the_configuration_reaches_the_model():
    keys = {field.name for field in dataclasses.fields(ModelConfig)}
    reached = network_options(ModelConfig()).keys() | {"mean", "std", "interpolation", "crop_fraction"}
    assert keys == reached | {"name", "weights"}  # a tag, and what `load_weights` reads


@pytest.mark.parametrize("name", STRUCTURE)
def test_structure(small, images, name):
    value, added = STRUCTURE[name]
    before, after = small(), small(**{name: value})
    if added is None:
        assert after.count_params() > before.count_params()
    else:
        assert after.count_params() - before.count_params() == added
    if name == "image_size":
        images = np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype("float32")
    if name == "channels":
        images = images[..., :1]
    logits = _logits(after, images)
    assert logits.shape == (3, 7 if name == "num_classes" else 5)
    if name not in ("num_classes", "image_size", "channels"):
        for network in (before, after) if name not in ("initialization", "seed") else ():
            _stir(network)
        assert np.abs(_logits(after, images) - _logits(before, images)).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "value", "added"),
    [
        ("stem", "image_same", 0),
        ("fusion", "pixel_norm_dense", 2 * (12 - 192 + 24 - 48)),
        ("pool", "sequence", 24 - 2 * 24),
    ],
)
def test_other_kinds(small, images, name, value, added):
    first, second, third = small(), small(**{name: STRUCTURE[name][0]}), small(**{name: value})
    assert third.count_params() - first.count_params() == added
    for network in (first, second, third):
        _stir(network)
    assert np.abs(_logits(third, images) - _logits(first, images)).max() > 1e-3
    assert np.abs(_logits(third, images) - _logits(second, images)).max() > 1e-3


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropouts_act_in_training_alone(small, images, name):
    plain, dropping = small(), small(**{name: 0.5})
    assert dropping.count_params() == plain.count_params()
    np.testing.assert_array_equal(_logits(dropping, images), _logits(plain, images))
    first, second = (_logits(dropping, images, training=True) for _ in range(2))
    assert np.abs(first - _logits(plain, images, training=True)).max() > 1e-4
    assert np.abs(first - second).max() > 1e-4  # another step, other values


def test_drop_path_grows_from_the_first_block(small):
    network = small(depth=5, drop_path=0.2)
    rates = [float(network._drop_path_rate(number)) for number in range(5)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.15, 0.2], rtol=1e-6)


def test_drop_path_drops_whole_sequences(images):
    block = Transformer(TNTConfig(5), 24, 4)
    x = np.random.default_rng(0).normal(size=(400, 10, 24)).astype("float32")
    seed = ops.convert_to_tensor(np.array([1, 2], "int32"))
    kept = [
        (np.abs(np.asarray(ops.convert_to_numpy(block(x, ops.convert_to_tensor(rate, "float32"), seed))) - x) > 0)
        for rate in (0.0, 0.5)
    ]
    assert kept[0].mean() > 0.99
    moved = kept[1].any(axis=(1, 2))
    assert (kept[1].mean(axis=(1, 2))[moved] > 0.99).all()
    assert moved.mean() == pytest.approx(0.75, abs=0.08)  # one of the two branches is kept


def test_one_seed_one_model(small, images):
    options = dict.fromkeys(DROPOUTS, 0.3)
    first, second, other = small(**options), small(**options), small(**options, seed=1)
    for one, same, different in zip(first.weights, second.weights, other.weights, strict=True):
        np.testing.assert_array_equal(*(np.asarray(ops.convert_to_numpy(v)) for v in (one, same)))
        if one.path.endswith(("kernel", "positions", "token")):
            assert not np.array_equal(*(np.asarray(ops.convert_to_numpy(v)) for v in (one, different)))
    for _ in range(2):
        logits = [_logits(network, images, training=True) for network in (first, second, other)]
        np.testing.assert_array_equal(logits[0], logits[1])
        assert not np.array_equal(logits[0], logits[2])


def test_pixels_pass_a_block_without_inner_transformer(small, images, block_outputs):
    network = small(depth=3, inner_blocks=(2,))
    first, second, third = (np.asarray(ops.convert_to_numpy(p)) for p, _ in block_outputs(network, images))
    start = np.asarray(ops.convert_to_numpy(network.pixel_embedding(images)))
    np.testing.assert_array_equal(first, start)
    assert np.abs(second - first).max() > 1e-3
    np.testing.assert_array_equal(third, second)
    assert [hasattr(block, "fusion") for block in network.blocks] == [False, True, False]


def test_all_blocks_named_is_all_blocks(small, images):
    np.testing.assert_array_equal(_logits(small(inner_blocks=(1, 2)), images), _logits(small(), images))


def test_class_token_gets_no_fused_feature(small, images):
    network = small(depth=1)
    pixels = network.pixel_embedding(images)
    fused = np.asarray(ops.convert_to_numpy(network.blocks[0].fusion(pixels)))
    assert fused.shape == (3, 10, 24)
    assert (fused[:, 0] == 0).all()
    assert (np.abs(fused[:, 1:]).max(axis=2) > 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 7}, "Expected patch_size to divide image_size=24, received: patch_size=7"),
        ({"stride": 3}, "Expected stride to divide patch_size=8, received: stride=3"),
        ({"num_heads": 5}, "Expected the number of heads to divide the width 24, received: 5 heads"),
        ({"inner_num_heads": 4}, "Expected the number of heads to divide the width 6, received: 4 heads"),
        ({"head_width": "half"}, "Expected head_width"),
        ({"mlp_ratio": 0.1}, "Expected mlp_ratio"),
        ({"inner_blocks": ()}, "Expected inner_blocks"),
        ({"inner_blocks": (0,)}, "Expected inner_blocks"),
        ({"inner_blocks": (1, 1)}, "Expected inner_blocks"),
        ({"inner_blocks": (3,)}, r"from 1 to depth=2, at least one, received: inner_blocks=\(3,\)"),
        ({"stem": "conv"}, "Expected stem to be one of"),
        ({"fusion": "sum"}, "Expected fusion to be one of"),
        ({"pool": "max"}, "Expected pool to be one of"),
        ({"initialization": "zeros"}, "Expected initialization to be one of"),
        ({"mlp_dropout": 1.0}, "Expected a dropout rate"),
        ({"drop_path": -0.1}, "Expected a dropout rate"),
    ],
)
def test_impossible_arguments(small, changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 1, "drop_path": 0.1}, "drop_path has no effect at depth=1"),
        ({"stride": 8}, "one pixel token"),
        ({"patch_size": 24, "pool": "average"}, "one patch token"),
    ],
)
def test_ineffective_arguments_warn(small, changes, message):
    with pytest.warns(UserWarning, match=message):
        small(**changes)


def test_one_patch_with_a_class_token_is_useful(small):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(patch_size=24)


def test_builder_names_the_section(preset):
    config = preset("tiny", "model.num_heads=3")
    with pytest.raises(UserError, match=r"model: Expected the number of heads"):
        build(config, 10, 1)


def test_full_heads_need_not_divide():
    assert TNTConfig(10, head_width="full").head_dim(24, 5) == 24


def test_blocks_are_counted_from_one():
    assert TNTConfig(10, depth=4, inner_blocks=(1, 4)).inner_block_mask == (True, False, False, True)


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
    acted = _numpy(ops.add(*attention(norm.standardize(fused), norm=norm))).reshape(3, 10, 24)
    np.testing.assert_allclose(acted, expected, rtol=1e-4, atol=1e-4)
