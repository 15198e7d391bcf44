"""The whole: identity, determinism, compilation of every preset, no dead knob."""

import dataclasses
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from tnt_exp.augmentation import Augmentation
from tnt_exp.config import compose
from tnt_exp.config.augmentation import AugmentationConfig, Fill, Policy

PRESETS = [
    ["none"],
    ["keras_example"],
    ["crop_flip"],
    ["autoaugment"],
    ["trivial"],
    ["paper"],
    ["randaugment", "mixing"],
]
CONF = compose.conf_dir() / "augmentation"


def preset(names: list[str]) -> AugmentationConfig:
    return compose.compose([f"augmentation=[{','.join(names)}]"]).augmentation


@pytest.mark.backend
def test_defaults_only_normalise(images, labels):
    mean, std = [0.3, 0.4, 0.5], [0.2, 0.25, 0.3]
    augmentation = Augmentation(AugmentationConfig(), image_size=32, mean=mean, std=std, num_classes=5, seed=0)
    inputs, targets = augmentation(keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(labels), 0)
    expected = (images / 255 - mean) / std
    np.testing.assert_allclose(keras.ops.convert_to_numpy(inputs), expected, atol=1e-5)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(targets), np.eye(5)[labels])
    assert keras.backend.standardize_dtype(inputs.dtype) == keras.backend.standardize_dtype(targets.dtype) == "float32"


@pytest.mark.backend
@pytest.mark.parametrize(
    "shape", [(32, 32), (20, 20), (37, 37), (50, 50), (40, 30), (30, 43), (47, 32), (70, 33), (9, 31)]
)
def test_images_of_any_shape_are_seen_as_in_evaluation(augment, labels, shape):
    from tnt_exp.model import Preprocess

    given = np.random.default_rng(1).integers(0, 256, (8, *shape, 3), dtype=np.uint8)
    inputs, _ = augment(given=given)
    expected = Preprocess(image_size=32, mean=[0.0], std=[1.0])(keras.ops.convert_to_tensor(given))
    np.testing.assert_allclose(inputs, keras.ops.convert_to_numpy(expected), atol=1e-5)


@pytest.mark.backend
@pytest.mark.parametrize("shear", [0.0, 1e-6])  # with shear, by gathers
def test_a_change_of_geometry_begins_with_the_square_of_evaluation(augment, shear):
    """Half a turn of an image that is wider than high shows its central square, turned."""
    given = np.random.default_rng(1).integers(0, 256, (8, 16, 24, 3), dtype=np.uint8)
    upright = given[:, :, 4:20] / 255
    turned, _ = augment(given=given, size=16, horizontal_flip=1.0, vertical_flip=1.0, shear=shear)
    np.testing.assert_allclose(turned, upright[:, ::-1, ::-1], atol=1e-4)


@pytest.mark.backend
def test_pixels_pass_unchanged_without_augmentation(augment, images):
    inputs, _ = augment()
    np.testing.assert_array_equal(np.round(inputs * 255, 3), images)


@pytest.mark.backend
@pytest.mark.parametrize("names", PRESETS, ids="+".join)
def test_parts_of_a_batch_see_what_the_batch_sees(names, images):
    augmentation = Augmentation(preset(names), image_size=24, mean=[0.5] * 3, std=[0.25] * 3, num_classes=5, seed=1)
    given = keras.ops.convert_to_tensor(images)
    whole = keras.ops.convert_to_numpy(augmentation.augment(None, 3, given))
    half = len(images) // 2
    parts = [augmentation.augment(part, 3, given[part * half : (part + 1) * half]) for part in range(2)]
    found = np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])
    np.testing.assert_allclose(found, whole, atol=1e-5)


@pytest.mark.backend
@pytest.mark.parametrize("fill", Fill)
def test_black_outside_is_black_after_normalisation(images, labels, fill):
    augmentation = Augmentation(
        AugmentationConfig(translation=1.0, fill=fill),
        image_size=32,
        mean=[0.5] * 3,
        std=[0.25] * 3,
        num_classes=5,
        seed=0,
    )
    white = keras.ops.full((8, 32, 32, 3), 255, "uint8")
    inputs, _ = augmentation(white, keras.ops.convert_to_tensor(labels), 1)
    values = set(np.round(np.unique(keras.ops.convert_to_numpy(inputs)), 4))
    assert values == ({2.0, -2.0} if fill is Fill.constant else {2.0})


@pytest.mark.backend
@pytest.mark.parametrize("names", PRESETS, ids="+".join)
def test_every_preset_compiles_and_is_a_function_of_seed_and_step(names, images, labels):
    config = preset(names)

    def build(seed):
        return Augmentation(
            config, image_size=24, mean=[0.5] * 3, std=[0.25] * 3, num_classes=5, label_smoothing=0.1, seed=seed
        )

    call = compiled(build(1))
    given = keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(labels)

    def run(function, step, mixing=1.0):
        outputs = function(*given, scalar(step, "int32"), scalar(mixing, "float32"))
        return [keras.ops.convert_to_numpy(output) for output in outputs]

    inputs, targets = run(call, 3)
    assert inputs.shape == (8, 24, 24, 3)
    assert targets.shape == (8, 5)
    assert np.isfinite(inputs).all()
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-5)
    for again, expected in zip(run(call, 3), (inputs, targets), strict=True):
        np.testing.assert_array_equal(again, expected)
    plain, plain_targets = run(build(1), 3)
    random = names != ["none"]
    assert np.array_equal(run(call, 4)[0], inputs) is not random
    assert np.array_equal(run(build(2), 3)[0], plain) is not random
    # Compiled or not, the same draws; the last bits of arithmetic may differ, and with them a rounded level.
    np.testing.assert_allclose(targets, plain_targets, atol=1e-5)
    assert np.mean(np.abs(plain - inputs) > 0.05) < 0.01


