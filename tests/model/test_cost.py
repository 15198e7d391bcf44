"""Parameters and arithmetic: exact for every preset, equal to the built model for any configuration."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.config.compose import conf_dir
from tnt_exp.config.model import Fusion, HeadWidth, ModelConfig, Pool, Stem
from tnt_exp.model import build, cost
from tnt_exp.model.tnt_config import TNTConfig, network_options

# preset: (classes, channels, parameters)
PARAMETERS = {
    "keras_example": (100, 3, 660_164),
    "tnt_ti": (1000, 3, 6_076_408),
    "tnt_s": (1000, 3, 23_768_584),
    "tnt_s_legacy": (1000, 3, 23_755_336),
    "tnt_b": (1000, 3, 65_428_680),
    "cifar_small": (100, 3, 649_220),
    "cifar_fast": (100, 3, 620_084),
    "cifar_large": (100, 3, 3_795_412),
    "photo_small": (10, 3, 318_122),
    "digits": (10, 1, 147_546),
    "tiny": (10, 1, 10_730),
}


def test_no_preset_is_missing():
    assert {path.stem for path in (conf_dir() / "model").glob("*.yaml")} == PARAMETERS.keys()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_presets(preset, name):
    classes, channels, expected = PARAMETERS[name]
    config = preset(name)
    assert cost.parameters(config, classes, channels) == expected
    assert build(config, classes, channels).count_params() == expected


def test_parts_of_the_keras_example(preset):
    parts = {part.name: part.parameters for part in cost.cost_items(preset("keras_example"), 100, 3)}
    assert parts["pixel_embedding"] == 4_736 + 1_184
    assert parts["patch_embedding"] == 256 + 8_256 + 128 + 13_376
    assert [parts[f"block_{number}"] for number in range(1, 6)] == [125_120] * 5
    assert parts["head"] == 128 + 6_500


@pytest.mark.parametrize(
    ("name", "limit", "pixels"),
    [("cifar_small", 660_164, 16), ("cifar_fast", 660_164, 4), ("cifar_large", 3_800_000, 16)],
)
def test_presets_for_small_images_keep_their_size(preset, name, limit, pixels):
    config = preset(name)
    assert cost.parameters(config, 100, 3) <= limit
    assert config.image_size == 32
    assert TNTConfig(100, **network_options(config)).pixels == pixels


@pytest.mark.parametrize("name", PARAMETERS)
def test_headers_of_presets_are_true(preset, name):
    classes, channels, parameters = PARAMETERS[name]
    header = (conf_dir() / "model" / f"{name}.yaml").read_text().split("defaults:")[0]
    macs = cost.macs(preset(name), classes, channels)
    scaled = f"{macs / 1e9:.2f} G" if macs >= 1e9 else f"{macs / 1e6:.1f} M"
    assert f"{parameters:,} parameters, {scaled} MACs" in header


def _normalised(config):
    """Values that go through a layer normalisation for one image."""
    network = TNTConfig(100, **network_options(config))
    pixels = network.patches * network.pixels * config.inner_dim
    patches = network.patches * config.embed_dim
    tokens = (network.patches + 1) * config.embed_dim
    last = patches if config.fusion is Fusion.norm_dense_norm else 0
    return pixels + patches + config.depth * (3 * pixels + last + 2 * tokens) + tokens


@pytest.mark.parametrize(
    ("name", "overrides", "classes", "norm", "published"),
    [
        ("keras_example", [], 100, 0, "183.5 M"),
        ("keras_example", ["model.head_width=split"], 100, 0, "95.8 M"),
        ("tnt_ti", [], 1000, 0, "1.4 G"),
        # Published for timm's networks by a counter that adds 5 operations for each normalised value.
        ("tnt_s", [], 1000, 5, "5.25 G"),
        ("tnt_s_legacy", [], 1000, 5, "5.24 G"),
        ("tnt_b", [], 1000, 5, "14.1 G"),
    ],
)
def test_macs_agree_with_published_figures(preset, name, overrides, classes, norm, published):
    config = preset(name, *overrides)
    number, unit = published.split()
    operations = cost.macs(config, classes, 3) + norm * _normalised(config)
    decimals = len(number.split(".")[1])
    assert f"{operations / {'M': 1e6, 'G': 1e9}[unit]:.{decimals}f}" == number


@st.composite
def configurations(draw):
    """Any small network that can be built."""
    number = lambda low, high: draw(st.integers(low, high))  # noqa: E731
    stride, heads, inner_heads, depth = number(1, 3), number(1, 4), number(1, 3), number(1, 3)
    patch_size = stride * number(2, 3)
    blocks = st.sets(st.integers(1, depth), min_size=1).map(sorted)
    return ModelConfig(
        image_size=patch_size * number(2, 3),
        patch_size=patch_size,
        stride=stride,
        depth=depth,
        embed_dim=heads * number(2, 5),
        inner_dim=inner_heads * number(1, 4),
        num_heads=heads,
        inner_num_heads=inner_heads,
        head_width=draw(st.sampled_from(HeadWidth)),
        mlp_ratio=draw(st.sampled_from([1.0, 1.5, 4.0])),
        qkv_bias=draw(st.booleans()),
        inner_blocks=draw(st.none() | blocks),
        stem=draw(st.sampled_from(Stem)),
        pixel_projection=draw(st.booleans()),
        patch_projection=draw(st.booleans()),
        pixel_position=draw(st.booleans()),
        patch_position=draw(st.booleans()),
        fusion=draw(st.sampled_from(Fusion)),
        pool=draw(st.sampled_from(Pool)),
        representation_size=draw(st.none() | st.integers(1, 7)),
    )


@settings(max_examples=30, deadline=None)
@given(configurations(), st.integers(1, 6), st.integers(1, 4))
def test_parameters_of_any_network(config, classes, channels):
    assert cost.parameters(config, classes, channels) == build(config, classes, channels).count_params()


def test_impossible_configurations_are_refused_without_keras(preset):
    with pytest.raises(ValueError, match="Expected patch_size to divide image_size=8, received: patch_size=3"):
        cost.parameters(preset("tiny", "model.patch_size=3", "model.stride=1"), 10, 1)


def test_activation_memory_follows_the_network(preset):
    tiny = cost.activation_bytes(preset("tiny"), 10, 1)
    assert cost.activation_bytes(preset("tiny"), 10, 1, width=2) * 2 == tiny
    assert cost.activation_bytes(preset("tiny", "model.depth=4"), 10, 1) > 1.8 * tiny
    deep = preset("tiny", "model.depth=12")
    assert cost.activation_bytes(deep, 10, 1, remat=True) < cost.activation_bytes(deep, 10, 1) / 4


def test_counting_imports_no_keras():
    code = "import sys, tnt_exp.model.cost; sys.exit('keras' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