def scalar(value, dtype):
    return keras.ops.convert_to_tensor(np.asarray(value, dtype))


def compiled(augmentation):
    """Compile with XLA where the backend has it."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(augmentation, jit_compile=True, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(augmentation)
    return augmentation


@pytest.mark.backend
@pytest.mark.parametrize("names", PRESETS, ids="+".join)
def test_grey_images_of_any_shape(names):
    augmentation = Augmentation(preset(names), image_size=16, mean=[0.5], std=[0.25], num_classes=3, seed=1)
    grey = np.random.default_rng(0).integers(0, 256, (3, 20, 28, 1)).astype("uint8")
    inputs, _ = augmentation(keras.ops.convert_to_tensor(grey), keras.ops.convert_to_tensor([0, 1, 2]), 5)
    assert tuple(inputs.shape) == (3, 16, 16, 1)
    assert np.isfinite(keras.ops.convert_to_numpy(inputs)).all()


# For each field: what else has to be set for it to matter, and a value other than the default.
RANDAUGMENT = {"policy": Policy.randaugment}
KNOBS = {
    "fill": ({"translation": 0.5}, Fill.reflect),
    "horizontal_flip": ({}, 0.5),
    "vertical_flip": ({}, 0.5),
    "rotation": ({}, 20.0),
    "zoom": ({}, 0.3),
    "shear": ({}, 20.0),
    "translation": ({}, 0.2),
    "crop_padding": ({}, 4),
    "crop_scale": ({}, [0.3, 0.9]),
    "crop_ratio": ({"crop_scale": [0.3, 0.9]}, [1.0, 1.01]),
    "brightness": ({}, 0.4),
    "contrast": ({}, 0.4),
    "saturation": ({}, 0.4),
    "hue": ({}, 0.2),
    "policy": ({}, Policy.randaugment),
    "policy_magnitude": (RANDAUGMENT, 3.0),
    "policy_operations": (RANDAUGMENT, 1),
    "policy_magnitude_std": (RANDAUGMENT, 1.0),
    "policy_increasing": (RANDAUGMENT, False),
    "erasing": ({}, 0.5),
    "mixup": ({}, 0.8),
    "cutmix": ({}, 1.0),
    "cutmix_probability": ({"mixup": 0.8, "cutmix": 1.0}, 0.0),
    "mix_probability": ({"mixup": 0.8}, 0.1),
}
# The name is a tag of the run; the training loop turns mixing off by the argument `mixing`, and the order of the images
# repeats them.
ELSEWHERE = {"name", "mix_off_epochs", "repeats"}


def test_every_field_is_known_here():
    assert set(KNOBS) | ELSEWHERE == {field.name for field in dataclasses.fields(AugmentationConfig)}


@pytest.mark.backend
@pytest.mark.parametrize("field", KNOBS)
def test_no_knob_is_dead(augment, field):
    base, value = KNOBS[field]
    # Lazy: the first step that differs is enough.
    pairs = ((augment(step=step, **base)[0], augment(step=step, **base | {field: value})[0]) for step in range(8))
    assert any(not np.array_equal(before, after) for before, after in pairs)


@pytest.mark.backend
@pytest.mark.parametrize("policy", [Policy.autoaugment, Policy.trivial])
def test_policies_differ(augment, policy):
    assert not np.array_equal(augment(policy=policy)[0], augment(policy=Policy.randaugment)[0])


@pytest.mark.backend
def test_turning_one_change_on_leaves_the_draws_of_the_others(augment, images):
    alone, _ = augment(horizontal_flip=0.5)
    with_noise, _ = augment(horizontal_flip=0.5, erasing=0.5)
    untouched = [np.array_equal(a, b) for a, b in zip(alone, with_noise, strict=True)]
    assert 0 < sum(untouched) < len(images)
    flipped = images[:, :, ::-1] / np.float32(255)
    assert all(
        np.allclose(a, i / 255, atol=1e-5) or np.allclose(a, f, atol=1e-5)
        for a, i, f in zip(alone, images, flipped, strict=True)
    )


def test_presets_are_all_here_and_say_what_they_are():
    files = {path.stem: path.read_text() for path in Path(CONF).glob("*.yaml")}
    assert set(files) == {name for names in PRESETS for name in names}
    for name, text in files.items():
        assert text.startswith("# "), name
        if name != "mixing":
            assert re.search(r"^defaults: \[base_augmentation, _self_\]$", text, re.M), name
            assert preset([name]).name == name


def test_mixing_adds_to_any_preset_and_changes_nothing_else():
    for name in ("none", "randaugment", "paper"):
        alone, mixed = preset([name]), preset([name, "mixing"])
        assert (mixed.mixup, mixed.cutmix) == (0.8, 1.0)
        assert dataclasses.replace(mixed, mixup=alone.mixup, cutmix=alone.cutmix) == alone
    weak = compose.compose(["augmentation=[crop_flip,mixing]", "augmentation.cutmix=0.3"]).augmentation
    assert (weak.name, weak.crop_padding, weak.mixup, weak.cutmix) == ("crop_flip", 4, 0.8, 0.3)


def test_keras_example_is_the_example():
    config = preset(["keras_example"])
    expected = AugmentationConfig(
        name="keras_example", fill=Fill.reflect, horizontal_flip=0.5, rotation=36.0, zoom=0.2, contrast=0.1
    )
    assert config == expected
